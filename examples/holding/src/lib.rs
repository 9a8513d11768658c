//! The least WFP callout driver that holds connections: those over TCP to port 4444 wait until it is decided about them,
//! later and elsewhere.
//!
//! What it shows, and what WFP asks for (DDI pages of
//! [`FwpsPendOperation0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpspendoperation0) and
//! [`FwpsCompleteOperation0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscompleteoperation0)):
//!
//! - A classify does not wait. It pends the operation, keeps it, and returns; whatever it answers then, the system is told
//!   to block and to absorb.
//! - The decision is made in a work item, at `PASSIVE_LEVEL`: there it may take as long as it takes.
//! - What was decided is written down before the operation is completed: the connection is authorized again at once, and
//!   that cannot be pended. It is authorized again whenever the policy changes, too, until its endpoint closes.
//! - Operations are completed with no lock held that a classify takes.
//! - Each operation is completed exactly once, also when the driver stops. [`PendedOperation`] sees to the first half.
//!
//! The datagram of another protocol than TCP would be gone unless a clone of it were injected later: not shown here.
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::{mem, net::IpAddr};

use kmdf::{ControlDevice, Service, WorkItem};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING, WDFWORKITEM};
use wfp::{
    Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    irql::Passive,
    layer::{AleAuthConnect, AleEndpointClosure},
    pend::PendedOperation,
    pool::Tag,
    schema::{ConditionFlags, Guid},
    sync::SpinLock,
    verdict::{Authorization, Seen},
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"HdDr");
const TCP: u8 = 6;
const PORT: u16 = 4444;

static PLAN: Plan<2> = Plan {
    name: wide!("Holding"),
    description: wide!("Connections to port 4444 wait for a decision"),
    service: wide!("holding"),
    key: Guid::from_u128(0x5E0C_7B42_9D18_4A66_B1F3_2C84_E07A_0000),
    weight: 0x100,
    rows: [
        Row::of::<Connect>(CalloutAction::Unknown),
        Row::of::<Closure>(CalloutAction::Inspection),
    ],
};

/// What is known of the connection of an endpoint.
#[derive(Default)]
enum Place {
    #[default]
    Free,
    /// A classify is about to hold a connection here.
    Reserved,
    /// It waits; with where it goes.
    Held(u64, IpAddr, PendedOperation),
    /// It was decided about: whether it is permitted.
    Decided(u64, bool),
}

/// As many connections at a time; more are blocked.
const PLACES: usize = 64;
static TABLE: SpinLock<[Place; PLACES]> = SpinLock::new([const { Place::Free }; PLACES]);

static WORK: KernelCell<WorkItem> = KernelCell::new(TAG);
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
    unsafe { kmdf::enter::<Holding>(driver, registry_path) }
}

struct Holding;

// SAFETY: `stop` unregisters the callouts, then waits for the work item, which nobody else enqueues.
unsafe impl Service for Holding {
    const DEVICE: Wide<'static> = wide!(r"\Device\Holding");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        WORK.try_set_with(|| WorkItem::create(device, Some(work)), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // What waits is refused, as long as it is this driver that is asked about it again.
        decide(|_| false);
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: no classify enqueues it any more.
        if let Some(work) = unsafe { WORK.take(passive) } {
            // What the last classify held is decided about in it.
            work.flush();
        }
    }
}

/// `ALE_AUTH_CONNECT`.
struct Connect;

impl Callout for Connect {
    type Layer = AleAuthConnect;

    fn classify(call: &Classify<'_, AleAuthConnect>) -> Authorization {
        let fields = &call.fields;
        if call.decided || fields.protocol() != Some(TCP) || fields.remote_port() != Some(PORT) {
            return Authorization::Continue;
        }
        let (Some(endpoint), Some(remote)) = (call.metadata.endpoint(), fields.remote_address())
        else {
            return Authorization::Block;
        };
        if fields.flags().contains(ConditionFlags::IS_REAUTHORIZE) {
            return match find(endpoint) {
                Some(true) => Authorization::Permit,
                _ => Authorization::Block,
            };
        }
        // If it is not held there is no room, and no way to ask.
        hold(call, endpoint, remote);
        Authorization::Block
    }
}

/// What was decided about the connection of an endpoint.
fn find(endpoint: u64) -> Option<bool> {
    TABLE.lock().iter().find_map(|place| match *place {
        Place::Decided(whose, permit) if whose == endpoint => Some(permit),
        _ => None,
    })
}

/// Holds the connection of a classify, if there is room and it can be held.
fn hold(call: &Classify<'_, AleAuthConnect>, endpoint: u64, remote: IpAddr) {
    let Some(work) = WORK.get() else { return };
    let mut table = TABLE.lock();
    // A socket whose connection was refused may try again, and has a place.
    let its = |place: &Place| matches!(*place, Place::Decided(whose, _) if whose == endpoint);
    let free = |place: &Place| matches!(place, Place::Free);
    let mut places = table.iter();
    let Some(index) = places.position(its).or_else(|| table.iter().position(free)) else {
        return;
    };
    table[index] = Place::Reserved;
    drop(table);
    let kept = call.pend().map_or(Place::Free, |operation| {
        Place::Held(endpoint, remote, operation)
    });
    TABLE.lock()[index] = kept;
    work.enqueue();
}

/// The work item.
unsafe extern "C" fn work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    decide(|remote| permits(remote, passive));
}

/// Stands for what takes its time: a question to a program, to a service, to a file. Here: is it one of our own networks?
const fn permits(remote: IpAddr, _may_wait: Passive) -> bool {
    match remote {
        IpAddr::V4(remote) => remote.is_private(),
        IpAddr::V6(remote) => remote.is_unique_local(),
    }
}

/// Decides about everything that waits, and lets it go on.
fn decide(permits: impl Fn(IpAddr) -> bool) {
    for index in 0..PLACES {
        let waiting = match TABLE.lock()[index] {
            Place::Held(endpoint, remote, _) => Some((endpoint, remote)),
            _ => None,
        };
        let Some((endpoint, remote)) = waiting else {
            continue;
        };
        let decided = Place::Decided(endpoint, permits(remote));
        let mut table = TABLE.lock();
        // Its endpoint may have closed meanwhile, or somebody else may have decided.
        let is_held = matches!(table[index], Place::Held(whose, ..) if whose == endpoint);
        let held = is_held.then(|| mem::replace(&mut table[index], decided));
        drop(table);
        // Not under the lock: this authorizes the connection again.
        if let Some(Place::Held(.., operation)) = held {
            operation.complete();
        }
    }
}

/// `ALE_ENDPOINT_CLOSURE`.
struct Closure;

impl Callout for Closure {
    type Layer = AleEndpointClosure;

    fn classify(call: &Classify<'_, AleEndpointClosure>) -> Seen {
        let its = |place: &&mut Place| match **place {
            Place::Held(endpoint, ..) | Place::Decided(endpoint, _) => {
                call.metadata.endpoint() == Some(endpoint)
            }
            Place::Free | Place::Reserved => false,
        };
        let mut table = TABLE.lock();
        let gone = table.iter_mut().find(its).map(mem::take);
        drop(table);
        // What still waited goes on, and finds nobody.
        drop(gone);
        Seen
    }
}
