//! Protection at boot: the filters that hold while the driver does not decide.
//!
//! They are not the session's: the system keeps them, and brings them back with every start. The boot-time ones hold
//! from the start of the network stack until the base filtering engine (BFE) has started, the persistent ones from then
//! on. Both lie in a sublayer of their own, into which the driver's own filters move as long as there is such
//! protection: within a sublayer the heaviest filter that decides is the last word, and the driver's are the heaviest.
//! So while the driver has a policy its callouts decide; without one they have no opinion, and the next filter is one
//! of these.
//!
//! What is added here is found again by its provider, whoever added it, and replaced in one transaction.

use portcullis_core::{
    Action, Direction,
    boot::{Boot, BootCondition, BootFilter, Point},
};
use portcullis_proto::Family;
use wfp::{
    NtStatus, Result,
    engine::{EngineSession, Label, Transaction},
    irql::Passive,
    layer::{self, AleAuthConnect, AleAuthRecvAccept},
    plain::{Condition, Conditions, Outlives, PlainAction, PlainFilter},
    schema::{Guid, IpVersion},
    wide,
    wide::Wide,
};

use crate::{
    callouts::{self, Object},
    management::{DESCRIPTION, SERVICE, SUBLAYER_WEIGHT},
    state::tag,
};

const NAME: Wide<'static> = wide!("Portcullis boot protection");

/// Heavier than any of these filters are the driver's own.
const WEIGHT: u64 = 0x4000_0000_0000_0000;

/// How many filters there are of each kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) persistent: u32,
    pub(crate) boot_time: u32,
}

impl Count {
    /// All of them.
    pub(crate) const fn all(self) -> u32 {
        self.persistent + self.boot_time
    }
}

/// Whether there is room for such filters, in this transaction's view.
pub(crate) fn exists(transaction: &Transaction<'_>) -> Result<bool> {
    transaction.has_sublayer(callouts::key(Object::BootSublayer))
}

/// Makes the provider and the sublayer, if they are not there.
pub(crate) fn make_room(passive: Passive) -> Result {
    change(passive, |transaction| {
        if exists(transaction)? {
            return Ok(());
        }
        let provider = callouts::key(Object::BootProvider);
        match transaction.add_persistent_provider(provider, &label(None), SERVICE) {
            // Half of what an earlier instance made.
            Err(NtStatus::FWP_ALREADY_EXISTS) => {}
            added => added?,
        }
        transaction.add_persistent_sublayer(
            callouts::key(Object::BootSublayer),
            &label(Some(provider)),
            SUBLAYER_WEIGHT,
        )
    })
}

/// Puts these filters in the place of all there are.
pub(crate) fn replace(boot: &Boot<'_>, passive: Passive) -> Result<Count> {
    change(passive, |transaction| {
        delete(transaction)?;
        let mut count = Count::default();
        for filter in boot.filters() {
            let mut conditions = conditions(&filter)?;
            add(transaction, &filter, Outlives::Persistent, &mut conditions)?;
            count.persistent += 1;
            if filter.is_boot_time() {
                add(transaction, &filter, Outlives::BootTime, &mut conditions)?;
                count.boot_time += 1;
            }
        }
        Ok(count)
    })
}

/// Deletes the filters. Their provider and sublayer stay.
pub(crate) fn delete_filters(passive: Passive) -> Result {
    change(passive, delete)
}

/// Deletes everything. Nobody else's filter may be in the sublayer any more.
pub(crate) fn remove(passive: Passive) -> Result {
    change(passive, |transaction| {
        delete(transaction)?;
        match transaction.delete_sublayer(callouts::key(Object::BootSublayer)) {
            Err(NtStatus::FWP_SUBLAYER_NOT_FOUND) => {}
            deleted => deleted?,
        }
        match transaction.delete_provider(callouts::key(Object::BootProvider)) {
            Err(NtStatus::FWP_PROVIDER_NOT_FOUND) => Ok(()),
            deleted => deleted,
        }
    })
}

/// Changes what outlives sessions, all or nothing. What is persistent may not be added in a dynamic session, so this
/// is one of its own.
fn change<T>(passive: Passive, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
    let mut session = EngineSession::open_static(&label(None), passive)?;
    let changed = session.transaction(passive).and_then(|transaction| {
        let changed = change(&transaction)?;
        transaction.commit()?;
        Ok(changed)
    });
    // The handle is gone also if closing it failed.
    let _ = session.close(passive);
    changed
}

fn delete(transaction: &Transaction<'_>) -> Result {
    for point in Point::ALL {
        transaction.delete_filters_of(callouts::key(Object::BootProvider), layer_key(point))?;
    }
    Ok(())
}

fn add(
    transaction: &Transaction<'_>,
    filter: &BootFilter<'_>,
    outlives: Outlives,
    conditions: &mut Conditions,
) -> Result {
    let point = filter.point();
    let number = filter.number();
    let object = if outlives == Outlives::BootTime {
        Object::BootTimeFilter(number)
    } else {
        Object::PersistentFilter(number)
    };
    let plain = PlainFilter {
        key: callouts::key(object),
        label: label(Some(callouts::key(Object::BootProvider))),
        layer: layer_key(point),
        sublayer: callouts::key(Object::BootSublayer),
        weight: WEIGHT - u64::from(filter.place()),
        action: match filter.action() {
            Action::Permit => PlainAction::Permit,
            _ => PlainAction::Block,
        },
        outlives,
    };
    transaction.add_plain_filter(&plain, conditions).map(drop)
}

fn conditions(filter: &BootFilter<'_>) -> Result<Conditions> {
    let mut conditions = Conditions::try_with_capacity(tag::POLICY, filter.conditions().count())?;
    for condition in filter.conditions() {
        conditions.push(&match condition {
            BootCondition::Loopback => Condition::Loopback,
            BootCondition::Protocol(first, last) => Condition::Protocol(first, last),
            BootCondition::LocalPort(first, last) => Condition::LocalPort(first, last),
            BootCondition::RemotePort(first, last) => Condition::RemotePort(first, last),
            BootCondition::LocalV4(first, last) => Condition::LocalV4(first, last),
            BootCondition::RemoteV4(first, last) => Condition::RemoteV4(first, last),
            BootCondition::LocalV6(first, last) => Condition::LocalV6(first, last),
            BootCondition::RemoteV6(first, last) => Condition::RemoteV6(first, last),
            BootCondition::Interface(luid) => Condition::Interface(luid),
            BootCondition::InterfaceType(first, last) => {
                Condition::InterfaceType(first.into(), last.into())
            }
            BootCondition::Application(path) => Condition::Application(path),
        })?;
    }
    Ok(conditions)
}

const fn label(provider: Option<Guid>) -> Label<'static> {
    Label {
        name: NAME,
        description: DESCRIPTION,
        provider,
    }
}

const fn layer_key(point: Point) -> Guid {
    let version = match point.family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    match point.direction {
        Direction::Outbound => layer::row::<AleAuthConnect>(version),
        Direction::Inbound => layer::row::<AleAuthRecvAccept>(version),
    }
    .key()
}
