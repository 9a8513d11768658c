//! The least WFP callout driver that tells what others do: it counts what is forwarded, which ICMP errors come and go, and
//! what anybody discards, by layer and reason.
//!
//! What it shows, and what WFP says of it
//! ([TCP packet flows](https://learn.microsoft.com/windows/win32/fwp/tcp-packet-flows),
//! [`FWPS_DISCARD_METADATA0`](https://learn.microsoft.com/windows/win32/api/fwpstypes/ns-fwpstypes-fwps_discard_metadata0)):
//!
//! - Most layers have a twin that shows what was discarded at them, whether by a filter of anybody's or by the stack
//!   itself. Its metadata say by whom and why: a module (0 IP, 1 the transport, 2 WFP), the module's reason, and the
//!   run-time identifier of the filter that blocked, by which a program finds its name and its provider's
//!   (`FwpmFilterGetById0`).
//! - One type is the callout at all of these layers: a twin has its layer's fields.
//! - A callout there watches. A block would change what the stack answers: no reset for a closed port, no ICMP error. For
//!   `Discarded<L>` there is no such verdict.
//! - What a callout blocks and absorbs is shown nowhere, because it is to go on later.
//! - `IPFORWARD` shows packets between other machines, the ICMP error layers errors, whose type and code are fields. The
//!   driver's sublayer is the heaviest, so that it is asked there before anybody blocks: what the twin then shows was
//!   among it.
//! - The table has a length: what finds no place in it is counted as such.
//!
//! All filters are inspections: whatever a callout answers, the traffic goes on. A program reads the table by a control
//! request. For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

use kmdf::{ControlDevice, Request, Service};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    NtStatus, Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    irql::Passive,
    layer::{
        AleAuthConnect, AleAuthListen, AleAuthRecvAccept, AleResourceAssignment, DatagramData,
        Discarded, InboundIcmpError, InboundIpPacket, InboundTransport, IpForward, LayerType,
        OutboundIcmpError, OutboundIpPacket, OutboundTransport,
    },
    pool::Tag,
    schema::{CalloutFlags, Guid},
    sync::SpinLock,
    verdict::{Authorization, Seen},
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"ObDr");
/// The control request for the table: `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, FILE_READ_ACCESS)`. The answer
/// is how many found no place, then each [`Line`]; numbers begin with their lowest byte.
const READ: u32 = 0x12 << 16 | 1 << 14 | 0x800 << 2;

static PLAN: Plan<15> = Plan {
    name: wide!("Observing"),
    description: wide!("Counts what is discarded, and why"),
    service: wide!("observing"),
    key: Guid::from_u128(0x6A0D_93F7_58C2_4E61_A94B_3C70_D81E_0000),
    weight: u16::MAX,
    rows: [
        row::<Passing<IpForward>>(),
        row::<Passing<InboundIcmpError>>(),
        row::<Passing<OutboundIcmpError>>(),
        row::<Discards<InboundIpPacket>>(),
        row::<Discards<OutboundIpPacket>>(),
        row::<Discards<IpForward>>(),
        row::<Discards<InboundTransport>>(),
        row::<Discards<OutboundTransport>>(),
        row::<Discards<DatagramData>>(),
        row::<Discards<InboundIcmpError>>(),
        row::<Discards<OutboundIcmpError>>(),
        row::<Discards<AleResourceAssignment>>(),
        row::<Discards<AleAuthListen>>(),
        row::<Discards<AleAuthRecvAccept>>(),
        row::<Discards<AleAuthConnect>>(),
    ],
};

/// No packet is looked at: however they were merged, nothing has to be switched off.
const fn row<C: Callout>() -> Row {
    Row::of::<C>(CalloutAction::Inspection).with_flags(
        CalloutFlags::ALLOW_OFFLOAD
            .union(CalloutFlags::ALLOW_RSC)
            .union(CalloutFlags::ALLOW_USO)
            .union(CalloutFlags::ALLOW_URO),
    )
}

/// What is counted by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    /// The run-time identifier of the layer, which also tells the IP version.
    layer: u16,
    /// Who discarded it, or [`NOBODY`].
    module: u16,
    /// The module's reason; of an ICMP error its type, times 256, and its code.
    reason: u32,
    /// The filter that blocked it, 0 if none did.
    filter: u64,
}

/// The module of what is not discarded.
const NOBODY: u16 = u16::MAX;

/// How often there was something of a kind. Several packets that are shown together count once.
#[derive(Clone, Copy)]
struct Line {
    kind: Kind,
    count: u64,
}

impl Line {
    const SIZE: usize = 24;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let Self { kind, count } = self;
        let ends =
            u64::from(kind.layer) | u64::from(kind.module) << 16 | u64::from(kind.reason) << 32;
        let mut bytes = [0; Self::SIZE];
        let (places, _) = bytes.as_chunks_mut();
        for (place, number) in places.iter_mut().zip([ends, kind.filter, count]) {
            *place = number.to_le_bytes();
        }
        bytes
    }
}

/// As many kinds are told apart.
const LINES: usize = 64;

/// The table, filled from its beginning.
static TABLE: SpinLock<[Option<Line>; LINES]> = SpinLock::new([None; LINES]);
/// What found no place there.
static UNCOUNTED: AtomicU64 = AtomicU64::new(0);

fn count(kind: Kind) {
    let mut table = TABLE.lock();
    for place in &mut *table {
        let line = place.get_or_insert(Line { kind, count: 0 });
        if line.kind == kind {
            line.count += 1;
            return;
        }
    }
    drop(table);
    UNCOUNTED.fetch_add(1, Ordering::Relaxed);
}

static ATTACHED: KernelCell<Attached<15>> = KernelCell::new(TAG);

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
    unsafe { kmdf::enter::<Observing>(driver, registry_path) }
}

struct Observing;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Observing {
    const DEVICE: Wide<'static> = wide!(r"\Device\Observing");
    // The system, and administrators.
    const OPENED_BY: Wide<'static> = wide!("D:P(A;;GA;;;SY)(A;;GA;;;BA)");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        device.create_symbolic_link(wide!(r"\DosDevices\Observing"))?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // The filters go first, so that nothing comes, then the callouts.
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
    }

    fn control(code: u32, request: &mut Request, _passive: Passive) -> Result<usize> {
        if code != READ {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        }
        let output = request.output().split_first_chunk_mut();
        let (uncounted, rest) = output.ok_or(NtStatus::BUFFER_TOO_SMALL)?;
        *uncounted = UNCOUNTED.load(Ordering::Relaxed).to_le_bytes();
        let (places, _) = rest.as_chunks_mut();
        let mut length = size_of_val(uncounted);
        for (index, place) in places.iter_mut().enumerate() {
            // A line stays where it is.
            let line = TABLE.lock().get(index).copied().flatten();
            let Some(line) = line else { break };
            *place = line.to_bytes();
            length += Line::SIZE;
        }
        Ok(length)
    }
}

/// What comes by at the layer `L`.
struct Passing<L>(PhantomData<L>);

impl<L: LayerType<Verdict = Authorization>> Callout for Passing<L> {
    type Layer = L;

    fn classify(call: &Classify<'_, L>) -> Authorization {
        // An ICMP error's type and code; `IPFORWARD` has no such fields.
        let known = call.fields.known();
        let [kind, code] = [known.local_port, known.remote_port].map(|field| field.unwrap_or(0));
        count(Kind {
            layer: call.fields.layer().get(),
            module: NOBODY,
            reason: u32::from(kind) << 8 | u32::from(code),
            filter: 0,
        });
        Authorization::Continue
    }
}

/// What was discarded at the layer `L`.
struct Discards<L>(PhantomData<L>);

impl<L: LayerType> Callout for Discards<L> {
    type Layer = Discarded<L>;

    fn classify(call: &Classify<'_, Discarded<L>>) -> Seen {
        let why = call.metadata.discard();
        count(Kind {
            layer: call.fields.layer().get(),
            module: why.map_or(NOBODY, |why| u16::try_from(why.module).unwrap_or(NOBODY)),
            reason: why.map_or(0, |why| why.reason),
            filter: why.map_or(0, |why| why.filter),
        });
        Seen
    }
}
