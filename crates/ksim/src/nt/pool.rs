//! The pool: where every block is, who allocated it, and whether its surroundings are intact.
//!
//! In [`PoolMode::Special`] each block ends at a page that nobody can access, and a freed block stays inaccessible
//! until its addresses are needed again, so a driver that runs over the end of a block or uses it after it freed it
//! traps at the very instruction; in [`PoolMode::SpecialStart`] one that runs below its start does. Paged pool that is
//! touched at `DISPATCH_LEVEL` traps in both. Where the host has no room for that, and in [`PoolMode::Fast`], patterns around
//! the block and in freed blocks are checked instead, when the block is freed and when it is given up.
//!
//! What is wrong is returned to the caller, who knows which call it is and says so; nothing here calls anybody.

mod arena;
mod heap;
mod paging;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;

use parking_lot::Mutex;

use crate::cpu::Cpu;
use crate::kernel::Machine;
use crate::verifier::{POOL_OVERRUN, POOL_UNDERRUN, POOL_USE_AFTER_FREE};
use arena::{Arena, Guarded, Run};
use heap::Heap;

/// How the pool is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// Each block ends at an inaccessible page; freed blocks stay inaccessible.
    Special,
    /// Each block begins at an inaccessible page; freed blocks stay inaccessible.
    SpecialStart,
    /// Blocks lie between patterns that are checked when they are freed.
    Fast,
}

/// What uninitialized pool is filled with.
const FRESH: u8 = 0xcd;
/// What lies around blocks.
const CANARY: u8 = 0xa5;
/// Larger requests fail, as they do where address space is short.
const LARGEST: usize = 1 << 30;
/// How many freed blocks are remembered, for explaining faults.
const REMEMBERED: usize = 1 << 15;

/// `MEMORY_ALLOCATION_ALIGNMENT`; blocks of a page and more begin on a page.
pub(crate) const ALIGNMENT: usize = 16;
const PAGE: usize = crate::loader::memory::PAGE;

/// A request for pool.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Bytes.
    pub size: usize,
    /// The tag, four letters in memory order.
    pub tag: u32,
    /// Who asks: a return address.
    pub site: usize,
    /// Whether the block is zeroed.
    pub zeroed: bool,
    /// Whether it is paged pool.
    pub paged: bool,
    /// At least this alignment; a power of two.
    pub alignment: usize,
}

/// A block of pool.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Its address.
    pub address: usize,
    /// Bytes, as asked for.
    pub size: usize,
    /// Its tag.
    pub tag: u32,
    /// Who allocated it.
    pub site: usize,
    /// Whether it is paged pool.
    pub paged: bool,
    /// Who freed it, if it was freed.
    pub freed_by: Option<usize>,
    home: Home,
}

#[derive(Debug, Clone, Copy)]
enum Home {
    Arena(Run),
    Heap,
}

impl Block {
    /// The tag as text.
    #[must_use]
    pub fn tag_name(&self) -> String {
        tag_name(self.tag)
    }
}

/// A tag as text: four letters, others escaped.
#[must_use]
pub fn tag_name(tag: u32) -> String {
    tag.to_le_bytes().escape_ascii().to_string()
}

/// How an address lies to the pool.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// In or behind a block that is allocated.
    Live { block: Block, address: usize },
    /// In or behind a block that was freed.
    Freed { block: Block, address: usize },
}

/// What a fault at a [`Place`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The block was freed.
    Freed,
    /// The block is paged, and the processor was at `DISPATCH_LEVEL` or above.
    Paged,
    /// Before its first byte.
    Before,
    /// Behind its last byte.
    Behind,
}

impl Place {
    /// What a fault here means.
    pub(crate) const fn fault(&self) -> Fault {
        match self {
            Self::Freed { .. } => Fault::Freed,
            Self::Live { block, address } if *address < block.address => Fault::Before,
            Self::Live { block, address } if *address - block.address < block.size => Fault::Paged,
            Self::Live { .. } => Fault::Behind,
        }
    }

    /// Continues a sentence such as "read of 8 bytes …".
    pub(crate) fn words(&self, machine: &Machine) -> String {
        let (Self::Live { block, address } | Self::Freed { block, address }) = self;
        let end = block.address + block.size;
        let position = if *address >= end {
            format!("{} past the end of", address - end)
        } else if *address < block.address {
            format!("{} before the start of", block.address - address)
        } else {
            format!("at offset {} of", address - block.address)
        };
        let place = |site| machine.verifier().site(site);
        let freed = block
            .freed_by
            .map(|site| format!(" and freed at {}", place(site)))
            .unwrap_or_default();
        format!(
            "{position} pool block '{}' of {} bytes allocated at {}{freed}",
            block.tag_name(),
            block.size,
            place(block.site)
        )
    }
}

/// What went wrong with a block's surroundings or contents.
#[derive(Debug, Clone, Copy)]
pub struct Damage {
    /// The block.
    pub block: Block,
    /// The first changed byte, relative to the block.
    pub offset: isize,
    /// Whether it changed after the block was freed.
    pub after_free: bool,
}

/// The result of freeing.
#[derive(Debug)]
pub enum Freed {
    /// It was allocated, and is not any more.
    Block(Block),
    /// It is not allocated; it was earlier, if the block is known.
    Unknown(Option<Block>),
}

/// The pool of one machine.
#[derive(Debug)]
pub struct Pool {
    arenas: Option<Arenas>,
    inner: Mutex<Inner>,
}

/// Where guarded blocks are.
#[derive(Debug)]
struct Arenas {
    nonpaged: Arena,
    paged: Arena,
}

impl Arenas {
    fn new(guarded: Guarded) -> io::Result<Self> {
        Ok(Self {
            nonpaged: Arena::new(arena::NONPAGED_SIZE, guarded, false)?,
            paged: Arena::new(arena::PAGED_SIZE, guarded, true)?,
        })
    }

    const fn of(&self, paged: bool) -> &Arena {
        if paged { &self.paged } else { &self.nonpaged }
    }

    /// Makes a block accessible on whichever IRQL, for our own checks.
    fn page_in(&self, block: &Block) {
        if let (Home::Arena(run), true) = (block.home, block.paged) {
            for page in (run.start..run.start + run.size - PAGE).step_by(PAGE) {
                self.paged.page_in(page);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<usize, Block>,
    /// Blocks in the arena by the address of their first page, freed ones too.
    runs: BTreeMap<usize, Block>,
    /// Freed blocks in the order in which they were freed.
    freed: VecDeque<Block>,
    heap: Heap,
    damage: Vec<Damage>,
}

impl Pool {
    pub(crate) fn new(mode: PoolMode) -> io::Result<Self> {
        let arenas = match mode {
            PoolMode::Special => Some(Arenas::new(Guarded::End)?),
            PoolMode::SpecialStart => Some(Arenas::new(Guarded::Start)?),
            PoolMode::Fast => None,
        };
        Ok(Self {
            arenas,
            inner: Mutex::default(),
        })
    }

    /// Allocates a block; `None` when there is no memory.
    pub fn allocate(&self, request: &Request) -> Option<Block> {
        if request.size > LARGEST {
            return None;
        }
        let size = request.size.max(1);
        let alignment = if size >= PAGE {
            PAGE
        } else {
            request.alignment.max(ALIGNMENT)
        };
        let mut inner = self.inner.lock();
        let (address, home) = match self
            .arenas
            .as_ref()
            .and_then(|arenas| arenas.of(request.paged).allocate(size, alignment))
        {
            Some((address, run)) => (address, Home::Arena(run)),
            None => (inner.heap.allocate(size)?, Home::Heap),
        };
        let block = Block {
            address,
            size: request.size,
            tag: request.tag,
            site: request.site,
            paged: request.paged,
            freed_by: None,
            home,
        };
        if let Home::Arena(run) = home {
            inner.runs.insert(run.start, block);
        }
        inner.live.insert(address, block);
        drop(inner);
        match (request.zeroed, home) {
            // Its pages are the host's, which gives zeroed ones, and only those that are used.
            (true, Home::Arena(_)) => {}
            (true, Home::Heap) => fill(address, request.size, 0),
            (false, _) => fill(address, request.size, FRESH),
        }
        Some(block)
    }

    /// Frees the block at `address`.
    pub fn free(&self, address: usize, site: usize) -> Freed {
        self.inner.lock().free(self.arenas.as_ref(), address, site)
    }

    /// The block that begins at `address`.
    #[must_use]
    pub fn block(&self, address: usize) -> Option<Block> {
        self.inner.lock().live.get(&address).copied()
    }

    /// The number of blocks that are allocated.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.inner.lock().live.len()
    }

    /// What was found to be damaged and not yet asked for.
    pub fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut self.inner.lock().damage)
    }

    /// Where `address` lies in the pool, for explaining a fault. Never waits for a lock for ever: the fault may have
    /// happened while one is held.
    pub(crate) fn place(&self, address: usize) -> Option<Place> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
        let guarded = self.arenas.as_ref()?.nonpaged.guarded();
        let inner = self.inner.try_lock_for(PATIENCE)?;
        let before = inner.runs.range(..=address).next_back();
        let before = before.map(|(_, block)| *block);
        let behind = inner.runs.range(address..).next();
        let behind = behind.map(|(_, block)| *block);
        drop(inner);
        let run = |block: &Block| match block.home {
            Home::Arena(run) => Some(run),
            Home::Heap => None,
        };
        let guards = |block: &Block| run(block).is_some_and(|run| run.start - address <= PAGE);
        let holds = |block: &Block| {
            run(block).is_some_and(|run| {
                let end = run.start + run.size;
                address < end - PAGE || (guarded == Guarded::End && address < end)
            })
        };
        let block = before
            .filter(holds)
            .or_else(|| behind.filter(guards).filter(|_| guarded == Guarded::Start))?;
        Some(match block.freed_by {
            Some(_) => Place::Freed { block, address },
            None => Place::Live { block, address },
        })
    }

    /// Makes the page at `address` accessible, if it is one of paged pool that was paged out. For the trap handler of
    /// a processor below `DISPATCH_LEVEL`.
    pub(crate) fn page_in(&self, address: usize) -> bool {
        self.arenas
            .as_ref()
            .is_some_and(|arenas| arenas.paged.page_in(address))
    }

    /// A processor goes up to `DISPATCH_LEVEL`: from now on paged pool is not to be touched there.
    pub(crate) fn page_out(&self) {
        if let Some(arenas) = &self.arenas {
            arenas.paged.page_out();
        }
    }

    /// Checks the surroundings of every block, and freed blocks whose contents can be checked; reports what is
    /// damaged.
    pub(crate) fn audit(&self, cpu: &Cpu) {
        let damage = self.inner.lock().audit(self.arenas.as_ref());
        for damage in damage {
            let (rule, words) = damage.describe(cpu.machine());
            cpu.machine().verifier().violation_at(cpu, rule, words);
        }
    }
}

impl Inner {
    /// Everything that is damaged and was not yet reported.
    fn audit(&mut self, arenas: Option<&Arenas>) -> Vec<Damage> {
        let mut damage = std::mem::take(&mut self.damage);
        damage.extend(self.heap.audit());
        damage.extend(self.live.values().filter_map(|block| {
            if let Some(arenas) = arenas {
                arenas.page_in(block);
            }
            let offset = damaged_surroundings(block)?;
            Some(Damage {
                block: *block,
                offset,
                after_free: false,
            })
        }));
        damage
    }

    /// Frees the block at `address`; see [`Pool::free`].
    fn free(&mut self, arenas: Option<&Arenas>, address: usize, site: usize) -> Freed {
        let Some(mut block) = self.live.remove(&address) else {
            let earlier = self
                .freed
                .iter()
                .rev()
                .find(|block| block.address == address)
                .copied();
            return Freed::Unknown(earlier);
        };
        if let Some(arenas) = arenas {
            arenas.page_in(&block);
        }
        if let Some(offset) = damaged_surroundings(&block) {
            self.damage.push(Damage {
                block,
                offset,
                after_free: false,
            });
        }
        block.freed_by = Some(site);
        if let (Home::Arena(run), Some(arenas)) = (block.home, arenas) {
            arenas.of(block.paged).free(run);
            self.runs.insert(run.start, block);
        } else {
            let late = self.heap.free(&block);
            self.damage.extend(late);
        }
        self.freed.push_back(block);
        if self.freed.len() > REMEMBERED
            && let Some(oldest) = self.freed.pop_front()
            && let Home::Arena(run) = oldest.home
            && self
                .runs
                .get(&run.start)
                .is_some_and(|block| block.freed_by.is_some())
        {
            self.runs.remove(&run.start);
        }
        Freed::Block(block)
    }
}

impl Damage {
    /// The rule that was broken, and how.
    pub(crate) fn describe(&self, machine: &Machine) -> (&'static crate::verifier::Rule, String) {
        let Self {
            block,
            offset,
            after_free,
        } = self;
        let (rule, verb) = if *after_free {
            (&POOL_USE_AFTER_FREE, "changed after it was freed")
        } else if *offset < 0 {
            (&POOL_UNDERRUN, "was underrun")
        } else {
            (&POOL_OVERRUN, "was overrun")
        };
        let site = machine.verifier().site(block.site);
        let words = format!(
            "pool block '{}' of {} bytes allocated at {site} {verb}: byte {offset} changed",
            block.tag_name(),
            block.size
        );
        (rule, words)
    }
}

/// Fills `size` bytes at `address`, a block that was just made and nobody uses yet.
const fn fill(address: usize, size: usize, byte: u8) {
    // SAFETY: the bytes are a block's, allocated and not yet given to anybody.
    unsafe { std::ptr::write_bytes(address as *mut u8, byte, size) };
}

/// The first byte of a live block's surroundings that is not as it was, relative to the block.
fn damaged_surroundings(block: &Block) -> Option<isize> {
    // A block of no bytes was given one.
    let size = block.size.max(1);
    let surroundings = match block.home {
        Home::Arena(run) => run.slack(block.address, size),
        Home::Heap => heap::slack(block.address, size),
    };
    surroundings
        .into_iter()
        .flatten()
        .find(|&at| {
            // SAFETY: the surroundings belong to the block's own mapping, which is readable while it is allocated.
            let byte = unsafe { (at as *const u8).read_volatile() };
            byte != CANARY
        })
        .map(|at| at.cast_signed() - block.address.cast_signed())
}
