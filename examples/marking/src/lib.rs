//! The least WFP callout driver that changes packets: datagrams that are sent to port 5060 leave with the code point of
//! telephony.
//!
//! What it shows, and what WFP asks for
//! ([packet modification](https://learn.microsoft.com/windows-hardware/drivers/network/packet-modification-examples)):
//!
//! - A packet is copied to memory of one's own, changed there with its checksums, and injected; the stack's is blocked and
//!   absorbed.
//! - Injected packets are seen again, and let through before anything else is asked.
//! - An injection may outlive the callout: its handle is destroyed before the memory is freed, and waits for the last one.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use kmdf::{ControlDevice, Service};
use portcullis_core::{
    connection::UDP,
    packet::{Checksums, Edit, Layout},
};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    inject::{InjectionHandle, InjectionHandles, Network, Parcels},
    irql::Passive,
    layer::OutboundIpPacket,
    list::PacketPool,
    nbl::{Buffer, Offload},
    pool::Tag,
    schema::{CalloutFlags, Guid},
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"MkDr");

static PLAN: Plan<1> = Plan {
    name: wide!("Marking"),
    description: wide!("Marks what is sent to port 5060"),
    service: wide!("marking"),
    key: Guid::from_u128(0x8D1C_4E0A_52F7_4B1E_9A60_1F3C_77D0_0000),
    weight: 0x100,
    // Checksums are made whole where a packet is taken, so that offload may stay on.
    rows: [Row::of::<Marking>(CalloutAction::Unknown)
        .with_flags(CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC))],
};

/// What is marked, and how.
const PORT: u16 = 5060;
const MARK: Edit = Edit {
    dscp: Some(46),
    hop_limit: None,
    source: None,
    destination: None,
};

/// What a packet needs to be injected. All memory is there from the start.
struct Packets {
    /// Dropped first, which waits for the last injection.
    handles: InjectionHandles<Network>,
    /// Nobody wants to know how an injection ended.
    parcels: Parcels<()>,
    memory: PacketPool,
}

static PACKETS: KernelCell<Packets> = KernelCell::new(TAG);
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
    unsafe { kmdf::enter::<Marking>(driver, registry_path) }
}

/// The driver, and its callout at `OUTBOUND_IPPACKET`.
struct Marking;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Marking {
    const DEVICE: Wide<'static> = wide!(r"\Device\Marking");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        let packets = || {
            Ok(Packets {
                parcels: Parcels::try_new(TAG, 64)?,
                memory: PacketPool::try_new(TAG, 64, 2048, passive)?,
                handles: InjectionHandles::create(passive)?,
            })
        };
        PACKETS.try_set_with(packets, passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: the callouts are gone.
        drop(unsafe { PACKETS.take(passive) });
    }
}

impl Callout for Marking {
    type Layer = OutboundIpPacket;

    fn classify(call: &Classify<'_, OutboundIpPacket>) -> Authorization {
        let (Some(packets), Some(packet), false) = (PACKETS.get(), call.data, call.decided) else {
            return Authorization::Continue;
        };
        // First of all: what we have injected passes.
        let handle = packets.handles.of(call.fields.version());
        if handle.state(packet).is_own() {
            return Authorization::Continue;
        }
        // One packet by itself, which no network card is to split.
        let mut buffers = packet.buffers();
        let (Some(buffer), None) = (buffers.next(), buffers.next()) else {
            return Authorization::Continue;
        };
        let offload = packet.offload();
        if offload.segment_size().is_some() {
            return Authorization::Continue;
        }
        let compartment = call.metadata.compartment().unwrap_or(0);
        match mark(packets, handle, buffer, offload, compartment) {
            Some(()) => Authorization::BlockSilently,
            None => Authorization::Continue,
        }
    }
}

/// Copies, marks and injects a datagram to the port. `None`: it is not one, or could not be; it goes on as it is.
fn mark(
    packets: &Packets,
    handle: &InjectionHandle<Network>,
    buffer: Buffer<'_>,
    offload: Offload,
    compartment: u32,
) -> Option<()> {
    let mut copy = packets.memory.take(buffer.length())?;
    buffer.copy_to(0, &mut copy).ok()?;
    let layout = Layout::new_checked(&copy).ok()?;
    if layout.protocol != UDP || layout.destination.port != PORT || !MARK.changes(&copy, &layout) {
        return None;
    }
    let checksums = Checksums {
        ip_missing: offload.leaves_ip_checksum(),
        transport_missing: offload.leaves_transport_checksum(),
    };
    MARK.apply(&mut copy, &layout, checksums).ok()?;
    let list = copy.into_list(0).ok()?;
    // What is refused comes back, and is freed.
    handle.send(&packets.parcels, list, (), compartment).ok()
}
