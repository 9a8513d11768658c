//! The least WFP callout driver that redirects connections: those over TCP to port 80 go to a proxy of this machine.
//!
//! What it shows, and what WFP asks for
//! ([using bind or connect redirection](https://learn.microsoft.com/windows-hardware/drivers/network/using-bind-or-connect-redirection)):
//!
//! - The proxy tells the driver of itself by a control request, as long as its handle of the device is open: a local target
//!   needs its process. Without a proxy connections go where they were to go.
//! - Whoever redirects has a redirect handle. With it the driver asks who has redirected a connection: what it has, what the
//!   proxy says it connects for others, and what another redirector has, is left alone. So is the proxy's own process.
//! - The layer data is acquired, changed and applied exactly once: [`WritableLayerData`](wfp::redirect::WritableLayerData)
//!   sees to that on every path.
//! - The proxy learns where a connection was to go: from the context that it asks its socket for
//!   (`SIO_QUERY_WFP_CONNECTION_REDIRECT_CONTEXT`). WFP owns that memory.
//!
//! The proxy listens at port 8080 of both loopback addresses, and sets the records of the connection that it serves
//! (`SIO_SET_WFP_CONNECTION_REDIRECT_RECORDS`) before it connects itself.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kmdf::{ControlDevice, File, Request, Service};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    NtStatus, Result,
    attachment::{Attached, Plan, Row},
    callout::{Callout, Classify},
    cell::KernelCell,
    engine::CalloutAction,
    irql::Passive,
    layer::AleConnectRedirect,
    pool::Tag,
    redirect::{ConnectRequest, LocalProxy, RedirectContext, RedirectHandle},
    schema::{Guid, codes::ConnectionRedirectState},
    sync::SpinLock,
    verdict::Authorization,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"RdDr");
const TCP: u8 = 6;
const PORT: u16 = 80;
const PROXY_PORT: u16 = 8080;
/// The control request of a proxy: `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED, FILE_WRITE_ACCESS)`.
const REGISTER: u32 = 0x12 << 16 | 2 << 14 | 0x800 << 2;

static PLAN: Plan<1> = Plan {
    name: wide!("Redirecting"),
    description: wide!("Connections to port 80 go to a proxy"),
    service: wide!("redirecting"),
    key: Guid::from_u128(0x0D47_9AE1_63B5_4E0F_8C2B_F518_46D3_0000),
    // As heavy as others that redirect: who is asked first redirects, and this driver leaves alone what another has.
    weight: 0x1000,
    rows: [Row::of::<Redirecting>(CalloutAction::Unknown)],
};

/// Who listens.
#[derive(Clone, Copy)]
struct Proxy {
    process: u32,
    /// The opening of the device by which it has told of itself.
    file: File,
}

static PROXY: SpinLock<Option<Proxy>> = SpinLock::new(None);

static HANDLE: KernelCell<RedirectHandle> = KernelCell::new(TAG);
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
    unsafe { kmdf::enter::<Redirecting>(driver, registry_path) }
}

/// The driver, and its callout at `ALE_CONNECT_REDIRECT`.
struct Redirecting;

// SAFETY: `stop` unregisters the callouts; nothing else is made with the device.
unsafe impl Service for Redirecting {
    const DEVICE: Wide<'static> = wide!(r"\Device\Redirecting");
    // The system, and administrators.
    const OPENED_BY: Wide<'static> = wide!("D:P(A;;GA;;;SY)(A;;GA;;;BA)");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        device.create_symbolic_link(wide!(r"\DosDevices\Redirecting"))?;
        HANDLE.try_set_with(|| RedirectHandle::create(PLAN.key, passive), passive)?;
        ATTACHED.try_set_with(|| Attached::new(device.wdm()?, &PLAN, passive), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // SAFETY: nobody else uses it.
        drop(unsafe { ATTACHED.take(passive) });
        // SAFETY: the callouts, which use it, are gone.
        if let Some(handle) = unsafe { HANDLE.take(passive) } {
            handle.into_inner().destroy(passive);
        }
    }

    fn control(code: u32, request: &mut Request, _passive: Passive) -> Result<usize> {
        let (REGISTER, Some(file)) = (code, request.file()) else {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        };
        let process = request.process_id();
        let mut proxy = PROXY.lock();
        let registered = *proxy.get_or_insert(Proxy { process, file });
        drop(proxy);
        if registered.file == file {
            Ok(0)
        } else {
            Err(NtStatus::DEVICE_BUSY)
        }
    }

    fn file_gone(file: File, _passive: Passive) {
        PROXY.lock().take_if(|proxy| proxy.file == file);
    }
}

impl Callout for Redirecting {
    type Layer = AleConnectRedirect;

    fn classify(call: &Classify<'_, AleConnectRedirect>) -> Authorization {
        let fields = &call.fields;
        if call.decided || fields.protocol() != Some(TCP) || fields.remote_port() != Some(PORT) {
            return Authorization::Continue;
        }
        let (Some(handle), Some(proxy)) = (HANDLE.get(), *PROXY.lock()) else {
            return Authorization::Continue;
        };
        let is_untouched = handle.state(call.metadata.redirect_records())
            == Some(ConnectionRedirectState::NotRedirected)
            && !call.data.is_some_and(ConnectRequest::is_redirected);
        if !is_untouched || call.metadata.process_id() == Some(proxy.process.into()) {
            return Authorization::Continue;
        }
        // What cannot be redirected goes where it was to go.
        send(call, handle, proxy).map_or(Authorization::Continue, |()| Authorization::Permit)
    }
}

/// Sends the connection to the proxy. `None`: it could not be, and stays as it is.
fn send(
    call: &Classify<'_, AleConnectRedirect>,
    handle: &RedirectHandle,
    proxy: Proxy,
) -> Option<()> {
    let original = call.data?.remote()?;
    let proxy = LocalProxy {
        address: SocketAddr::new(
            // A dual-mode socket asks the IPv6 layer to connect to an IPv4-mapped address: that is IPv4.
            match original.ip().to_canonical() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            },
            PROXY_PORT,
        ),
        process: proxy.process,
        handle,
        context: RedirectContext::try_copy_of(TAG, &told(original)).ok()?,
    };
    let mut classify = call.acquire().ok()?;
    classify.writable().ok()?.redirect_to(proxy).then_some(())
}

/// What the proxy is told: the address as IPv6, an IPv4 one mapped, then the port, both in network order.
const fn told(original: SocketAddr) -> [u8; 18] {
    let address = match original.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut told = [0; 18];
    let (first, last) = told.split_at_mut(16);
    first.copy_from_slice(&address.octets());
    last.copy_from_slice(&original.port().to_be_bytes());
    told
}
