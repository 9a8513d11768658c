//! How a packet lies in memory: net buffer lists, buffers, MDLs and data.
//!
//! Data ends where a page that nobody may touch begins, so an overrun traps; what lies before it is checked afterwards, as is
//! everything that the driver has to leave as it was.

use std::ptr;

use super::chain;
use super::layout::{
    INFO_CHECKSUM, INFO_LARGE_SEND, INFO_UDP_COALESCED, INFO_UDP_SEGMENTATION, Mdl, NetBuffer,
    NetBufferData, NetBufferList, PAGE,
};
use crate::access::{Out, POISON};
use crate::net::{MAX_MORE, Offload};

/// How the data of a packet is spread over MDLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MdlLayout {
    /// One MDL in nonpaged pool, as most adapters indicate received packets.
    #[default]
    Whole,
    /// Up to four MDLs, cut anywhere, with unused space before the data, some not mapped, and stream data in up
    /// to two lists: everything that is allowed. The same seed gives the same cuts.
    Seeded(u64),
}

impl MdlLayout {
    /// The layout for one of several processors: each has cuts of its own.
    pub(crate) const fn for_processor(self, processor: u32) -> Self {
        match self {
            Self::Whole => Self::Whole,
            Self::Seeded(seed) => Self::Seeded(seed ^ ((processor as u64) << 32)),
        }
    }
}

/// What a packet is to show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contents<'a> {
    /// All bytes.
    pub(crate) bytes: &'a [u8],
    /// Where the data begins in them.
    pub(crate) start: usize,
    /// The bytes before the start are not there yet: a driver that retreats finds nothing useful.
    pub(crate) hide_before: bool,
    /// Whether the bytes may be spread over several lists.
    pub(crate) lists: bool,
    /// What the network card is left to do, or has done.
    pub(crate) offload: Offload,
    /// Packets behind the first one in its list, a net buffer each, whose data begins where the first one's does.
    pub(crate) more: &'a [Vec<u8>],
}

impl<'a> Contents<'a> {
    /// A packet by itself of which all is there, with nothing done or left by the card.
    pub(crate) fn of(bytes: &'a [u8], start: usize) -> Self {
        Self {
            bytes,
            start: start.min(bytes.len()),
            hide_before: false,
            lists: false,
            offload: Offload::NONE,
            more: &[],
        }
    }

    /// The bytes that MDL `index` has a part of.
    fn of_mdl(&self, index: usize) -> &'a [u8] {
        let behind = index.checked_sub(1).and_then(|index| self.more.get(index));
        behind.map_or(self.bytes, Vec::as_slice)
    }
}

const MAX_LISTS: usize = 2;
const MAX_MDLS: usize = 1 + MAX_MORE;
/// Bytes before each MDL's buffer that must not change.
const FENCE: usize = 16;
const FENCE_BYTE: u8 = 0xfd;
/// Most unused bytes that a seeded layout leaves before the data.
const MAX_SLACK: usize = 64;
/// The capacity that a packet begins with: any IP packet fits.
const CAPACITY: usize = 0x10000;

/// The structures that a driver sees.
#[repr(C)]
struct Frame {
    lists: [NetBufferList; MAX_LISTS],
    buffers: [NetBuffer; MAX_MDLS],
    mdls: [Mdl; MAX_MDLS],
}

/// One mapping: a page with the frame, then for each MDL room that ends at a guard page.
#[derive(Debug)]
struct Region {
    base: *mut u8,
    capacity: usize,
}

// SAFETY: owned memory that is accessed through copies only.
unsafe impl Send for Region {}
// SAFETY: as above; who fills it has it to himself (see `Packet`).
unsafe impl Sync for Region {}

const _: () = assert!(size_of::<Frame>() <= PAGE);

impl Region {
    fn new(capacity: usize) -> std::io::Result<Self> {
        let room = Self::room(capacity);
        let length = PAGE + MAX_MDLS * (room + PAGE);
        // SAFETY: a fresh anonymous mapping has no preconditions.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let region = Self {
            base: base.cast(),
            capacity,
        };
        for index in 0..MAX_MDLS {
            let guard = region.end(index);
            // SAFETY: the page lies in the mapping just made and holds nothing.
            let protected = unsafe { libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE) };
            if protected != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(region)
    }

    /// Bytes, in whole pages, for data of `capacity` bytes.
    const fn room(capacity: usize) -> usize {
        (capacity + MAX_SLACK + FENCE).next_multiple_of(PAGE)
    }

    /// Where the room of MDL `index` ends and its guard page begins.
    const fn end(&self, index: usize) -> *mut u8 {
        self.base.wrapping_add(
            PAGE + index * (Self::room(self.capacity) + PAGE) + Self::room(self.capacity),
        )
    }

    const fn frame(&self) -> *mut Frame {
        self.base.cast()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let length = PAGE + MAX_MDLS * (Self::room(self.capacity) + PAGE);
        // SAFETY: mapped in `new` with this length; no driver holds a reference any more.
        unsafe { libc::munmap(self.base.cast(), length) };
    }
}

/// Where a part of the data lies.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Unused bytes before it.
    slack: usize,
    /// Which bytes of the contents.
    from: usize,
    to: usize,
}

/// How the contents are spread at present.
#[derive(Debug)]
pub(super) struct Spread {
    region: Region,
    parts: [Part; MAX_MDLS],
    used: usize,
    lists: usize,
    /// The net buffers: all of one list, or one of each.
    buffers: [Option<NetBufferData>; MAX_MDLS],
    hidden: Vec<u8>,
    random: u64,
}

impl Spread {
    /// Memory for any IP packet.
    pub(super) fn new(layout: MdlLayout) -> std::io::Result<Self> {
        let random = match layout {
            MdlLayout::Whole => 0,
            MdlLayout::Seeded(seed) => seed,
        };
        Ok(Self {
            region: Region::new(CAPACITY)?,
            parts: [Part::default(); MAX_MDLS],
            used: 0,
            lists: 0,
            buffers: [None; MAX_MDLS],
            hidden: Vec::new(),
            random,
        })
    }

    /// Where the memory that it was made with begins.
    pub(super) fn address(&self) -> usize {
        self.region.base as usize
    }

    /// Whether one of its lists is at `list`.
    pub(super) fn has(&self, list: usize) -> bool {
        let first = self.list(0).address();
        (first..first + MAX_LISTS * size_of::<NetBufferList>()).contains(&list)
    }

    /// The bytes before its data that drivers are not shown.
    pub(super) fn hidden(&self) -> &[u8] {
        &self.hidden
    }

    fn next_random(&mut self, below: usize) -> usize {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % below.max(1) as u64).unwrap_or(0)
    }

    /// Decides how the bytes are spread.
    fn cut(&mut self, layout: MdlLayout, contents: Contents<'_>) -> bool {
        let length = contents.bytes.len();
        self.used = 1;
        self.lists = 1;
        self.parts[0] = Part {
            slack: 0,
            from: 0,
            to: length,
        };
        for (index, bytes) in contents.more.iter().enumerate().take(MAX_MORE) {
            self.parts[index + 1] = Part {
                slack: 0,
                from: 0,
                to: bytes.len(),
            };
            self.used += 1;
        }
        if layout == MdlLayout::Whole {
            return true;
        }
        for index in 0..self.used {
            self.parts[index].slack = self.next_random(MAX_SLACK + 1);
        }
        if self.used > 1 {
            return self.next_random(4) != 0;
        }
        let mut cuts = [0; MAX_MDLS - 1];
        let count = self.next_random(MAX_MDLS);
        for cut in &mut cuts[..count] {
            *cut = self.next_random(length + 1);
        }
        cuts[..count].sort_unstable();
        for &cut in &cuts[..count] {
            let last = self.used - 1;
            if cut > self.parts[last].from && cut < length {
                self.parts[last].to = cut;
                self.parts[self.used] = Part {
                    slack: 0,
                    from: cut,
                    to: length,
                };
                self.used += 1;
            }
        }
        // A second list begins with the last part.
        if contents.lists && self.used > 1 && self.next_random(2) == 0 {
            self.lists = 2;
        }
        self.next_random(4) != 0
    }

    /// Writes `contents` into the memory.
    pub(super) fn fill(&mut self, layout: MdlLayout, contents: Contents<'_>) {
        if contents.bytes.len() > self.region.capacity {
            // More than any IP packet: a stream for which a callout wanted more data.
            if let Ok(region) = Region::new(contents.bytes.len().next_power_of_two()) {
                self.region = region;
            }
        }
        let mapped = self.cut(layout, contents);
        self.hidden.clear();
        if contents.hide_before {
            self.hidden
                .extend_from_slice(&contents.bytes[..contents.start]);
        }
        for index in 0..self.used {
            let part = self.parts[index];
            self.fill_part(index, part, contents);
            let is_last_of_buffer = index + 1 == self.used
                || !contents.more.is_empty()
                || self.lists == 2 && index + 2 == self.used;
            let next = if is_last_of_buffer {
                Out::null()
            } else {
                self.mdl(index + 1)
            };
            let bytes = u32::try_from(part.slack + part.to - part.from).unwrap_or(u32::MAX);
            let mut mdl = if mapped {
                Mdl::for_nonpaged(self.start(index), bytes)
            } else {
                Mdl::unmapped(self.start(index), bytes)
            };
            mdl.next = next;
            self.mdl(index).set(mdl);
        }
        self.buffers = [None; MAX_MDLS];
        let buffers = if contents.more.is_empty() {
            self.lists
        } else {
            self.used
        };
        for index in (0..buffers).rev() {
            self.fill_buffer(index, buffers, contents);
        }
        for index in 0..self.lists {
            let mut list = NetBufferList::of(self.buffer(index), 0);
            list.info[INFO_CHECKSUM] = contents.offload.checksum as usize;
            list.info[INFO_LARGE_SEND] = contents.offload.large_send as usize;
            list.info[INFO_UDP_COALESCED] = contents.offload.coalesced as usize;
            list.info[INFO_UDP_SEGMENTATION] = contents.offload.segmentation as usize;
            if index + 1 < self.lists {
                list.next = self.list(index + 1);
            }
            self.list(index).set(list);
        }
    }

    /// Fills net buffer `index` of `count`.
    fn fill_buffer(&mut self, index: usize, count: usize, contents: Contents<'_>) {
        let is_packet = index == 0 || !contents.more.is_empty();
        let first = if is_packet { index } else { self.used - 1 };
        let from = self.parts[first].from;
        let to = if self.lists == 2 && index == 0 {
            self.parts[self.used - 1].from
        } else {
            contents.of_mdl(first).len()
        };
        let start = if is_packet { contents.start } else { from };
        let offset = u32::try_from(self.parts[first].slack + start - from).unwrap_or(u32::MAX);
        let mut buffer = super::pool::positioned(0, self.mdl(first), offset, to - start);
        if self.lists == 1 && index + 1 < count {
            buffer.data.next = self.buffer(index + 1);
        }
        self.buffers[index] = Some(buffer.data);
        self.buffer(index).set(buffer);
    }

    fn fill_part(&self, index: usize, part: Part, contents: Contents<'_>) {
        let start = self.start(index);
        let before: Out<u8> = start.offset(0usize.wrapping_sub(FENCE));
        before.copy_from(&[FENCE_BYTE; FENCE]);
        start.copy_from(&[POISON; MAX_SLACK][..part.slack]);
        let data: Out<u8> = start.offset(part.slack);
        data.copy_from(&contents.of_mdl(index)[part.from..part.to]);
        if contents.hide_before && part.from < contents.start {
            for at in part.from..part.to.min(contents.start) {
                data.offset::<u8>(at - part.from).set(POISON);
            }
        }
    }

    /// What differs from how it was filled.
    pub(super) fn changed(&self, contents: Contents<'_>) -> Option<&'static str> {
        for index in 0..self.lists {
            let list = self.list(index).get()?;
            let next = if index + 1 < self.lists {
                self.list(index + 1)
            } else {
                Out::null()
            };
            if list.first != self.buffer(index) || list.next != next {
                return Some("its list of net buffers was changed");
            }
        }
        for (index, filled) in self.buffers.iter().enumerate() {
            if filled.is_some() && chain::data_of(self.buffer(index)) != *filled {
                return Some("the offset, length or MDL chain of a net buffer was not put back");
            }
        }
        for index in 0..self.used {
            let part = self.parts[index];
            let mdl = self.mdl(index).get()?;
            if mdl.buffer() != self.start(index)
                || mdl.byte_count as usize != part.slack + part.to - part.from
            {
                return Some("one of its MDLs was changed");
            }
            let before: Out<u8> = self.start(index).offset(0usize.wrapping_sub(FENCE));
            if !same(before, &[FENCE_BYTE; FENCE]) {
                return Some("bytes before the buffer of one of its MDLs were written");
            }
            let shown = part
                .from
                .max(if contents.hide_before {
                    contents.start
                } else {
                    0
                })
                .min(part.to);
            let data = self
                .start(index)
                .offset::<u8>(part.slack + shown - part.from);
            if !same(data, &contents.of_mdl(index)[shown..part.to]) {
                return Some("its data was changed in place");
            }
        }
        None
    }

    /// Makes stale use of the structures trap.
    pub(super) fn poison(&self) {
        let stale = Out::<NetBuffer>::null().offset(usize::from_ne_bytes([POISON; 8]));
        for index in 0..self.lists {
            self.list(index)
                .offset::<Out<NetBuffer>>(std::mem::offset_of!(NetBufferList, first))
                .set(stale);
        }
    }

    /// Where the buffer of MDL `index` begins.
    const fn start(&self, index: usize) -> Out<u8> {
        let part = self.parts[index];
        let start = self
            .region
            .end(index)
            .wrapping_sub(part.slack + part.to - part.from);
        // SAFETY: in the mapping, which outlives every use, and never borrowed.
        unsafe { Out::new(start) }
    }

    pub(super) fn list(&self, index: usize) -> Out<NetBufferList> {
        // SAFETY: within the frame, which lies in the mapping; no reference is made.
        let at = unsafe { &raw mut (*self.region.frame()).lists[index] };
        // SAFETY: in the mapping, which outlives every use, and never borrowed.
        unsafe { Out::new(at) }
    }

    fn buffer(&self, index: usize) -> Out<NetBuffer> {
        // SAFETY: within the frame, which lies in the mapping; no reference is made.
        let at = unsafe { &raw mut (*self.region.frame()).buffers[index] };
        // SAFETY: in the mapping, which outlives every use, and never borrowed.
        unsafe { Out::new(at) }
    }

    fn mdl(&self, index: usize) -> Out<Mdl> {
        // SAFETY: within the frame, which lies in the mapping; no reference is made.
        let at = unsafe { &raw mut (*self.region.frame()).mdls[index] };
        // SAFETY: in the mapping, which outlives every use, and never borrowed.
        unsafe { Out::new(at) }
    }
}

/// Whether the memory at `at` holds `bytes`.
fn same(at: Out<u8>, bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    // SAFETY: `at` lies in a packet's mapping, with at least as many bytes behind it.
    let differs = unsafe {
        libc::memcmp(
            at.address() as *const libc::c_void,
            bytes.as_ptr().cast(),
            bytes.len(),
        )
    };
    differs == 0
}
