//! The least WFP callout driver that changes packets at the transport layers: datagrams to port 5000 leave to port 5001, and
//! what comes from there looks as if it came from port 5000.
//!
//! What it shows, and what WFP asks for
//! ([packet modification](https://learn.microsoft.com/windows-hardware/drivers/network/packet-modification-examples), DDI pages
//! of [`FwpsInjectTransportSendAsync0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportsendasync0)
//! and [`FwpsInjectTransportReceiveAsync0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsinjecttransportreceiveasync0)):
//!
//! - What is sent has no IP header yet. A copy from the UDP header on is changed, and injected with what the classify tells
//!   of its socket: endpoint, remote address, control data. The stack makes the IP header.
//! - What is received is shown behind its headers. They are gone back to, within the classify, and the copy begins with
//!   them.
//! - Checksums are right in what is injected, also those that were left to the network card, or that it has looked at.
//! - A packet that is to be authorized first (`ALE_CLASSIFY_REQUIRED`) is not taken out of `INBOUND_TRANSPORT`.
//! - Injections at these layers are made outside of the classify, which TCP asks for because the stack holds locks there:
//!   [`InjectionHandle<Transport>`](wfp::inject::InjectionHandle) demands [`Dispatch`](wfp::irql::Dispatch), the proof of
//!   it. Here a work item makes them, in the order in which the datagrams came.
//! - Injected packets are seen again, and let through before anything else is asked.
//!
//! Why here: `IPsec` has not encrypted yet what is sent, and has decrypted what is received; the flow and the endpoint are
//! known, and by contexts of flows the process; TCP and UDP are whole, not in fragments. Why not: there is no IP header to
//! change, what the stack does with another address is the stack's to decide, and every packet waits for a work item or a
//! deferred procedure call. The product changes packets at the network layers: `docs/packets.md` says why.
//!
//! Datagrams that find no place or no memory are lost, as datagrams may be: on the port that they were for, nobody expects
//! them. Sublayers heavier than the system's own would see packets before `IPsec` has looked at them; this one is light.
//! Those that are still in a tunnel of `IPsec` are not told apart here. Who talks to port 5001 without this driver's help
//! gets no answers. As it does not say that it tolerates datagrams in one packet (`ALLOW_USO`, `ALLOW_URO`), it gets none.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::net::IpAddr;

use kmdf::{ControlDevice, Service, WorkItem};
use portcullis_core::{
    Endpoint,
    connection::UDP,
    packet::{Checksums, Edit, Layout, Sum},
};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFWORKITEM};
use wfp::{
    Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    inject::{Arrival, Destination, InjectionHandles, KeptDestination, Parcels, Transport},
    irql::Passive,
    layer::{InboundTransport, OutboundTransport},
    list::{OwnedList, PacketPool},
    nbl::{Buffer, Offload, Packet},
    pool::Tag,
    schema::{CalloutFlags, Direction, Guid, IpVersion},
    sync::SpinLock,
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"MpDr");

/// The remote port that applications know.
const PORT: u16 = 5000;
/// The remote port on the wire.
const ON_THE_WIRE: u16 = 5001;

/// Checksums are made whole where a datagram is taken, so that offload may stay on.
const FLAGS: CalloutFlags = CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC);

static PLAN: Plan<2> = Plan {
    name: wide!("Mapping"),
    description: wide!("Datagrams to port 5000 go to port 5001"),
    service: wide!("mapping"),
    key: Guid::from_u128(0xB4E7_205D_91CA_4F38_A6D0_3C75_F82E_0000),
    weight: 0x100,
    rows: [
        Row::of::<Sent>(CalloutAction::Unknown).with_flags(FLAGS),
        Row::of::<Received>(CalloutAction::Unknown).with_flags(FLAGS),
    ],
};

/// A datagram that waits for the work item.
struct Waiting {
    list: OwnedList,
    version: IpVersion,
    way: Way,
}

/// Which way it goes on.
#[allow(
    clippy::large_enum_variant,
    reason = "it lies in a place of the line; nothing is allocated for it"
)]
enum Way {
    Out(KeptDestination),
    In(Arrival),
}

/// As many datagrams at a time.
const LENGTH: usize = 64;

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
    /// Lets one wait, and takes it. It stays where the line is full, to be freed without the lock.
    fn push(&mut self, waiting: &mut Option<Waiting>) {
        if self.count < LENGTH {
            self.places[(self.first + self.count) % LENGTH] = waiting.take();
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.places[self.first].take()?;
        self.first = (self.first + 1) % LENGTH;
        self.count -= 1;
        Some(waiting)
    }
}

/// What a datagram needs to wait and to be injected. All memory is there from the start.
struct Means {
    /// Dropped first, which waits for the last injection.
    handles: InjectionHandles<Transport>,
    /// Nobody wants to know how an injection ended.
    parcels: Parcels<()>,
    memory: PacketPool,
}

static WORK: KernelCell<WorkItem> = KernelCell::new(TAG);
static MEANS: KernelCell<Means> = KernelCell::new(TAG);
static ATTACHED: KernelCell<Attached<2>> = KernelCell::new(TAG);

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
    unsafe { kmdf::enter::<Mapping>(driver, registry_path) }
}

struct Mapping;

// SAFETY: `stop` unregisters the callouts, then waits for the work item, which nobody else enqueues.
unsafe impl Service for Mapping {
    const DEVICE: Wide<'static> = wide!(r"\Device\Mapping");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        let means = || {
            Ok(Means {
                parcels: Parcels::try_new(TAG, 64)?,
                memory: PacketPool::try_new(TAG, 64, 2048, passive)?,
                handles: InjectionHandles::create(passive)?,
            })
        };
        MEANS.try_set_with(means, passive)?;
        WORK.try_set_with(|| WorkItem::create(device, Some(work)), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: no classify enqueues it any more.
        if let Some(work) = unsafe { WORK.take(passive) } {
            // What waits leaves.
            work.flush();
        }
        // SAFETY: callouts and work item have stopped, and nothing waits.
        drop(unsafe { MEANS.take(passive) });
    }
}

/// `OUTBOUND_TRANSPORT`.
struct Sent;

impl Callout for Sent {
    type Layer = OutboundTransport;

    fn classify(call: &Classify<'_, OutboundTransport>) -> Authorization {
        let fields = &call.fields;
        let (Some(means), Some(packet), false) = (MEANS.get(), call.data, call.decided) else {
            return Authorization::Continue;
        };
        // First of all: what we have injected passes.
        if means.handles.of(fields.version()).state(packet).is_own() {
            return Authorization::Continue;
        }
        // A raw socket that writes its own headers means the port that it writes.
        let is_ours = fields.protocol() == Some(UDP) && fields.remote_port() == Some(PORT);
        if !is_ours || call.metadata.included_header().is_some() {
            return Authorization::Continue;
        }
        // One net buffer for each datagram that is sent together with others.
        for buffer in packet.buffers() {
            let _ = send(means, call, buffer, packet.offload());
        }
        Authorization::BlockSilently
    }
}

/// Lets a copy with the other port go on. `None`: it is lost.
fn send(
    means: &Means,
    call: &Classify<'_, OutboundTransport>,
    buffer: Buffer<'_>,
    offload: Offload,
) -> Option<()> {
    let destination = Destination::of(call)?;
    let mut copy = means.memory.take(buffer.length())?;
    buffer.copy_to(0, &mut copy).ok()?;
    let ends = [call.fields.local_address()?, destination.remote];
    map(&mut copy, ends, offload.leaves_transport_checksum())?;
    wait(Waiting {
        list: copy.into_list(0).ok()?,
        version: call.fields.version(),
        way: Way::Out(destination.keep().ok()?),
    })
}

/// Gives a datagram, from its UDP header on, the other destination port and a right checksum; `None` if it has no header.
fn map(datagram: &mut [u8], ends: [IpAddr; 2], is_left_to_card: bool) -> Option<()> {
    let header = datagram.first_chunk_mut::<8>()?;
    header[2..4].copy_from_slice(&ON_THE_WIRE.to_be_bytes());
    // UDP over IPv4 may go without a checksum.
    if ends[0].is_ipv4() && !is_left_to_card && header[6..] == [0; 2] {
        return Some(());
    }
    header[6..].fill(0);
    let length = u32::try_from(datagram.len()).ok()?;
    let sum = ends
        .into_iter()
        .fold(Sum::new(), |sum, end| match end {
            IpAddr::V4(address) => sum.with(&address.octets()),
            IpAddr::V6(address) => sum.with(&address.octets()),
        })
        .with(&length.to_be_bytes())
        .with_word(UDP.into())
        .with(datagram)
        .finish();
    // Zero would say that there is none.
    let sum = if sum == 0 { u16::MAX } else { sum };
    datagram.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// `INBOUND_TRANSPORT`.
struct Received;

impl Callout for Received {
    type Layer = InboundTransport;

    fn classify(call: &Classify<'_, InboundTransport>) -> Authorization {
        let fields = &call.fields;
        let (Some(means), Some(packet), false) = (MEANS.get(), call.data, call.decided) else {
            return Authorization::Continue;
        };
        // First of all: what we have injected passes.
        if means.handles.of(fields.version()).state(packet).is_own() {
            return Authorization::Continue;
        }
        let is_ours = fields.protocol() == Some(UDP) && fields.remote_port() == Some(ON_THE_WIRE);
        // What nobody has asked for is no answer; it is authorized as what it is.
        if !is_ours || call.metadata.is_ale_required() {
            return Authorization::Continue;
        }
        let _ = receive(means, call, packet);
        Authorization::BlockSilently
    }
}

/// Lets a copy with the port that the application knows go on. `None`: it is lost.
fn receive(means: &Means, call: &Classify<'_, InboundTransport>, packet: Packet<'_>) -> Option<()> {
    let headers = call.behind_ip_header(Direction::Inbound)?;
    let offload = packet.offload();
    let list = packet
        .with_retreated(headers, |whole| copy_with_known_port(means, whole, offload))
        .ok()??;
    wait(Waiting {
        list,
        version: call.fields.version(),
        way: Way::In(Arrival::of(call)),
    })
}

/// A copy of a packet that begins with its IP header.
fn copy_with_known_port(means: &Means, packet: Packet<'_>, offload: Offload) -> Option<OwnedList> {
    let buffer = packet.buffers().next()?;
    let mut copy = means.memory.take(buffer.length())?;
    buffer.copy_to(0, &mut copy).ok()?;
    let layout = Layout::new_checked(&copy).ok()?;
    let edit = Edit {
        source: Some(Endpoint::new(layout.source.address, PORT)),
        ..Edit::default()
    };
    let checksums = Checksums {
        // The receive path wants a right one; a datagram that was put together has none.
        ip_missing: true,
        transport_missing: offload.has_checked_transport(),
    };
    edit.apply(&mut copy, &layout, checksums).ok()?;
    copy.into_list(0).ok()
}

/// Lets a datagram wait for the work item. `None`: the line is full, and it is lost.
fn wait(waiting: Waiting) -> Option<()> {
    let mut waiting = Some(waiting);
    LINE.lock().push(&mut waiting);
    WORK.get()?.enqueue();
    waiting.is_none().then_some(())
}

/// The work item.
unsafe extern "C" fn work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL, and in no classify.
    let passive = unsafe { Passive::assume() };
    let Some(means) = MEANS.get() else { return };
    while let Some(Waiting { list, version, way }) = { LINE.lock().pop() } {
        let handle = means.handles.of(version);
        let outside = passive.into();
        // What is refused comes back, and is freed.
        let _ = match way {
            Way::Out(to) => handle.send(&means.parcels, list, (), &to.get(), outside),
            Way::In(at) => handle.receive(&means.parcels, list, (), at, outside),
        };
    }
}
