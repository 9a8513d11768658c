//! The least WFP callout driver that redirects connections later: those over TCP to port 7000 wait until it is known where
//! their server is.
//!
//! What it shows, and what WFP asks for
//! ([using bind or connect redirection](https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection),
//! DDI pages of
//! [`FwpsPendClassify0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpspendclassify0) and
//! [`FwpsCompleteClassify0`](https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpscompleteclassify0)):
//!
//! - A classify does not wait. It pends itself, keeps what is pended, and returns; whatever it answers then, the system is
//!   told to block, and nobody who is asked later has a say.
//! - The decision is made in a work item, at `PASSIVE_LEVEL`: there it may take as long as it takes. It acquires the layer
//!   data, changes and applies it, then completes the classify. The answer is final: unlike an operation that `holding`
//!   pends, what is asked for is not asked again, so nothing has to be remembered.
//! - What somebody has redirected before is left alone.
//! - Each classify is completed exactly once, before the callouts are unregistered: from when the driver stops on, none is
//!   pended. [`PendedClassify`] sees to the rest: it is completed after its layer data has been applied, and its handle
//!   released after that.
//!
//! What it sends connections to is on another machine. For one on this machine, see `redirecting`: that needs a redirect
//! handle, a process and a context.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    layer::AleConnectRedirect,
    pool::Tag,
    redirect::{ConnectRequest, PendedClassify},
    schema::Guid,
    sync::SpinLock,
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"DfDr");
const TCP: u8 = 6;
const PORT: u16 = 7000;

static PLAN: Plan<1> = Plan {
    name: wide!("Deferring"),
    description: wide!("Connections to port 7000 wait until it is known where their server is"),
    service: wide!("deferring"),
    key: Guid::from_u128(0x2F61_D08A_C7E4_4B19_9A35_81EB_6D02_0000),
    weight: 0x100,
    rows: [Row::of::<Connect>(CalloutAction::Unknown)],
};

/// A connection that waits.
struct Waiting {
    remote: SocketAddr,
    classify: PendedClassify<AleConnectRedirect>,
}

/// As many connections at a time; more are blocked.
const PLACES: usize = 64;

struct Table {
    places: [Option<Waiting>; PLACES],
    /// The driver stops: nothing is to wait any more.
    is_closed: bool,
}

static TABLE: SpinLock<Table> = SpinLock::new(Table {
    places: [const { None }; PLACES],
    is_closed: false,
});

static WORK: KernelCell<WorkItem> = KernelCell::new(TAG);
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
    unsafe { kmdf::enter::<Deferring>(driver, registry_path) }
}

struct Deferring;

// SAFETY: `stop` unregisters the callouts, then waits for the work item, which nobody else enqueues.
unsafe impl Service for Deferring {
    const DEVICE: Wide<'static> = wide!(r"\Device\Deferring");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        WORK.try_set_with(|| WorkItem::create(device, Some(work)), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        TABLE.lock().is_closed = true;
        decide(passive);
        if let Some(work) = WORK.get() {
            // What it has taken to decide about is decided about.
            work.flush();
        }
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: no classify enqueues it any more.
        if let Some(work) = unsafe { WORK.take(passive) } {
            work.flush();
        }
    }
}

/// `ALE_CONNECT_REDIRECT`.
struct Connect;

impl Callout for Connect {
    type Layer = AleConnectRedirect;

    fn classify(call: &Classify<'_, AleConnectRedirect>) -> Authorization {
        let fields = &call.fields;
        if call.decided || fields.protocol() != Some(TCP) || fields.remote_port() != Some(PORT) {
            return Authorization::Continue;
        }
        if call.data.is_some_and(ConnectRequest::is_redirected) {
            return Authorization::Continue;
        }
        // What cannot wait goes nowhere: it is not known where its server is.
        defer(call).map_or(Authorization::Block, |()| Authorization::Continue)
    }
}

/// Lets the connection of a classify wait. `None`: it cannot.
fn defer(call: &Classify<'_, AleConnectRedirect>) -> Option<()> {
    let work = WORK.get()?;
    let remote = call.data?.remote()?;
    let handle = call.acquire().ok()?;
    let mut table = TABLE.lock();
    if table.is_closed {
        return None;
    }
    let place = table.places.iter_mut().find(|place| place.is_none())?;
    // Under the lock, so that whoever closes the table finds all that waits. This calls nobody who takes it.
    let classify = handle.pend().ok()?;
    *place = Some(Waiting { remote, classify });
    drop(table);
    work.enqueue();
    Some(())
}

/// The work item.
unsafe extern "C" fn work(_item: WDFWORKITEM) {
    // SAFETY: work items run at PASSIVE_LEVEL.
    decide(unsafe { Passive::assume() });
}

/// Decides about everything that waits, and lets it go on.
fn decide(passive: Passive) {
    for index in 0..PLACES {
        let waiting = TABLE.lock().places[index].take();
        // Not under the lock: a connection that goes on makes others ask.
        if let Some(Waiting { remote, classify }) = waiting {
            let server = find(remote.ip(), passive);
            go_on(classify, remote, server);
        }
    }
}

/// Where the server of a connection is.
#[derive(Clone, Copy)]
enum Server {
    /// Where it was.
    There,
    /// At this address.
    At(IpAddr),
    /// Nowhere.
    Gone,
}

/// Stands for what takes its time: a question to a program, to a service, to a file. Here: a table.
fn find(remote: IpAddr, _may_wait: Passive) -> Server {
    const SERVERS: [(IpAddr, Server); 4] = [
        (v4([198, 51, 100, 1]), Server::At(v4([203, 0, 113, 7]))),
        (v6(0x80), Server::At(v6(0x8007))),
        (v4([198, 51, 100, 2]), Server::Gone),
        (v6(0x82), Server::Gone),
    ];
    // A dual-mode socket asks the IPv6 layer to connect to an IPv4-mapped address: that is IPv4.
    let remote = remote.to_canonical();
    let mut servers = SERVERS.iter();
    servers
        .find(|(address, _)| *address == remote)
        .map_or(Server::There, |(_, server)| *server)
}

const fn v4(address: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(address))
}

/// An address of the documentation's network.
const fn v6(host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host))
}

/// Completes a classify by what was found.
fn go_on(mut classify: PendedClassify<AleConnectRedirect>, remote: SocketAddr, server: Server) {
    let goes_on = match server {
        Server::There => true,
        Server::At(address) => classify
            .writable()
            .is_ok_and(|data| data.connect_to(SocketAddr::new(address, remote.port()))),
        Server::Gone => false,
    };
    if goes_on {
        classify.permit();
    } else {
        classify.block();
    }
}
