//! The least WFP callout driver that redirects binds: sockets that are bound to port 6881 get the address of a tunnel.
//!
//! What it shows, and what WFP asks for
//! ([using bind or connect redirection](https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection)):
//!
//! - A socket is bound once for all its connections, before it is known whom it is for: only what it is bound to can be
//!   asked for here, and whose it is (`ALE_APP_ID`, `ALE_USER_ID`). Where a connection goes is changed at
//!   `ALE_CONNECT_REDIRECT`, where its local side cannot be.
//! - Binds have no redirect records: what others have changed is seen in the earlier versions of the request. It is left
//!   alone, whoever was asked first.
//! - The layer data is acquired, changed and applied exactly once: [`WritableLayerData`](wfp::redirect::WritableLayerData)
//!   sees to that on every path. Only the address is changed; the port stays.
//! - A socket that names a loopback address keeps it: it is for this machine.
//!
//! What cannot get the address is refused, because it would go around the tunnel. A socket for both IP versions that is
//! bound to all addresses is one of IPv6; with an address of IPv6 it reaches nothing over IPv4 any more.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kmdf::{ControlDevice, Service};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    irql::Passive,
    layer::AleBindRedirect,
    pool::Tag,
    schema::Guid,
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"BdDr");

/// Which sockets are bound to the tunnel.
const PORT: u16 = 6881;
/// The tunnel's addresses.
const TUNNEL_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 2));
const TUNNEL_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, 2));

static PLAN: Plan<1> = Plan {
    name: wide!("Binding"),
    description: wide!("Sockets at port 6881 get the address of a tunnel"),
    service: wide!("binding"),
    key: Guid::from_u128(0x91B3_6A0F_48DE_4C72_8E15_D7A2_0C64_0000),
    // As heavy as others that redirect: who is asked first redirects, and this driver leaves alone what another has.
    weight: 0x1000,
    rows: [Row::of::<Binding>(CalloutAction::Unknown)],
};

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
    unsafe { kmdf::enter::<Binding>(driver, registry_path) }
}

/// The driver, and its callout at `ALE_BIND_REDIRECT`.
struct Binding;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Binding {
    const DEVICE: Wide<'static> = wide!(r"\Device\Binding");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
    }
}

impl Callout for Binding {
    type Layer = AleBindRedirect;

    fn classify(call: &Classify<'_, AleBindRedirect>) -> Authorization {
        let Some(request) = call.data.filter(|_| !call.decided) else {
            return Authorization::Continue;
        };
        if call.fields.local_port() != Some(PORT) || request.is_redirected() {
            return Authorization::Continue;
        }
        // A dual-mode socket names an address of IPv4 as an IPv4-mapped one.
        let local = request.local().map(|local| local.ip().to_canonical());
        let tunnel = match local {
            Some(local) if local.is_loopback() => return Authorization::Continue,
            Some(IpAddr::V4(_)) => TUNNEL_V4,
            _ => TUNNEL_V6,
        };
        bind(call, tunnel).map_or(Authorization::Block, |()| Authorization::Permit)
    }
}

/// Gives the socket another address. `None`: it could not be.
fn bind(call: &Classify<'_, AleBindRedirect>, address: IpAddr) -> Option<()> {
    let mut classify = call.acquire().ok()?;
    classify.writable().ok()?.bind_to(address).then_some(())
}
