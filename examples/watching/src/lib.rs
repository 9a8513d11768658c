//! The least WFP callout driver that inspects packets: it counts what comes in over IPv4, by protocol, and changes nothing.
//!
//! What it shows: at `INBOUND_IPPACKET` a packet begins behind its IP header; the header is read where it is, without
//! moving the packet's start. The filter is an inspection: whatever the callout answers, the traffic goes on. What is made
//! first is undone last.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kmdf::{ControlDevice, Driver};
use portcullis_core::PacketSummary;
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFDRIVER};
use wfp::{
    NtStatus, Result,
    callout::{Callout, Classify, Counters},
    cell::KernelCell,
    engine::{CalloutAction, CatchAll, EngineSession, Label},
    irql::Passive,
    layer::{self, InboundIpPacket},
    nbl::Packet,
    pool::Tag,
    registration::{Busy, Registration},
    schema::{CalloutFlags, ConditionFlags, FilterFlags, Guid, IpVersion},
    sync::WaitLock,
    verdict::Authorization,
    wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"WtDr");
const SUBLAYER: Guid = Guid::from_u128(0x2B90_6D3E_1A47_4F35_8C02_64E1_9D5A_0001);
const CALLOUT: Guid = Guid::from_u128(0x2B90_6D3E_1A47_4F35_8C02_64E1_9D5A_0002);
const FILTER: Guid = Guid::from_u128(0x2B90_6D3E_1A47_4F35_8C02_64E1_9D5A_0003);

/// Packets of each protocol: the result, for a debugger to read.
static SEEN: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];

static DEVICE: KernelCell<ControlDevice> = KernelCell::new(TAG);
static REGISTERED: KernelCell<Option<Registration>> = KernelCell::new(TAG);
/// Only start and stop use the session, one after the other.
static SESSION: KernelCell<WaitLock<Option<EngineSession>>> = KernelCell::new(TAG);

/// Starts the driver. When it fails, nothing of it is left.
///
/// # Safety
/// Called by the operating system, once, with the driver's object and its key in the registry.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: &mut DRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: `DriverEntry` is called at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: these are the arguments of `DriverEntry`.
    let started = unsafe { Driver::create(driver, registry_path, Some(unload)) }
        .and_then(|driver| start(driver, passive));
    if started.is_err() {
        stop(passive);
    }
    started.err().unwrap_or(NtStatus::SUCCESS).to_i32()
}

/// # Safety
/// Called by the framework, once, if `driver_entry` has succeeded.
unsafe extern "C" fn unload(_driver: WDFDRIVER) {
    // SAFETY: `EvtDriverUnload` is called at PASSIVE_LEVEL.
    stop(unsafe { Passive::assume() });
}

fn start(driver: Driver, passive: Passive) -> Result {
    /// `FILE_DEVICE_NETWORK`.
    const NETWORK: u32 = 0x12;

    let device = ControlDevice::create(
        driver,
        wide!(r"\Device\Watching"),
        wide!("D:P(A;;GA;;;SY)"),
        NETWORK,
        None,
    )?;
    DEVICE.try_set(device, passive)?;
    // Headers are the same however packets were merged: nothing has to be switched off.
    let flags = CalloutFlags::ALLOW_OFFLOAD
        .union(CalloutFlags::ALLOW_RSC)
        .union(CalloutFlags::ALLOW_USO)
        .union(CalloutFlags::ALLOW_URO);
    let registration =
        Registration::register::<Watching>(device.wdm()?, IpVersion::V4, CALLOUT, flags, passive)?;
    REGISTERED.try_set(Some(registration), passive)?;
    SESSION.try_set(
        WaitLock::try_new(TAG, Some(add_objects(passive)?))?,
        passive,
    )?;
    device.finish_initializing();
    Ok(())
}

/// Everything in one transaction, in a session with which it goes.
fn add_objects(passive: Passive) -> Result<EngineSession> {
    let label = Label {
        name: wide!("Watching"),
        description: wide!("Counts what comes in"),
        provider: None,
    };
    let at = layer::row::<InboundIpPacket>(IpVersion::V4).key();
    let mut session = EngineSession::open_dynamic(&label, passive)?;
    let transaction = session.transaction(passive)?;
    transaction.add_sublayer(SUBLAYER, &label, 0x100)?;
    transaction.add_callout(CALLOUT, &label, at)?;
    transaction.add_filter(&CatchAll {
        key: FILTER,
        label,
        layer: at,
        sublayer: SUBLAYER,
        weight: 1,
        action: CalloutAction::Inspection,
        callout: CALLOUT,
        flags: FilterFlags::NONE,
    })?;
    transaction.commit()?;
    Ok(session)
}

/// Undoes what has been done, last first: the filter, so that no packets come; the callout; the device.
fn stop(passive: Passive) {
    // SAFETY: nobody but start and stop uses it.
    if let Some(session) = unsafe { SESSION.take(passive) } {
        drop(session.lock(passive).take());
    }
    // SAFETY: as above.
    let registered = unsafe { REGISTERED.take(passive) };
    let mut registration = registered.and_then(|mut registered| registered.take());
    while let Some(Err(Busy {
        registration: still,
        ..
    })) = registration
        .take()
        .map(|registration| registration.unregister(passive))
    {
        passive.sleep(Duration::from_millis(1));
        registration = Some(still);
    }
    // SAFETY: the callout is gone.
    if let Some(device) = unsafe { DEVICE.take(passive) } {
        // SAFETY: as above.
        unsafe { device.delete() };
    }
}

/// `INBOUND_IPPACKET_V4`.
struct Watching;

impl Callout for Watching {
    type Layer = InboundIpPacket;

    fn counters(_version: IpVersion) -> &'static Counters {
        static COUNTERS: Counters = Counters::new();
        &COUNTERS
    }

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
