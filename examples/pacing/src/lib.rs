//! The least WFP callout driver that shapes traffic: datagrams to port 7777 wait in a line, from which one leaves every ten
//! milliseconds.
//!
//! What it shows, and what WFP asks for
//! ([packet modification](https://learn.microsoft.com/windows-hardware/drivers/network/packet-modification-examples),
//! [`FwpsInjectNetworkSendAsync0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjectnetworksendasync0)):
//!
//! - What is to leave later is a copy: the stack's packet is the stack's, and is blocked and absorbed.
//! - The copy is whole: checksums that were left to the network card are made first.
//! - A timer injects it, at `DISPATCH_LEVEL` and with no lock held. It is seen again then, and let through.
//! - All memory is there from the start, so that the line has a length: who comes when it is full is dropped.
//! - At stop what waits is freed, before the memory is: first the callout, then the timer, then the line.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use kmdf::{ControlDevice, Service, Timer};
use portcullis_core::{
    PacketSummary,
    connection::UDP,
    packet::{Checksums, Layout, complete},
};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFTIMER};
use wfp::{
    Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    inject::{InjectionHandles, Network, Parcels},
    irql::Passive,
    layer::OutboundIpPacket,
    list::{OwnedList, PacketPool},
    nbl::{Buffer, Offload},
    pool::Tag,
    schema::{CalloutFlags, Guid, IpVersion},
    sync::SpinLock,
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"PcDr");
const PORT: u16 = 7777;
/// Between two datagrams, in units of 100 nanoseconds.
const PACE: u64 = 10 * 10_000;
/// As many datagrams wait.
const LENGTH: usize = 32;
/// So much of a packet holds its headers, unless there are many extension headers of IPv6.
const HEADERS: usize = 128;

static PLAN: Plan<1> = Plan {
    name: wide!("Pacing"),
    description: wide!("Datagrams to port 7777 leave one by one"),
    service: wide!("pacing"),
    key: Guid::from_u128(0x48F1_D26C_0B97_4A35_B7E8_95C0_61AD_0000),
    weight: 0x100,
    // Checksums are made whole where a packet is taken, so that offload may stay on.
    rows: [Row::of::<Pacing>(CalloutAction::Unknown)
        .with_flags(CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC))],
};

/// A datagram that waits.
struct Waiting {
    list: OwnedList,
    version: IpVersion,
    compartment: u32,
}

/// What waits, in the order in which it came.
struct Line {
    places: [Option<Waiting>; LENGTH],
    first: usize,
    count: usize,
}

static LINE: SpinLock<Line> = SpinLock::new(Line {
    places: [const { None }; LENGTH],
    first: 0,
    count: 0,
});

impl Line {
    /// Lets one wait; how many do then. A full line gives it back.
    fn push(&mut self, waiting: Waiting) -> core::result::Result<usize, Waiting> {
        if self.count == LENGTH {
            return Err(waiting);
        }
        self.places[(self.first + self.count) % LENGTH] = Some(waiting);
        self.count += 1;
        Ok(self.count)
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.places[self.first].take()?;
        self.first = (self.first + 1) % LENGTH;
        self.count -= 1;
        Some(waiting)
    }
}

/// What a datagram needs to wait and to be injected.
struct Means {
    /// Dropped first, which waits for the last injection.
    handles: InjectionHandles<Network>,
    parcels: Parcels<()>,
    memory: PacketPool,
}

static TIMER: KernelCell<Timer> = KernelCell::new(TAG);
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
    unsafe { kmdf::enter::<Pacing>(driver, registry_path) }
}

/// The driver, and its callout at `OUTBOUND_IPPACKET`.
struct Pacing;

// SAFETY: `stop` unregisters the callouts, then stops the timer, which nobody else starts.
unsafe impl Service for Pacing {
    const DEVICE: Wide<'static> = wide!(r"\Device\Pacing");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        let means = || {
            Ok(Means {
                parcels: Parcels::try_new(TAG, 64)?,
                memory: PacketPool::try_new(TAG, 64, 2048, passive)?,
                handles: InjectionHandles::create(passive)?,
            })
        };
        MEANS.try_set_with(means, passive)?;
        TIMER.try_set_with(|| Timer::create(device, Some(due)), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        if let Some(timer) = TIMER.get() {
            // Nobody is left in the line for whom it would start itself once more.
            while { LINE.lock().pop() }.is_some() {}
            timer.stop(passive);
        }
        // SAFETY: callouts and timer have stopped.
        drop(unsafe { TIMER.take(passive) });
        // SAFETY: as above, and nothing waits.
        drop(unsafe { MEANS.take(passive) });
    }
}

impl Callout for Pacing {
    type Layer = OutboundIpPacket;

    fn classify(call: &Classify<'_, OutboundIpPacket>) -> Authorization {
        let (Some(means), Some(packet), false) = (MEANS.get(), call.data, call.decided) else {
            return Authorization::Continue;
        };
        let version = call.fields.version();
        // First of all: what we have injected passes.
        if means.handles.of(version).state(packet).is_own() {
            return Authorization::Continue;
        }
        let mut buffers = packet.buffers();
        let (Some(buffer), None) = (buffers.next(), buffers.next()) else {
            return Authorization::Continue;
        };
        if !is_ours(buffer) {
            return Authorization::Continue;
        }
        let waiting = copy(means, buffer, packet.offload()).map(|list| Waiting {
            list,
            version,
            compartment: call.metadata.compartment().unwrap_or(0),
        });
        let count = waiting.and_then(|waiting| LINE.lock().push(waiting).ok());
        if let (Some(1), Some(timer)) = (count, TIMER.get()) {
            timer.start(PACE);
        }
        // It leaves later, or never.
        Authorization::BlockSilently
    }
}

/// Whether it is a datagram to the port, whole: this is before it is fragmented.
fn is_ours(buffer: Buffer<'_>) -> bool {
    let mut headers = [0; HEADERS];
    let length = buffer.length().min(HEADERS);
    let Some(headers) = headers.get_mut(..length) else {
        return false;
    };
    buffer.copy_to(0, headers).is_ok()
        && PacketSummary::parse(headers)
            .is_some_and(|summary| summary.protocol == UDP && summary.destination.port == PORT)
}

/// A copy that is whole. `None`: there is no memory, or it is too large.
fn copy(means: &Means, buffer: Buffer<'_>, offload: Offload) -> Option<OwnedList> {
    let mut copy = means.memory.take(buffer.length())?;
    buffer.copy_to(0, &mut copy).ok()?;
    let layout = Layout::new_checked(&copy).ok()?;
    let checksums = Checksums {
        ip_missing: offload.leaves_ip_checksum(),
        transport_missing: offload.leaves_transport_checksum(),
    };
    complete(&mut copy, &layout, checksums);
    copy.into_list(0).ok()
}

/// The timer: the first in the line leaves.
unsafe extern "C" fn due(_timer: WDFTIMER) {
    let mut line = LINE.lock();
    let first = line.pop();
    let more = line.count > 0;
    drop(line);
    let (Some(means), Some(waiting)) = (MEANS.get(), first) else {
        return;
    };
    if let (true, Some(timer)) = (more, TIMER.get()) {
        timer.start(PACE);
    }
    let handle = means.handles.of(waiting.version);
    // What is refused comes back, and is freed.
    let _ = handle.send(&means.parcels, waiting.list, (), waiting.compartment);
}
