//! The capture: while a program has one, packets and decisions go to its ring.
//!
//! The ring is made when the capture starts. It is freed when the program has read the last record of a
//! capture that was stopped, or closes its handle, which it also does by dying.

use core::sync::atomic::{AtomicBool, Ordering};

use kmdf::{Driver, File, Request};
use portcullis_core::{
    CaptureFilter, CaptureRing, Endpoint, Ends, MirrorBucket, MirrorTable, PolicySource,
    policy::RuleIndex,
};
use portcullis_proto::{
    Counter, EffectKind, EventKind, EventRecord, Family,
    capture::{CaptureKind, CaptureRecord, CaptureReply, StartCaptureRequest},
};
use wfp::{
    NtStatus, Result,
    cell::KernelCell,
    irql::Passive,
    nbl::{Buffer, Chunks},
    pool::PoolVec,
    swap::Swap,
    sync::{RawSpinLock, WaitLock},
    time,
};
use zerocopy::{
    IntoBytes,
    little_endian::{U32, U64},
};

use crate::{
    device, management,
    readers::{self, Inbox, Readers},
    state::{self, tag},
};

/// Places for mirrored flows, each for eight.
const MIRRORED: usize = 1024;

/// A capture.
struct Capture {
    ring: CaptureRing<RawSpinLock, PoolVec<u8>>,
    filter: CaptureFilter,
    /// Flows of rules with the effect `mirror`, which the filter need not take.
    mirrored: MirrorTable<PoolVec<MirrorBucket<RawSpinLock>>>,
    owner: File,
    /// It takes no more.
    is_stopped: AtomicBool,
    /// A reader was told that there is no more.
    is_over: AtomicBool,
}

/// The one capture that there may be.
struct Captures {
    current: Swap<Capture>,
    readers: Readers,
    /// Held by who starts or ends a capture.
    setting: WaitLock<()>,
}

static CAPTURES: KernelCell<Captures> = KernelCell::new(tag::GLOBAL);
/// Whether a capture takes packets.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Makes room for a capture.
pub(crate) fn create(_driver: Driver, passive: Passive) -> Result {
    let captures = Captures {
        current: Swap::try_new(tag::CAPTURE)?,
        readers: Readers::new(device::capture_queue, device::enqueue_capture_work),
        setting: WaitLock::try_new(tag::CAPTURE, ())?,
    };
    CAPTURES.try_set(captures, passive)?;
    Ok(())
}

/// Frees what is left.
pub(crate) fn delete(passive: Passive) {
    RUNNING.store(false, Ordering::SeqCst);
    device::flush_work();
    // SAFETY: callouts are unregistered, requests are refused, work items have run.
    drop(unsafe { CAPTURES.take(passive) });
}

/// Whether a capture takes packets.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Ordering::Relaxed)
}

/// Starts a capture for an opening of the device.
///
/// # Errors
/// `STATUS_DEVICE_BUSY` if there is one that this opening has not stopped, `STATUS_INSUFFICIENT_RESOURCES`, or why the
/// filters could not be added. No capture begins then.
pub(crate) fn start(request: StartCaptureRequest, owner: Option<File>, passive: Passive) -> Result {
    let captures = CAPTURES.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let owner = owner.ok_or(NtStatus::INVALID_DEVICE_REQUEST)?;
    let _setting = captures.setting.lock(passive);
    let is_busy = captures
        .current
        .read()
        .is_some_and(|old| old.owner != owner || !old.is_stopped());
    if is_busy {
        return Err(NtStatus::DEVICE_BUSY);
    }
    let out_of_memory = |_: &NtStatus| state::count(Counter::OutOfMemory);
    let size = request.ring_size.get() as usize;
    let bytes = PoolVec::try_zeroed(tag::CAPTURE, size).inspect_err(out_of_memory)?;
    let buckets = PoolVec::try_from_fn(tag::CAPTURE, MIRRORED, |_| MirrorBucket::new())
        .inspect_err(out_of_memory)?;
    let capture = Capture {
        mirrored: MirrorTable::new(buckets),
        ring: CaptureRing::new(bytes),
        filter: CaptureFilter::new(request),
        owner,
        is_stopped: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
    };
    captures
        .current
        .try_replace(capture, passive)
        .inspect_err(out_of_memory)?;
    RUNNING.store(true, Ordering::SeqCst);
    mirror_flows();
    management::set_capture(true, passive).inspect_err(|_| end(captures, passive))
}

/// Keeps in mind which of the flows that there are already are mirrored.
fn mirror_flows() {
    let Some(core) = state::core() else { return };
    core.flows().for_each(|followed| {
        let ends = core.flows().with(followed.handle, |flow| {
            let connection = flow.connection();
            flow.decision()
                .effects
                .contains(EffectKind::Mirror)
                .then_some(Ends {
                    protocol: connection.protocol,
                    local: connection.local,
                    remote: connection.remote,
                })
        });
        if let Some(ends) = ends.flatten() {
            with_current(|_, capture| capture.mirrored.insert(&ends));
        }
    });
}

/// Stops the capture of an opening; what it has can still be read.
///
/// # Errors
/// `STATUS_INVALID_DEVICE_STATE` if the opening has none.
pub(crate) fn stop(owner: Option<File>, passive: Passive) -> Result {
    let captures = CAPTURES.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let _setting = captures.setting.lock(passive);
    let capture = captures
        .current
        .read()
        .filter(|capture| Some(capture.owner) == owner)
        .ok_or(NtStatus::INVALID_DEVICE_STATE)?;
    RUNNING.store(false, Ordering::SeqCst);
    capture.is_stopped.store(true, Ordering::SeqCst);
    // It is deleted later if it cannot be now, and does no harm.
    let _ = management::set_capture(false, passive);
    captures.readers.wake();
    Ok(())
}

/// An opening of the device is gone, and its capture with it.
pub(crate) fn file_gone(file: File, passive: Passive) {
    let Some(captures) = CAPTURES.get() else {
        return;
    };
    let _setting = captures.setting.lock(passive);
    let is_owner = captures
        .current
        .read()
        .is_some_and(|capture| capture.owner == file);
    if is_owner {
        end(captures, passive);
    }
}

/// Ends the capture and frees its ring.
fn end(captures: &Captures, passive: Passive) {
    RUNNING.store(false, Ordering::SeqCst);
    let _ = management::set_capture(false, passive);
    drop(captures.current.take(passive));
    captures.readers.wake();
}

/// Answers a reader: now if there is something to read or it does not want to wait, else later.
pub(crate) fn read(mut request: Request, no_wait: bool, passive: Passive) {
    let Some(captures) = CAPTURES.get() else {
        return request.complete(Err(NtStatus::DEVICE_NOT_READY));
    };
    let owner = request.file();
    let room = captures
        .current
        .read()
        .filter(|capture| Some(capture.owner) == owner)
        .map(|capture| CaptureReply::size_for(capture.filter.snap_length()));
    let Some(room) = room else {
        return request.complete(Err(NtStatus::INVALID_DEVICE_STATE));
    };
    if request.output().len() < room {
        state::count(Counter::OutputTooSmall);
        return request.complete(Err(NtStatus::BUFFER_TOO_SMALL));
    }
    readers::read(captures, request, no_wait);
    free_if_over(captures, passive);
}

/// The work item: hands records to those who wait.
pub(crate) fn serve_readers(passive: Passive) {
    if let Some(captures) = CAPTURES.get() {
        readers::serve(captures);
        free_if_over(captures, passive);
    }
}

/// Frees the ring of a capture that was stopped and read to its end. Somebody has to have been told of the end: who is
/// between two reads would find no capture.
fn free_if_over(captures: &Captures, passive: Passive) {
    let is_over = || {
        captures
            .current
            .read()
            .is_some_and(|capture| capture.is_over.load(Ordering::SeqCst))
    };
    if !is_over() {
        return;
    }
    let _setting = captures.setting.lock(passive);
    if is_over() {
        drop(captures.current.take(passive));
    }
}

impl Capture {
    /// Whether the filter takes what has these ends, or a rule mirrors it; whether only that.
    fn takes(&self, ends: impl FnOnce() -> Ends) -> (bool, bool) {
        if self.filter.takes_all() {
            return (true, false);
        }
        let ends = ends();
        let is_mirrored = !self.filter.takes(&ends) && self.mirrored.contains(&ends);
        (is_mirrored || self.filter.takes(&ends), is_mirrored)
    }

    /// Keeps in mind whether a connection is mirrored, as an event tells of it.
    fn follow(&self, event: &EventRecord, ends: &Ends) {
        match EventKind::from_raw(event.kind) {
            Some(EventKind::Authorize | EventKind::HostName | EventKind::Reauthorize) => {
                let is_mirrored = |rule| {
                    state::core().is_some_and(|core| {
                        core.policy().with(|policy, _| {
                            policy.is_some_and(|policy| {
                                policy
                                    .effect_set_of(RuleIndex(rule))
                                    .contains(EffectKind::Mirror)
                            })
                        })
                    })
                };
                if event.rule().is_some_and(is_mirrored) {
                    self.mirrored.insert(ends);
                } else {
                    self.mirrored.remove(ends);
                }
            }
            Some(EventKind::FlowClosed) => self.mirrored.remove(ends),
            _ => {}
        }
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }
}

impl Inbox for Captures {
    fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Whoever waits for a capture that is gone, or over, is told so.
    fn is_empty(&self) -> bool {
        self.current
            .read()
            .is_some_and(|capture| capture.ring.is_empty() && !capture.is_stopped())
    }

    fn fill(&self, output: &mut [u8], even_nothing: bool) -> Result<Option<usize>> {
        let capture = self.current.read().ok_or(NtStatus::INVALID_DEVICE_STATE)?;
        let fixed = size_of::<CaptureReply>();
        let records = output.get_mut(fixed..).ok_or(NtStatus::BUFFER_TOO_SMALL)?;
        let (count, bytes) = capture.ring.read_into(records);
        let is_over = capture.is_stopped() && capture.ring.is_empty();
        if count == 0 && !even_nothing && !is_over {
            // A reader who waited since before the capture may have too little room.
            return if capture.ring.is_empty() {
                Ok(None)
            } else {
                Err(NtStatus::BUFFER_TOO_SMALL)
            };
        }
        let mut flags = 0;
        if is_over {
            flags |= CaptureReply::ENDED;
            capture.is_over.store(true, Ordering::SeqCst);
        } else if !capture.ring.is_empty() {
            flags |= CaptureReply::MORE;
        }
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let counts = capture.ring.counts();
        let reply = CaptureReply::new(number(count), number(bytes), flags, counts);
        // `output` is longer than that.
        let _ = reply.write_to_prefix(output);
        Ok(Some(fixed + bytes))
    }
}

/// Runs `with` with the capture, if one takes packets.
fn with_current(with: impl FnOnce(&Captures, &Capture)) {
    if !is_running() {
        return;
    }
    let Some(captures) = CAPTURES.get() else {
        return;
    };
    if let Some(capture) = captures.current.read() {
        with(captures, &capture);
    }
}

/// Puts a record into the ring.
fn write<'d>(
    captures: &Captures,
    capture: &Capture,
    record: CaptureRecord,
    data: impl IntoIterator<Item = &'d [u8]>,
    is_packet: bool,
) {
    let limit = if is_packet || record.kind == CaptureKind::Discard.raw() {
        capture.filter.snap_length() as usize
    } else {
        size_of::<EventRecord>()
    };
    if capture.ring.write(record, data, limit, is_packet) {
        captures.readers.wake();
    } else {
        state::count(Counter::CaptureDropped);
    }
}

/// An event goes into the ring.
pub(crate) fn event(event: &EventRecord) {
    with_current(|captures, capture| {
        let (local, remote) = (event.local_address, event.remote_address);
        let is_v4 = event.family == Family::V4.raw();
        let end = |octets, port| Endpoint::new(address(is_v4, octets), port);
        let ends = Ends {
            protocol: event.protocol,
            local: end(local, event.local_port.get()),
            remote: end(remote, event.remote_port.get()),
        };
        capture.follow(event, &ends);
        // What is about no connection, such as a new policy, is for everybody.
        if event.family != 0 && !capture.takes(|| ends).0 {
            return;
        }
        let record = CaptureRecord {
            time: event.time,
            original: length(size_of::<EventRecord>()),
            ..CaptureRecord::zeroed(CaptureKind::Event)
        };
        write(captures, capture, record, [event.as_bytes()], false);
    });
}

/// A packet, or a discard, goes into the ring if the filter takes its ends. `record` lacks its time, its
/// length and its data: those of `buffer` from `before` bytes before its offset on.
pub(crate) fn packet(
    record: &CaptureRecord,
    buffer: Option<(Buffer<'_>, usize)>,
    ends: impl FnOnce() -> Ends,
) {
    let is_packet = record.kind == CaptureKind::Packet.raw();
    with_current(|captures, capture| {
        let (is_taken, is_mirrored) = capture.takes(ends);
        if !is_taken {
            if is_packet {
                capture.ring.pass_over();
            }
            return;
        }
        let chunks = buffer.and_then(|(buffer, before)| {
            let chunks = buffer.chunks_from_before(before);
            if chunks.is_none() {
                state::count(Counter::DataUnavailable);
            }
            chunks
        });
        let original = buffer.map_or(0, |(buffer, before)| buffer.length() + before);
        let record = CaptureRecord {
            time: U64::new(time::system_time()),
            original: length(original),
            flags: if is_mirrored {
                record.flags | CaptureRecord::MIRRORED
            } else {
                record.flags
            },
            ..*record
        };
        let data = chunks
            .into_iter()
            .flatten()
            .map_while(core::result::Result::ok);
        write(captures, capture, record, data, is_packet);
    });
}

/// The first bytes of a packet, for its headers. Returns how many there were.
pub(crate) fn first_bytes(chunks: Chunks<'_>, to: &mut [u8]) -> usize {
    let mut filled = 0;
    for piece in chunks.map_while(core::result::Result::ok) {
        let rest = to.get_mut(filled..).unwrap_or_default();
        let length = rest.len().min(piece.len());
        let (Some(place), Some(piece)) = (rest.get_mut(..length), piece.get(..length)) else {
            break;
        };
        place.copy_from_slice(piece);
        filled += length;
        if filled >= to.len() {
            break;
        }
    }
    filled
}

/// An address as records and events have it.
pub(crate) const fn address(is_v4: bool, octets: [u8; 16]) -> core::net::IpAddr {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    if is_v4 {
        let [a, b, c, d, ..] = octets;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from_octets(octets))
    }
}

/// A length that fits, because a packet is smaller than 4 GiB.
fn length(length: usize) -> U32 {
    U32::new(u32::try_from(length).unwrap_or(u32::MAX))
}
