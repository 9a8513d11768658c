//! The least WFP callout driver that follows sockets and flows from their beginning to their end: it counts both, and the
//! bytes that went each way.
//!
//! What it shows, and what WFP asks for
//! ([associating context with a data flow](https://learn.microsoft.com/windows-hardware/drivers/network/associating-context-with-a-data-flow)):
//!
//! - The life of a socket: `ALE_RESOURCE_ASSIGNMENT` when it is bound, `ALE_FLOW_ESTABLISHED` when a flow of it begins,
//!   `STREAM` or `DATAGRAM_DATA` for its data, `ALE_ENDPOINT_CLOSURE` and `ALE_RESOURCE_RELEASE` when it closes.
//! - A flow gets a context for the callout that counts its data, which is then called for such flows only
//!   (`CONDITIONAL_ON_FLOW`).
//! - A context is a number: a place in a table and how often the place was taken. What arrives late finds nothing, where
//!   a pointer would find what is gone.
//! - `flow_deleted` is called exactly once for each association, possibly before `associate` returns: the place is ready
//!   before, and given back by whoever learns that nobody else will do it.
//! - A callout is busy while a flow has a context of it. So a stop removes them all, after the filters are gone; and
//!   again while it is busy, because a flow may have begun just before.
//!
//! All filters are inspections: whatever a callout answers, the traffic goes on. A program reads the numbers by a control
//! request. For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::{
    num::NonZeroU64,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use kmdf::{ControlDevice, Request, Service};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    NtStatus, Result,
    attachment::{Callouts, Filters, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    flow::{self, Association, CalloutId},
    irql::Passive,
    layer::{
        self, AleEndpointClosure, AleFlowEstablished, AleResourceAssignment, AleResourceRelease,
        DatagramData, LayerType, Stream,
    },
    nbl::{Buffer, Packet},
    pool::Tag,
    schema::{CalloutFlags, Direction, Guid, IpVersion},
    stream::DataDirection,
    sync::SpinLock,
    verdict::{Authorization, Seen, StreamVerdict},
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"AcDr");
const TCP: u8 = 6;
/// The control request for the numbers: `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, FILE_READ_ACCESS)`.
const READ: u32 = 0x12 << 16 | 1 << 14 | 0x800 << 2;

/// The network card may merge and split segments; datagrams are counted as they are.
const SEGMENTS: CalloutFlags = CalloutFlags::ALLOW_OFFLOAD.union(CalloutFlags::ALLOW_RSC);
/// Called for flows with a context only.
const CONDITIONAL: CalloutFlags = SEGMENTS.union(CalloutFlags::CONDITIONAL_ON_FLOW);

/// The rows of [`PLAN`] whose callouts have contexts.
const STREAM: usize = 0;
const DATAGRAM: usize = 1;

static PLAN: Plan<6> = Plan {
    name: wide!("Accounting"),
    description: wide!("Counts sockets, flows and bytes"),
    service: wide!("accounting"),
    key: Guid::from_u128(0xE290_5BC8_74A1_4F63_8D17_C6B3_0F9E_0000),
    weight: 0x100,
    rows: [
        Row::of::<StreamData>(CalloutAction::Inspection).with_flags(CONDITIONAL),
        Row::of::<Datagrams>(CalloutAction::Inspection).with_flags(CONDITIONAL),
        Row::of::<Established>(CalloutAction::Inspection).with_flags(SEGMENTS),
        Row::of::<Assigned>(CalloutAction::Inspection).with_flags(SEGMENTS),
        Row::of::<Released>(CalloutAction::Inspection).with_flags(SEGMENTS),
        Row::of::<Closed>(CalloutAction::Inspection).with_flags(SEGMENTS),
    ],
};

/// The numbers, in the order in which they are read.
static NUMBERS: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];
const ASSIGNED: usize = 0;
const RELEASED: usize = 1;
const CLOSED: usize = 2;
const FLOWS_BEGUN: usize = 3;
const FLOWS_ENDED: usize = 4;
/// Of flows that have ended.
const SENT: usize = 5;
const RECEIVED: usize = 6;

fn add(number: usize, count: u64) {
    NUMBERS[number].fetch_add(count, Ordering::Relaxed);
}

/// A flow that is followed.
#[derive(Clone, Copy)]
struct Flow {
    at: Association,
    sent: u64,
    received: u64,
}

/// A place for a flow, and how often it was taken.
#[derive(Clone, Copy)]
struct Place {
    taken: u32,
    flow: Option<Flow>,
}

/// As many flows at a time; more are not followed.
const PLACES: usize = 256;

struct Table([Place; PLACES]);

static TABLE: SpinLock<Table> = SpinLock::new(Table(
    [Place {
        taken: 0,
        flow: None,
    }; PLACES],
));

impl Table {
    /// Takes a place; its context.
    fn enter(&mut self, at: Association) -> Option<NonZeroU64> {
        let free = |(_, place): &(usize, &mut Place)| place.flow.is_none();
        let (index, place) = self.0.iter_mut().enumerate().find(free)?;
        place.taken = place.taken.wrapping_add(1);
        place.flow = Some(Flow {
            at,
            sent: 0,
            received: 0,
        });
        NonZeroU64::new(u64::from(place.taken) << 32 | (index as u64 + 1))
    }

    /// The place of a context, if it is still that one's.
    fn place(&mut self, context: NonZeroU64) -> Option<&mut Option<Flow>> {
        let number = usize::try_from(context.get() & 0xFFFF_FFFF).ok()?;
        let place = self.0.get_mut(number.checked_sub(1)?)?;
        (u64::from(place.taken) == context.get() >> 32).then_some(&mut place.flow)
    }

    /// Gives a place back.
    fn leave(&mut self, context: NonZeroU64) -> Option<Flow> {
        self.place(context)?.take()
    }

    /// Counts data of a flow.
    fn count(&mut self, context: Option<NonZeroU64>, sent: usize, received: usize) {
        if let Some(Some(flow)) = context.and_then(|context| self.place(context)) {
            flow.sent += sent as u64;
            flow.received += received as u64;
        }
    }
}

/// A context is gone from its flow, or was never there.
fn leave(context: NonZeroU64) {
    let flow = TABLE.lock().leave(context);
    if let Some(flow) = flow {
        add(FLOWS_ENDED, 1);
        add(SENT, flow.sent);
        add(RECEIVED, flow.received);
    }
}

fn count(context: Option<NonZeroU64>, sent: usize, received: usize) {
    TABLE.lock().count(context, sent, received);
}

/// The identifiers of the callouts that have contexts, by row and IP version.
static IDS: [[AtomicU32; 2]; 2] = [const { [const { AtomicU32::new(0) }; 2] }; 2];

static CALLOUTS: KernelCell<Callouts<6>> = KernelCell::new(TAG);
static FILTERS: KernelCell<Filters> = KernelCell::new(TAG);

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
    unsafe { kmdf::enter::<Accounting>(driver, registry_path) }
}

struct Accounting;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Accounting {
    const DEVICE: Wide<'static> = wide!(r"\Device\Accounting");
    // The system, and administrators.
    const OPENED_BY: Wide<'static> = wide!("D:P(A;;GA;;;SY)(A;;GA;;;BA)");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        device.create_symbolic_link(wide!(r"\DosDevices\Accounting"))?;
        let callouts = CALLOUTS.try_set_with(
            || Callouts::register(device.wdm()?, &PLAN, passive),
            passive,
        )?;
        for row in [STREAM, DATAGRAM] {
            for version in [IpVersion::V4, IpVersion::V6] {
                let id = callouts.id(row, version).map_or(0, CalloutId::get);
                IDS[row][version as usize].store(id, Ordering::Relaxed);
            }
        }
        // A classify comes after this.
        FILTERS.try_set_with(|| Filters::add(&PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses them.
        drop(unsafe { FILTERS.take(passive) });
        remove_contexts();
        // SAFETY: as above.
        if let Some(callouts) = unsafe { CALLOUTS.take(passive) } {
            callouts
                .into_inner()
                .unregister(passive, |_| remove_contexts());
        }
    }

    fn control(code: u32, request: &mut Request, _passive: Passive) -> Result<usize> {
        if code != READ {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let (places, _) = request.output().as_chunks_mut();
        for (place, number) in places.iter_mut().zip(&NUMBERS) {
            *place = number.load(Ordering::Relaxed).to_le_bytes();
        }
        Ok(size_of_val(&NUMBERS).min(places.len() * 8))
    }
}

/// Takes our contexts off all flows. `flow_deleted` may run within: no lock is held.
fn remove_contexts() {
    for index in 0..PLACES {
        let flow = TABLE.lock().0[index].flow;
        if let Some(flow) = flow {
            // What is pending or absent is on its way already.
            let _ = flow::remove(flow.at);
        }
    }
}

/// `ALE_FLOW_ESTABLISHED`.
struct Established;

impl Callout for Established {
    type Layer = AleFlowEstablished;

    fn classify(call: &Classify<'_, AleFlowEstablished>) -> Seen {
        let version = call.fields.version();
        let (row, layer) = if call.fields.protocol() == Some(TCP) {
            (STREAM, layer::row::<Stream>(version).id())
        } else {
            (DATAGRAM, layer::row::<DatagramData>(version).id())
        };
        let Some(flow) = call.metadata.flow() else {
            return Seen;
        };
        let at = Association {
            flow,
            layer,
            callout: CalloutId::new(IDS[row][version as usize].load(Ordering::Relaxed)),
        };
        let context = TABLE.lock().enter(at);
        if let Some(context) = context {
            add(FLOWS_BEGUN, 1);
            if flow::associate(at, context).is_err() {
                leave(context);
            }
        }
        Seen
    }
}

/// `STREAM`.
struct StreamData;

impl Callout for StreamData {
    type Layer = Stream;

    const FLOW_CONTEXTS: bool = true;

    fn classify(call: &Classify<'_, Stream>) -> StreamVerdict {
        if let Some(data) = call.data {
            match data.direction() {
                DataDirection::Send => count(call.flow_context, data.length(), 0),
                DataDirection::Receive => count(call.flow_context, 0, data.length()),
            }
        }
        StreamVerdict::Permit
    }

    fn flow_deleted(context: NonZeroU64) {
        leave(context);
    }
}

/// `DATAGRAM_DATA`.
struct Datagrams;

impl Callout for Datagrams {
    type Layer = DatagramData;

    const FLOW_CONTEXTS: bool = true;

    fn classify(call: &Classify<'_, DatagramData>) -> Authorization {
        let lengths = call
            .data
            .iter()
            .flat_map(Packet::buffers)
            .map(Buffer::length);
        match call.fields.direction() {
            // On the way out the transport's header is in front of the data.
            Some(Direction::Outbound) => {
                let header = call.metadata.transport_header_size().unwrap_or(0) as usize;
                let data = lengths.map(|length| length.saturating_sub(header)).sum();
                count(call.flow_context, data, 0);
            }
            _ => count(call.flow_context, 0, lengths.sum()),
        }
        Authorization::Continue
    }

    fn flow_deleted(context: NonZeroU64) {
        leave(context);
    }
}

/// A callout that counts its calls.
macro_rules! counting {
    ($($(#[$meta:meta])* $name:ident at $layer:ty, $verdict:expr => $number:ident;)*) => {$(
        $(#[$meta])*
        struct $name;

        impl Callout for $name {
            type Layer = $layer;

            fn classify(_: &Classify<'_, $layer>) -> <$layer as LayerType>::Verdict {
                add($number, 1);
                $verdict
            }
        }
    )*};
}

counting! {
    /// `ALE_RESOURCE_ASSIGNMENT`.
    Assigned at AleResourceAssignment, Authorization::Continue => ASSIGNED;
    /// `ALE_RESOURCE_RELEASE`.
    Released at AleResourceRelease, Seen => RELEASED;
    /// `ALE_ENDPOINT_CLOSURE`.
    Closed at AleEndpointClosure, Seen => CLOSED;
}
