//! The least WFP callout driver that captures: the first bytes of each packet at the network layers, with time, direction
//! and verdict, for a program that reads them by a control request.
//!
//! What it shows, and what WFP and NDIS ask for
//! ([packet indication format](https://learn.microsoft.com/windows-hardware/drivers/network/packet-indication-format),
//! [data offset positions](https://learn.microsoft.com/windows-hardware/drivers/network/data-offset-positions)):
//!
//! - Where a packet begins. At `OUTBOUND_IPPACKET` its data begins with the IP header; at `INBOUND_IPPACKET` behind it, and
//!   `IP_HEADER_SIZE` says how far. The header is still in the buffer: it is read there, in front of the data's start. Moving
//!   the start (`NdisRetreatNetBufferListDataStart`) may allocate, and would have to be undone before the classify ends. At
//!   the twins of these layers the data begins where the stack stopped: it is looked where the header is.
//! - How many packets there are. A list of buffers that is sent may have several, each a packet of its own; one that was
//!   received has one. What the network card merges, or is to split, is shown as one large packet, and checksums that it is
//!   to fill in are not there yet: nothing is switched off for a capture.
//! - Where the bytes are: in a chain of memory descriptor lists, so a header need not be in one piece
//!   (`NdisGetDataBuffer` would copy it to one). They are copied piece by piece; a piece that cannot be mapped ends it.
//! - When: at IRQL <= `DISPATCH_LEVEL`, on all processors at once, and only during the classify. So the ring is non-paged
//!   memory of the driver's own, all of it there from the start: nothing is allocated for a packet, nothing waits, the spin
//!   lock is held for one copy. When the ring is full, packets are lost, and counted.
//! - What the verdict is. At a network layer nobody knows yet what others will decide: a packet is recorded as it comes by,
//!   and a second time if it is discarded there, because a filter blocked it or nobody wanted it, which the layer's twin
//!   shows with the reason (`examples/observing`: those of all layers).
//!
//! All filters are inspections: whatever a callout answers, the traffic goes on. For brevity it needs the base filtering
//! engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::marker::PhantomData;

use kmdf::{ControlDevice, Request, Service};
use portcullis_core::packet::Sought;
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    NtStatus, Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    irql::Passive,
    layer::{Discarded, InboundIpPacket, LayerType, OutboundIpPacket},
    metadata::Discard,
    nbl::{Buffer, Packet},
    pool::{PoolVec, Tag},
    schema::{CalloutFlags, ConditionFlags, Direction, Guid, LayerKind},
    sync::SpinLock,
    time,
    verdict::{Authorization, Seen},
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"RcDr");
/// The control request for records: `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, FILE_READ_ACCESS)`. The answer is
/// how many packets were lost until now, then as many [`Record`]s as have room, the oldest first, which are in the ring no
/// more then. Numbers begin with their lowest byte.
const READ: u32 = 0x12 << 16 | 1 << 14 | 0x800 << 2;

static PLAN: Plan<4> = Plan {
    name: wide!("Recording"),
    description: wide!("Keeps the beginning of each packet"),
    service: wide!("recording"),
    key: Guid::from_u128(0xD75C_184E_63BA_4092_8FE6_07A1_C92B_0000),
    weight: 0x100,
    rows: [
        row::<Passing<InboundIpPacket>>(),
        row::<Passing<OutboundIpPacket>>(),
        row::<Discards<InboundIpPacket>>(),
        row::<Discards<OutboundIpPacket>>(),
    ],
};

const fn row<C: Callout>() -> Row {
    Row::of::<C>(CalloutAction::Inspection).with_flags(
        CalloutFlags::ALLOW_OFFLOAD
            .union(CalloutFlags::ALLOW_RSC)
            .union(CalloutFlags::ALLOW_USO)
            .union(CalloutFlags::ALLOW_URO),
    )
}

/// A packet, as it is read:
///
/// | bytes | |
/// | --- | --- |
/// | 0..8 | the system's time, in units of 100 nanoseconds since 1601 |
/// | 8..16 | the filter that blocked it, 0 if none did |
/// | 16..20 | the packet's bytes, its IP header among them |
/// | 20..24 | why it was discarded, in terms of the module |
/// | 24 | how many bytes follow at 32 |
/// | 25 | 0: it was sent; 1: it was received |
/// | 26 | 0: it came by; 1: it was discarded |
/// | 27 | who discarded it: 0 IP, 1 the transport, 2 WFP |
/// | 32..128 | its first bytes |
type Record = [u8; HEADER + KEPT];

const HEADER: usize = 32;
/// So much of a packet is kept: its headers, and more.
const KEPT: usize = 96;
/// As many packets wait for who reads them.
const RECORDS: usize = 512;

/// What was not read yet, in the order in which it came.
struct Ring {
    records: PoolVec<Record>,
    first: usize,
    count: usize,
    lost: u64,
}

impl Ring {
    fn try_new() -> Result<Self> {
        Ok(Self {
            records: PoolVec::try_zeroed(TAG, RECORDS)?,
            first: 0,
            count: 0,
            lost: 0,
        })
    }

    fn push(&mut self, record: &Record) {
        if self.count == RECORDS {
            self.lost += 1;
        } else if let Some(place) = self.records.get_mut((self.first + self.count) % RECORDS) {
            *place = *record;
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<Record> {
        let record = *self.records.get(self.first).filter(|_| self.count > 0)?;
        self.first = (self.first + 1) % RECORDS;
        self.count -= 1;
        Some(record)
    }
}

static RING: KernelCell<SpinLock<Ring>> = KernelCell::new(TAG);
static ATTACHED: KernelCell<Attached<4>> = KernelCell::new(TAG);

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
    unsafe { kmdf::enter::<Recording>(driver, registry_path) }
}

struct Recording;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Recording {
    const DEVICE: Wide<'static> = wide!(r"\Device\Recording");
    // The system, and administrators.
    const OPENED_BY: Wide<'static> = wide!("D:P(A;;GA;;;SY)(A;;GA;;;BA)");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        device.create_symbolic_link(wide!(r"\DosDevices\Recording"))?;
        RING.try_set_with(|| Ring::try_new().map(SpinLock::new), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: the callouts are unregistered, and requests do not arrive any more.
        drop(unsafe { RING.take(passive) });
    }

    fn control(code: u32, request: &mut Request, _passive: Passive) -> Result<usize> {
        if code != READ {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let ring = RING.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
        let output = request.output().split_first_chunk_mut();
        let (lost, rest) = output.ok_or(NtStatus::BUFFER_TOO_SMALL)?;
        *lost = ring.lock().lost.to_le_bytes();
        let mut length = size_of_val(lost);
        let (places, _) = rest.as_chunks_mut();
        for place in places {
            // One at a time: classifies wait for the lock meanwhile.
            let Some(record) = ring.lock().pop() else {
                break;
            };
            *place = record;
            length += size_of::<Record>();
        }
        Ok(length)
    }
}

/// Packets at the layer `L`.
struct Passing<L>(PhantomData<L>);

impl<L> Callout for Passing<L>
where
    L: for<'a> LayerType<Verdict = Authorization, Data<'a> = Option<Packet<'a>>>,
{
    type Layer = L;

    fn classify(call: &Classify<'_, L>) -> Authorization {
        // A fragment is shown as a packet, then once more as a fragment, and what they make together once more.
        let again = ConditionFlags::IS_FRAGMENT.union(ConditionFlags::IS_REASSEMBLED);
        if !call.fields.known().flags.intersects(again) {
            record(call, call.data, None);
        }
        Authorization::Continue
    }
}

/// What was discarded at the layer `L`.
struct Discards<L>(PhantomData<L>);

impl<L> Callout for Discards<L>
where
    L: for<'a> LayerType<Data<'a> = Option<Packet<'a>>>,
{
    type Layer = Discarded<L>;

    fn classify(call: &Classify<'_, Discarded<L>>) -> Seen {
        record(call, call.data, call.metadata.discard());
        Seen
    }
}

/// Records the packets of a classify.
fn record<L: LayerType>(call: &Classify<'_, L>, packet: Option<Packet<'_>>, why: Option<Discard>) {
    let (Some(ring), Some(packet)) = (RING.get(), packet) else {
        return;
    };
    let size = call.metadata.ip_header_size().map(|size| size as usize);
    let (direction, usual) = match const { L::KIND } {
        LayerKind::InboundIpPacket => (Direction::Inbound, size.unwrap_or(0)),
        _ => (Direction::Outbound, 0),
    };
    let fields = &call.fields;
    let ends = fields.local_address().zip(fields.remote_address());
    let sought = ends.map(|ends| Sought {
        ends: ends.into(),
        ip: size,
        transport: None,
    });
    for buffer in packet.buffers() {
        let header = sought.and_then(|sought| {
            sought.find(usual, |before, first| {
                let length = buffer.length().saturating_add(before);
                Some((copy(buffer, before, first)?, length))
            })
        });
        // Made without the lock.
        let record = record_of(buffer, header, direction, why);
        ring.lock().push(&record);
    }
}

/// Copies what there is from so many bytes before the buffer's start on. How much that is; `None` if it has not so many
/// before its start.
fn copy(buffer: Buffer<'_>, before: usize, room: &mut [u8]) -> Option<usize> {
    let pieces = buffer.chunks_from_before(before)?;
    let bytes = pieces.map_while(core::result::Result::ok).flatten();
    let copied = room.iter_mut().zip(bytes);
    Some(copied.map(|(place, byte)| *place = *byte).count())
}

/// The record of a packet whose IP header begins so many bytes before its buffer's start; without bytes if that is not known.
fn record_of(
    buffer: Buffer<'_>,
    header: Option<usize>,
    direction: Direction,
    why: Option<Discard>,
) -> Record {
    let mut record = [0; HEADER + KEPT];
    let (fields, room) = record.split_at_mut(HEADER);
    let kept = header.and_then(|before| copy(buffer, before, room));
    // The room is less than that holds.
    let kept = kept.and_then(|kept| u8::try_from(kept).ok()).unwrap_or(0);
    let Discard {
        module,
        reason,
        filter,
    } = why.unwrap_or(Discard {
        module: 0,
        reason: 0,
        filter: 0,
    });
    let length = u32::try_from(buffer.length() + header.unwrap_or(0)).unwrap_or(u32::MAX);
    let kinds = [
        kept,
        u8::from(direction == Direction::Inbound),
        u8::from(why.is_some()),
        u8::try_from(module).unwrap_or(u8::MAX),
    ];
    let numbers = [
        time::system_time(),
        filter,
        u64::from(length) | u64::from(reason) << 32,
        u64::from(u32::from_le_bytes(kinds)),
    ];
    let (places, _) = fields.as_chunks_mut();
    for (place, number) in places.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    record
}
