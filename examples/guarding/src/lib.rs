//! The least WFP driver whose filters hold while it does not run: nobody connects to TCP port 3389 of this machine unless
//! the driver runs.
//!
//! What it shows, and what WFP asks for
//! ([filter persistence](https://learn.microsoft.com/windows/win32/fwp/object-management),
//! [basic operation](https://learn.microsoft.com/windows/win32/fwp/basic-operation)):
//!
//! - A boot-time filter holds from the start of the network stack until the base filtering engine has started, a persistent
//!   one from then on, and after every start of the system. Together they leave no gap. Neither asks a callout: there is
//!   none while the driver is away.
//! - Their provider and sublayer have to last as long. None of it can be added in a dynamic session.
//! - Within a sublayer the heaviest filter that decides is the last word. So what the driver permits while it runs is a
//!   heavier filter in the same sublayer; in another one, the block would win. It goes with its session, also after a crash.
//! - What stays is found again by its provider, and replaced in one transaction: starts do not add up.
//! - Somebody has to be able to take it away: an administrator by a control request, before the driver is uninstalled.
//!
//! For brevity it needs the base filtering engine to run when it starts, and does not follow its stop.

#![no_std]
#![cfg(windows)]
#![warn(linker_messages)]

// A panic halts the machine with a bug check.
extern crate wdk_panic;

use kmdf::{ControlDevice, Request, Service};
use wdk_alloc::WdkAllocator;
use wdk_sys::{DRIVER_OBJECT, NTSTATUS, PCUNICODE_STRING};
use wfp::{
    NtStatus, Result,
    cell::KernelCell,
    engine::{EngineSession, Label, Transaction},
    irql::Passive,
    layer::{self, AleAuthRecvAccept},
    plain::{Condition, Conditions, Outlives, PlainAction, PlainFilter},
    pool::Tag,
    schema::{Guid, IpVersion},
    sync::WaitLock,
    wide,
    wide::Wide,
};

/// Only for dependencies that might allocate.
#[global_allocator]
static ALLOCATOR: WdkAllocator = WdkAllocator;

const TAG: Tag = Tag::new(*b"GdDr");
const TCP: u8 = 6;
const PORT: u16 = 3389;
/// The control request of who uninstalls the driver: `CTL_CODE(FILE_DEVICE_NETWORK, 0x800, METHOD_BUFFERED,
/// FILE_WRITE_ACCESS)`.
const REMOVE: u32 = 0x12 << 16 | 2 << 14 | 0x800 << 2;

const PROVIDER: Guid = Guid::from_u128(0x93BE_47F0_2C68_4D1A_A4E9_70D5_8B13_0000);
const SUBLAYER: Guid = key(1);

/// A key of this driver's.
const fn key(number: u128) -> Guid {
    Guid::from_u128(PROVIDER.to_u128() | number)
}

const fn label(provider: Option<Guid>) -> Label<'static> {
    Label {
        name: wide!("Guarding"),
        description: wide!("Nobody connects to port 3389 while the driver does not run"),
        provider,
    }
}

/// In which the port is open.
static SESSION: KernelCell<WaitLock<Option<EngineSession>>> = KernelCell::new(TAG);

/// Starts the driver. When it fails, nothing of it is left but the protection.
///
/// # Safety
/// Called by the operating system, once, with the driver's object and its key in the registry.
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(
    driver: &mut DRIVER_OBJECT,
    registry_path: PCUNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: these are the arguments of `DriverEntry`.
    unsafe { kmdf::enter::<Guarding>(driver, registry_path) }
}

struct Guarding;

// SAFETY: nothing is made with the device but its link, which goes with it.
unsafe impl Service for Guarding {
    const DEVICE: Wide<'static> = wide!(r"\Device\Guarding");
    // The system, and administrators.
    const OPENED_BY: Wide<'static> = wide!("D:P(A;;GA;;;SY)(A;;GA;;;BA)");

    fn start(device: ControlDevice, passive: Passive) -> Result {
        device.create_symbolic_link(wide!(r"\DosDevices\Guarding"))?;
        change(passive, protect)?;
        SESSION.try_set_with(|| WaitLock::try_new(TAG, Some(open(passive)?)), passive)?;
        Ok(())
    }

    fn stop(passive: Passive) {
        // The port is closed from here on.
        // SAFETY: requests, which are the only others that use it, do not arrive any more.
        drop(unsafe { SESSION.take(passive) });
    }

    fn control(code: u32, _request: &mut Request, passive: Passive) -> Result<usize> {
        let (REMOVE, Some(session)) = (code, SESSION.get()) else {
            return Err(NtStatus::INVALID_DEVICE_REQUEST);
        };
        // What is in the sublayer goes first.
        drop(session.lock(passive).take());
        change(passive, remove).map(|()| 0)
    }
}

/// Changes what outlives sessions, all or nothing.
fn change(passive: Passive, change: impl FnOnce(&Transaction<'_>) -> Result) -> Result {
    let mut session = EngineSession::open_static(&label(None), passive)?;
    let transaction = session.transaction(passive)?;
    change(&transaction)?;
    transaction.commit()
}

/// Closes the port for good.
fn protect(transaction: &Transaction<'_>) -> Result {
    if !transaction.has_sublayer(SUBLAYER)? {
        transaction.add_persistent_provider(PROVIDER, &label(None), wide!("guarding"))?;
        transaction.add_persistent_sublayer(SUBLAYER, &label(Some(PROVIDER)), 0x100)?;
    }
    delete_filters(transaction)?;
    add(transaction, PlainAction::Block, Outlives::Persistent)?;
    add(transaction, PlainAction::Block, Outlives::BootTime)
}

/// Opens the port as long as the session lasts.
fn open(passive: Passive) -> Result<EngineSession> {
    let mut session = EngineSession::open_dynamic(&label(None), passive)?;
    let transaction = session.transaction(passive)?;
    add(&transaction, PlainAction::Permit, Outlives::Nothing)?;
    transaction.commit()?;
    Ok(session)
}

/// Leaves nothing.
fn remove(transaction: &Transaction<'_>) -> Result {
    if !transaction.has_sublayer(SUBLAYER)? {
        return Ok(());
    }
    delete_filters(transaction)?;
    transaction.delete_sublayer(SUBLAYER)?;
    transaction.delete_provider(PROVIDER)
}

fn delete_filters(transaction: &Transaction<'_>) -> Result {
    for version in [IpVersion::V4, IpVersion::V6] {
        transaction.delete_filters_of(PROVIDER, accepts(version))?;
    }
    Ok(())
}

/// The key of the layer at which connections to this machine are authorized.
const fn accepts(version: IpVersion) -> Guid {
    layer::row::<AleAuthRecvAccept>(version).key()
}

/// Adds a filter for connections to the port, for each IP version.
fn add(transaction: &Transaction<'_>, action: PlainAction, outlives: Outlives) -> Result {
    let mut conditions = Conditions::try_with_capacity(TAG, 2)?;
    conditions.push(&Condition::Protocol(TCP, TCP))?;
    conditions.push(&Condition::LocalPort(PORT, PORT))?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let filter = PlainFilter {
            key: key(0x100 | (outlives as u128) << 4 | version as u128),
            label: label(Some(PROVIDER)),
            layer: accepts(version),
            sublayer: SUBLAYER,
            weight: match action {
                PlainAction::Permit => 2,
                PlainAction::Block => 1,
            },
            action,
            outlives,
        };
        transaction.add_plain_filter(&filter, &mut conditions)?;
    }
    Ok(())
}
