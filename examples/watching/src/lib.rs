//! The least WFP callout driver that inspects packets: it counts what comes in, by protocol, and changes nothing.
//!
//! What it shows
//! ([packet inspection](https://learn.microsoft.com/windows-hardware/drivers/network/packet-inspection-points)):
//!
//! - A driver's shape: a plan of its callouts; a start that leaves nothing when it fails; a stop that undoes what was made
//!   first last; a control request by which a program reads the numbers.
//! - At `INBOUND_IPPACKET` a packet begins behind its IP header; the header is read where it is, without moving the packet's
//!   start.
//! - The filter is an inspection: whatever the callout answers, the traffic goes on.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::sync::atomic::{AtomicU64, Ordering};

use kmdf::{ControlDevice, Request, Service};
use portcullis_core::PacketSummary;
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    NtStatus, Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    irql::Passive,
    layer::InboundIpPacket,
    nbl::Packet,
    pool::Tag,
    schema::{CalloutFlags, ConditionFlags, Guid},
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"WtDr");
/// The control request for the numbers: `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, FILE_READ_ACCESS)`.
const READ: u32 = 0x12 << 16 | 1 << 14 | 0x800 << 2;

static PLAN: Plan<1> = Plan {
    name: wide!("Watching"),
    description: wide!("Counts what comes in"),
    service: wide!("watching"),
    key: Guid::from_u128(0x2B90_6D3E_1A47_4F35_8C02_64E1_9D5A_0000),
    weight: 0x100,
    // Headers are the same however packets were merged: nothing has to be switched off.
    rows: [Row::of::<Watching>(CalloutAction::Inspection).with_flags(
        CalloutFlags::ALLOW_OFFLOAD
            .union(CalloutFlags::ALLOW_RSC)
            .union(CalloutFlags::ALLOW_USO)
            .union(CalloutFlags::ALLOW_URO),
    )],
};

/// Packets of each protocol.
static SEEN: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

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
    unsafe { kmdf::enter::<Watching>(driver, registry_path) }
}

/// The driver, and its callout at `INBOUND_IPPACKET`.
struct Watching;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Watching {
    const DEVICE: Wide<'static> = wide!(r"\Device\Watching");
    // The system, and administrators.
    const OPENED_BY: Wide<'static> = wide!("D:P(A;;GA;;;SY)(A;;GA;;;BA)");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        device.create_symbolic_link(wide!(r"\DosDevices\Watching"))?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // The filters go first, so that no packets come, then the callouts.
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
    }

    fn control(code: u32, request: &mut Request, _passive: Passive) -> Result<usize> {
        if code != READ {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let (places, _) = request.output().as_chunks_mut();
        for (place, seen) in places.iter_mut().zip(&SEEN) {
            *place = seen.load(Ordering::Relaxed).to_le_bytes();
        }
        Ok(size_of_val(&SEEN).min(places.len() * 8))
    }
}

impl Callout for Watching {
    type Layer = InboundIpPacket;

    fn classify(call: &Classify<'_, InboundIpPacket>) -> Authorization {
        // A fragment is shown as a packet, then once more as a fragment, and what they make together once more.
        let again = ConditionFlags::IS_FRAGMENT.union(ConditionFlags::IS_REASSEMBLED);
        if call.fields.known().flags.intersects(again) {
            return Authorization::Continue;
        }
        let before = call.metadata.ip_header_size().unwrap_or(0) as usize;
        for buffer in call.data.iter().flat_map(Packet::buffers) {
            // The header is mostly in one piece.
            let header = buffer
                .chunks_from_before(before)
                .and_then(|mut pieces| pieces.next()?.ok());
            let protocol = header
                .and_then(PacketSummary::parse)
                .map(|summary| summary.protocol);
            if let Some(seen) = protocol.and_then(|protocol| SEEN.get(usize::from(protocol))) {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
        Authorization::Continue
    }
}
