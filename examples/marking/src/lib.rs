//! The least WFP callout driver that changes packets: datagrams that are sent to port 5060 leave with the code point of telephony.
//!
//! What it shows: a packet is copied to memory of one's own, changed there with its checksums, and injected; the stack's is
//! blocked and absorbed. Injected packets are seen again, and let through. What is made first is undone last.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::time::Duration;

use kmdf::{ControlDevice, Driver};
use portcullis_core::{
    connection::UDP,
    packet::{Checksums, Edit, Layout},
};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFDRIVER};
use wfp::{
    NtStatus, Result,
    callout::{Callout, Classify, Counters},
    cell::KernelCell,
    engine::{CalloutAction, CatchAll, EngineSession, Label},
    inject::{InjectionHandle, Network, Parcels},
    irql::Passive,
    layer::{self, OutboundIpPacket},
    list::PacketPool,
    nbl::{Buffer, Offload},
    pool::Tag,
    registration::{Busy, Registration},
    schema::{CalloutFlags, FilterFlags, Guid, IpVersion},
    verdict::Authorization,
    wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"MkDr");
const SUBLAYER: Guid = Guid::from_u128(0x8D1C_4E0A_52F7_4B1E_9A60_1F3C_77D0_0001);
const CALLOUT: Guid = Guid::from_u128(0x8D1C_4E0A_52F7_4B1E_9A60_1F3C_77D0_0002);
const FILTER: Guid = Guid::from_u128(0x8D1C_4E0A_52F7_4B1E_9A60_1F3C_77D0_0003);

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
    handle: InjectionHandle<Network>,
    /// Nobody wants to know how an injection ended.
    parcels: Parcels<()>,
    memory: PacketPool,
}

static DEVICE: KernelCell<ControlDevice> = KernelCell::new(TAG);
static PACKETS: KernelCell<Packets> = KernelCell::new(TAG);
static REGISTERED: KernelCell<Option<Registration>> = KernelCell::new(TAG);
static SESSION: KernelCell<SessionCell> = KernelCell::new(TAG);

/// Only start and stop use the session, one after the other.
type SessionCell = wfp::sync::WaitLock<Option<EngineSession>>;

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
        wide!(r"\Device\Marking"),
        wide!("D:P(A;;GA;;;SY)"),
        NETWORK,
        None,
    )?;
    DEVICE.try_set(device, passive)?;
    let packets = Packets {
        parcels: Parcels::try_new(TAG, 64)?,
        memory: PacketPool::try_new(TAG, 64, 2048, passive)?,
        handle: InjectionHandle::create(IpVersion::V4, passive)?,
    };
    PACKETS.try_set(packets, passive)?;
    // Checksums are made whole where a packet is taken, so that offload may stay on.
    let flags = CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC);
    let registration =
        Registration::register::<Marking>(device.wdm()?, IpVersion::V4, CALLOUT, flags, passive)?;
    REGISTERED.try_set(Some(registration), passive)?;
    SESSION.try_set(
        SessionCell::try_new(TAG, Some(add_objects(passive)?))?,
        passive,
    )?;
    device.finish_initializing();
    Ok(())
}

/// Everything in one transaction, in a session with which it goes.
fn add_objects(passive: Passive) -> Result<EngineSession> {
    let label = Label {
        name: wide!("Marking"),
        description: wide!("Marks what is sent to port 5060"),
        provider: None,
    };
    let at = layer::row::<OutboundIpPacket>(IpVersion::V4).key();
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
        action: CalloutAction::Unknown,
        callout: CALLOUT,
        flags: FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
    })?;
    transaction.commit()?;
    Ok(session)
}

/// Undoes what has been done, last first: the filter, so that no packets come; the callout; the handle, which waits for its
/// injections; the memory; the device.
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
    drop(unsafe { PACKETS.take(passive) });
    // SAFETY: nothing uses the device any more.
    if let Some(device) = unsafe { DEVICE.take(passive) } {
        // SAFETY: as above.
        unsafe { device.delete() };
    }
}

/// `OUTBOUND_IPPACKET_V4`.
struct Marking;

impl Callout for Marking {
    type Layer = OutboundIpPacket;

    fn counters(_version: IpVersion) -> &'static Counters {
        static COUNTERS: Counters = Counters::new();
        &COUNTERS
    }

    fn classify(call: &Classify<'_, OutboundIpPacket>) -> Authorization {
        let (Some(packets), Some(packet), false) = (PACKETS.get(), call.data, call.decided) else {
            return Authorization::Continue;
        };
        // First of all: what we have injected passes.
        if packets.handle.state(packet).is_own() {
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
        match mark(packets, buffer, offload, compartment) {
            Some(()) => Authorization::BlockSilently,
            None => Authorization::Continue,
        }
    }
}

/// Copies, marks and injects a datagram to the port. `None`: it is not one, or could not be; it goes on as it is.
fn mark(packets: &Packets, buffer: Buffer<'_>, offload: Offload, compartment: u32) -> Option<()> {
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
    packets
        .handle
        .send(&packets.parcels, list, (), compartment)
        .ok()
}
