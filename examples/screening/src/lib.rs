//! The least WFP callout driver that looks at streams out of band: what goes over TCP to port 8000 and comes back is looked
//! at in a work item, and goes on then; a connection in which `forbidden` turns up is ended.
//!
//! What it shows, and what WFP asks for
//! ([stream inspection](https://learn.microsoft.com/windows-hardware/drivers/network/stream-inspection),
//! [`FwpsCloneStreamData0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsclonestreamdata0),
//! [`FwpsStreamInjectAsync0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsstreaminjectasync0)):
//!
//! - A classify clones the data, blocks it, and returns. From then on all that follows in the stream has to be taken, its
//!   end too, and put back in order: one queue, one worker.
//! - A reset is not taken. What still waits for its stream is refused then, and freed.
//! - At stop everything is put back before the filter goes: else what comes then would overtake what waits. Once nothing
//!   is on its way, what comes may pass by itself. A connection that does not settle is ended.
//! - An injection is on its way until its completion, and is counted by a value that the injection owns.
//!
//! A word that is split between two pieces is not found; the example `editing` shows how to wait for the rest of one.
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::time::Duration;

use kmdf::{ControlDevice, Service, WorkItem};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFWORKITEM};
use wfp::{
    NtStatus, Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    flow,
    inject::{Completion, InjectionHandles, Parcels, StreamData, StreamPlace},
    irql::Passive,
    layer::Stream,
    pool::Tag,
    schema::{CalloutFlags, Guid, IpVersion, StreamFlags},
    stream::{ClonedStream, DataDirection, Indication},
    sync::SpinLock,
    verdict::StreamVerdict,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"ScDr");
const PORT: u16 = 8000;
const WORD: &[u8] = b"forbidden";

static PLAN: Plan<1> = Plan {
    name: wide!("Screening"),
    description: wide!("Looks at streams out of band"),
    service: wide!("screening"),
    key: Guid::from_u128(0x7C35_E80B_19DA_4D73_96F4_A20C_5E81_0000),
    weight: 0x100,
    rows: [Row::of::<Screening>(CalloutAction::Unknown)
        .with_flags(CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC))],
};

/// What was taken out of a stream.
struct Piece {
    at: StreamPlace,
    version: IpVersion,
    data: ClonedStream,
    is_end: bool,
}

/// Pieces that can wait at a time. A connection for which there is no room is ended.
const ROOM: usize = 128;

/// What waits, in the order in which it came.
struct Queue {
    pieces: [Option<Piece>; ROOM],
    first: usize,
    count: usize,
    /// Pieces and injections that are neither waiting nor done.
    on_their_way: usize,
    /// Whether a worker is at it. There is one at a time, or the order would be lost.
    is_served: bool,
    is_stopping: bool,
}

static QUEUE: SpinLock<Queue> = SpinLock::new(Queue {
    pieces: [const { None }; ROOM],
    first: 0,
    count: 0,
    on_their_way: 0,
    is_served: false,
    is_stopping: false,
});

impl Queue {
    /// Puts a piece at the end. A full queue gives it back.
    fn push(&mut self, piece: Piece) -> core::result::Result<(), Piece> {
        if self.count == ROOM {
            return Err(piece);
        }
        self.pieces[(self.first + self.count) % ROOM] = Some(piece);
        self.count += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Piece> {
        let piece = self.pieces[self.first].take()?;
        self.first = (self.first + 1) % ROOM;
        self.count -= 1;
        Some(piece)
    }

    const fn is_settled(&self) -> bool {
        self.count == 0 && self.on_their_way == 0
    }
}

/// Something that is on its way as long as this lives.
struct OnItsWay(());

impl OnItsWay {
    const fn new(queue: &mut Queue) -> Self {
        queue.on_their_way += 1;
        Self(())
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        QUEUE.lock().on_their_way -= 1;
    }
}

impl Completion for OnItsWay {
    fn completed(self, _status: NtStatus) {}
}

/// What injections need.
struct Means {
    /// Dropped first, which waits for the last injection.
    handles: InjectionHandles<StreamData>,
    parcels: Parcels<OnItsWay>,
}

static WORK: KernelCell<WorkItem> = KernelCell::new(TAG);
static MEANS: KernelCell<Means> = KernelCell::new(TAG);
static ATTACHED: KernelCell<Attached<1>> = KernelCell::new(TAG);

/// Starts the driver. When it fails, nothing of it is left.
///
/// # Safety
/// Called by the operating system, once, with the driver's object and its key in the registry.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: &mut DRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: these are the arguments of `DriverEntry`.
    unsafe { kmdf::enter::<Screening>(driver, registry_path) }
}

/// The driver, and its callout at `STREAM`.
struct Screening;

// SAFETY: `stop` unregisters the callouts, then waits for the work item, which nobody else enqueues.
unsafe impl Service for Screening {
    const DEVICE: Wide<'static> = wide!(r"\Device\Screening");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        let means = || {
            Ok(Means {
                parcels: Parcels::try_new(TAG, 512)?,
                handles: InjectionHandles::create(passive)?,
            })
        };
        MEANS.try_set_with(means, passive)?;
        WORK.try_set_with(|| WorkItem::create(device, Some(work)), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        settle(passive);
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: no classify enqueues it any more.
        if let Some(work) = unsafe { WORK.take(passive) } {
            work.flush();
        }
        // SAFETY: callouts and work item are gone; what is on its way has its own place.
        drop(unsafe { MEANS.take(passive) });
    }
}

/// Waits until nothing is taken any more and everything is put back, for a time; ends connections that do not settle.
fn settle(passive: Passive) {
    QUEUE.lock().is_stopping = true;
    for _ in 0..200 {
        if QUEUE.lock().is_settled() {
            return;
        }
        passive.sleep(Duration::from_millis(1));
    }
    while let Some(piece) = { QUEUE.lock().pop() } {
        end(&piece);
    }
}

impl Callout for Screening {
    type Layer = Stream;

    fn classify(call: &Classify<'_, Stream>) -> StreamVerdict {
        let (Some(work), Some(data)) = (WORK.get(), call.data) else {
            return StreamVerdict::Permit;
        };
        if call.fields.remote_port() != Some(PORT) {
            return StreamVerdict::AllowConnection;
        }
        let may_pass = {
            let queue = QUEUE.lock();
            queue.is_stopping && queue.is_settled()
        };
        if may_pass || data.is_reset() {
            return StreamVerdict::Permit;
        }
        let Some(piece) = take(call, data) else {
            return StreamVerdict::DropConnection;
        };
        let queued = { QUEUE.lock().push(piece) };
        if queued.is_err() {
            return StreamVerdict::DropConnection;
        }
        work.enqueue();
        StreamVerdict::Block
    }
}

/// Clones what a classify shows. `None`: it could not be.
fn take(call: &Classify<'_, Stream>, data: Indication<'_>) -> Option<Piece> {
    Some(Piece {
        at: StreamPlace {
            flow: call.metadata.flow()?,
            callout: call.callout,
            layer: call.fields.layer(),
            flags: match data.direction() {
                DataDirection::Send => StreamFlags::SEND,
                DataDirection::Receive => StreamFlags::RECEIVE,
            },
            length: 0,
        },
        version: call.fields.version(),
        data: data.clone_data().ok()?,
        is_end: data.is_end(),
    })
}

/// The work item.
unsafe extern "C" fn work(_item: WDFWORKITEM) {
    let Some(means) = MEANS.get() else { return };
    loop {
        let mut queue = QUEUE.lock();
        // Whoever is at it looks again when it is done.
        if queue.is_served {
            return;
        }
        let Some(mut piece) = queue.pop() else {
            return;
        };
        queue.is_served = true;
        let on_its_way = OnItsWay::new(&mut queue);
        drop(queue);
        if is_forbidden(&piece.data) || put_back(means, &mut piece).is_none() {
            end(&piece);
        }
        drop(on_its_way);
        QUEUE.lock().is_served = false;
    }
}

/// Whether the word is in it. Its first letter does not come again: where a letter is not the next one, the search starts
/// over.
fn is_forbidden(data: &ClonedStream) -> bool {
    let mut letters = 0;
    data.chunks().flatten().any(|byte| {
        letters = match WORD.get(letters) {
            Some(next) if next == byte => letters + 1,
            _ => usize::from(byte == &WORD[0]),
        };
        letters == WORD.len()
    })
}

/// Lets a piece go on. `None`: it is refused, at least in part.
fn put_back(means: &Means, piece: &mut Piece) -> Option<()> {
    let handle = means.handles.of(piece.version);
    while let Some((list, length)) = piece.data.take_first() {
        let at = StreamPlace { length, ..piece.at };
        let on_its_way = OnItsWay::new(&mut QUEUE.lock());
        handle.inject(&means.parcels, list, on_its_way, at).ok()?;
    }
    if piece.is_end {
        let end = if piece.at.flags == StreamFlags::SEND {
            StreamFlags::SEND_DISCONNECT
        } else {
            StreamFlags::RECEIVE_DISCONNECT
        };
        let flags = piece.at.flags.union(end);
        handle.end(StreamPlace { flags, ..piece.at }).ok()?;
    }
    Some(())
}

/// Ends a piece's connection, if it has not ended by itself. What else waits of it is refused then.
fn end(piece: &Piece) {
    let _ = flow::abort(piece.at.flow);
}
