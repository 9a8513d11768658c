//! The least WFP callout driver that edits streams: in what is sent over TCP to port 2525, `falcon` becomes `kestrel`.
//!
//! What it shows, and what WFP asks for
//! ([stream inspection](https://learn.microsoft.com/windows-hardware/drivers/network/stream-inspection),
//! [`FWPS_STREAM_CALLOUT_IO_PACKET0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_stream_callout_io_packet0_)):
//!
//! - A callout that permits or blocks the first bytes only is shown the rest again. So it needs to remember nothing: it
//!   permits what is before the word, then finds the word at the beginning.
//! - What is injected in a classify stands in the place of what the same classify blocks: the order is kept.
//! - A word may be split between segments. Where one begins at the end of the data, the callout asks for so many more
//!   bytes, and is shown all of them together. That cannot be asked for at the end of a stream, which [`StreamVerdict`] knows.
//! - What is injected goes on behind the callout, which does not see it again.
//! - A word that cannot be replaced, for want of memory, does not leave: its connection is ended.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::num::{NonZeroU32, NonZeroUsize};

use kmdf::{ControlDevice, Service};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    inject::{InjectionHandles, Parcels, StreamData, StreamPlace},
    irql::Passive,
    layer::Stream,
    list::PacketPool,
    pool::Tag,
    schema::{CalloutFlags, Guid, StreamFlags},
    stream::{DataDirection, Indication},
    verdict::StreamVerdict,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"EdDr");
const PORT: u16 = 2525;
/// Its first letter does not come again: where a letter is not the next one, the search starts over.
const WORD: &[u8; 6] = b"falcon";
const REPLACEMENT: &[u8; 7] = b"kestrel";

static PLAN: Plan<1> = Plan {
    name: wide!("Editing"),
    description: wide!("Replaces a word in what is sent to port 2525"),
    service: wide!("editing"),
    key: Guid::from_u128(0xB1A6_03D7_4F2E_4C98_A5D0_17E9_3B64_0000),
    weight: 0x100,
    // A stream is the same however its segments were merged: nothing has to be switched off.
    rows: [Row::of::<Editing>(CalloutAction::Unknown)
        .with_flags(CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC))],
};

/// What an injection needs. All memory is there from the start.
struct Means {
    /// Dropped first, which waits for the last injection.
    handles: InjectionHandles<StreamData>,
    /// Nobody wants to know how an injection ended.
    parcels: Parcels<()>,
    memory: PacketPool,
}

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
    unsafe { kmdf::enter::<Editing>(driver, registry_path) }
}

/// The driver, and its callout at `STREAM`.
struct Editing;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Editing {
    const DEVICE: Wide<'static> = wide!(r"\Device\Editing");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        let means = || {
            Ok(Means {
                parcels: Parcels::try_new(TAG, 64)?,
                memory: PacketPool::try_new(TAG, 64, 64, passive)?,
                handles: InjectionHandles::create(passive)?,
            })
        };
        MEANS.try_set_with(means, passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: the callouts are gone.
        drop(unsafe { MEANS.take(passive) });
    }
}

impl Callout for Editing {
    type Layer = Stream;

    fn classify(call: &Classify<'_, Stream>) -> StreamVerdict {
        let (Some(means), Some(data)) = (MEANS.get(), call.data) else {
            return StreamVerdict::Permit;
        };
        if call.fields.remote_port() != Some(PORT) {
            return StreamVerdict::AllowConnection;
        }
        if data.direction() == DataDirection::Receive || data.length() == 0 || data.is_urgent() {
            return StreamVerdict::Permit;
        }
        let (before, letters) = look(data);
        match (NonZeroUsize::new(before), NonZeroUsize::new(letters)) {
            (_, None) => StreamVerdict::Permit,
            (Some(before), _) => StreamVerdict::PermitFirst(before),
            (None, Some(letters)) if letters.get() == WORD.len() => match replace(means, call) {
                Some(()) => StreamVerdict::BlockFirst(letters),
                None => StreamVerdict::DropConnection,
            },
            // The data begins like the word, and ends before it does.
            (None, Some(letters)) => u32::try_from(WORD.len() - letters.get())
                .ok()
                .and_then(NonZeroU32::new)
                .map_or(StreamVerdict::Permit, StreamVerdict::NeedMoreData),
        }
    }
}

/// How many bytes are before the word, or before what may be its beginning; and how many letters of it are there.
fn look(data: Indication<'_>) -> (usize, usize) {
    let (mut seen, mut letters) = (0, 0);
    let pieces = data.chunks().map_while(core::result::Result::ok);
    for byte in pieces.flatten() {
        seen += 1;
        letters = match WORD.get(letters) {
            Some(next) if next == byte => letters + 1,
            _ => usize::from(byte == &WORD[0]),
        };
        if letters == WORD.len() {
            break;
        }
    }
    (seen - letters, letters)
}

/// Injects the replacement. `None`: it could not be.
fn replace(means: &Means, call: &Classify<'_, Stream>) -> Option<()> {
    let mut memory = means.memory.take(REPLACEMENT.len())?;
    memory.copy_from_slice(REPLACEMENT);
    let place = StreamPlace {
        flow: call.metadata.flow()?,
        callout: call.callout,
        layer: call.fields.layer(),
        flags: StreamFlags::SEND,
        length: REPLACEMENT.len(),
    };
    let handle = means.handles.of(call.fields.version());
    let list = memory.into_list(0).ok()?;
    // What is refused comes back, and is freed.
    handle.inject(&means.parcels, list, (), place).ok()
}
