//! The callouts of a driver that is at its layers from its start to its stop, and their filters.
//!
//! A [`Plan`] is a table: a row for each callout. [`Callouts`] registers its rows for both IP versions, [`Filters`] then
//! lets the engine ask them about everything at their layers. They are undone the other way round: without its filter
//! a callout is not called any more, and can be unregistered; with a filter and without its callout, traffic would be
//! blocked. A start that fails in between has left nothing. [`Attached`] is both, for a driver that has nothing to do in
//! between.
//!
//! A driver that follows the base filtering engine keeps its [`Callouts`], and makes and drops its [`Filters`] as the engine
//! comes and goes. One whose filters come and go by themselves uses [`engine`](crate::engine) itself.

use core::fmt;

use wfp_schema::{CalloutFlags, FilterFlags, Guid, IpVersion, NtStatus};

use crate::{
    callout::Callout,
    device::Device,
    engine::{CalloutAction, CatchAll, EngineSession, Label},
    flow::CalloutId,
    irql::Passive,
    layer,
    registration::Registration,
    wide::Wide,
};

/// A callout at its layer, for both IP versions, with a filter that asks it about everything.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    layers: [Guid; 2],
    action: CalloutAction,
    flags: CalloutFlags,
    register: Register,
}

/// [`Registration::register`] of a callout.
type Register =
    fn(Device, IpVersion, Guid, CalloutFlags, Passive) -> Result<Registration, NtStatus>;

impl Row {
    /// A row for the callout `C`, which is asked by filters with this action. A filter that is not an inspection permits
    /// while the callout is not registered, which is the case during start and stop only.
    #[must_use]
    pub const fn of<C: Callout>(action: CalloutAction) -> Self {
        Self {
            layers: [
                layer::row::<C::Layer>(IpVersion::V4).key(),
                layer::row::<C::Layer>(IpVersion::V6).key(),
            ],
            action,
            flags: CalloutFlags::NONE,
            register: Registration::register::<C>,
        }
    }

    /// The row with these flags of its callout.
    #[must_use]
    pub const fn with_flags(self, flags: CalloutFlags) -> Self {
        Self { flags, ..self }
    }
}

/// What a driver is in the filter engine.
#[derive(Debug)]
pub struct Plan<const N: usize> {
    /// What tools show as the name of its objects.
    pub name: Wide<'static>,
    /// What tools show as their description.
    pub description: Wide<'static>,
    /// The name of the driver's service.
    pub service: Wide<'static>,
    /// A key whose last 16 bits are 0, the provider's. Those of the other objects have the same bits before these.
    pub key: Guid,
    /// The weight of its sublayer: heavier ones are asked first.
    pub weight: u16,
    /// Its callouts, at most 128.
    pub rows: [Row; N],
}

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

impl<const N: usize> Plan<N> {
    /// The key with these last bits.
    const fn key(&self, last: usize) -> Guid {
        Guid::from_u128(self.key.to_u128() | last as u128)
    }

    const fn sublayer(&self) -> Guid {
        self.key(1)
    }

    const fn callout(&self, row: usize, version: IpVersion) -> Guid {
        self.key(0x100 | row << 1 | version as usize)
    }

    const fn filter(&self, row: usize, version: IpVersion) -> Guid {
        self.key(0x200 | row << 1 | version as usize)
    }
}

/// The registered callouts of a plan.
///
/// They are unregistered when this is dropped at `PASSIVE_LEVEL`, which waits until they are not in use any more.
/// Dropped above that level they stay.
#[must_use = "callouts that are dropped are unregistered"]
pub struct Callouts<const N: usize> {
    registered: [[Option<Registration>; 2]; N],
}

impl<const N: usize> Callouts<N> {
    /// Registers every row, for both IP versions.
    ///
    /// # Errors
    /// As [`Registration::register`]; no callout is registered then.
    pub fn register(device: Device, plan: &Plan<N>, passive: Passive) -> Result<Self, NtStatus> {
        const { assert!(N <= 128, "the keys of two rows would be the same") };
        let mut this = Self {
            registered: [const { [None, None] }; N],
        };
        for (index, (row, places)) in plan.rows.iter().zip(&mut this.registered).enumerate() {
            for (version, place) in VERSIONS.into_iter().zip(places) {
                let key = plan.callout(index, version);
                *place = Some((row.register)(device, version, key, row.flags, passive)?);
            }
        }
        Ok(this)
    }

    /// The run-time identifier of a row's callout.
    #[must_use]
    pub fn id(&self, row: usize, version: IpVersion) -> Option<CalloutId> {
        let [v4, v6] = self.registered.get(row)?;
        let registration = match version {
            IpVersion::V4 => v4,
            IpVersion::V6 => v6,
        };
        registration.as_ref().map(Registration::id)
    }

    /// Unregisters them, last first, as [`Registration::unregister_at_last`] does.
    pub fn unregister(mut self, passive: Passive, when_busy: impl FnMut(NtStatus)) {
        self.clear(passive, when_busy);
    }

    fn clear(&mut self, passive: Passive, mut when_busy: impl FnMut(NtStatus)) {
        for place in self.registered.iter_mut().flatten().rev() {
            if let Some(registration) = place.take() {
                registration.unregister_at_last(passive, &mut when_busy);
            }
        }
    }
}

impl<const N: usize> Drop for Callouts<N> {
    fn drop(&mut self) {
        if let Some(passive) = Passive::check() {
            self.clear(passive, |_| ());
        }
    }
}

impl<const N: usize> fmt::Debug for Callouts<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.registered).finish()
    }
}

/// The objects of a plan in the engine, from the provider to the filters. They go when this is dropped.
#[derive(Debug)]
#[must_use = "filters that are dropped are deleted"]
pub struct Filters {
    _session: EngineSession,
}

// SAFETY: a shared reference offers nothing.
unsafe impl Sync for Filters {}

impl Filters {
    /// Adds everything in one transaction, in a dynamic session.
    ///
    /// # Errors
    /// The base filtering engine has to be running. Whatever it answers, nothing was added.
    pub fn add<const N: usize>(plan: &Plan<N>, passive: Passive) -> Result<Self, NtStatus> {
        let provider = Label {
            name: plan.name,
            description: plan.description,
            provider: None,
        };
        let label = Label {
            provider: Some(plan.key),
            ..provider
        };
        let sublayer = plan.sublayer();
        let mut session = EngineSession::open_dynamic(&provider, passive)?;
        let transaction = session.transaction(passive)?;
        transaction.add_provider(plan.key, &provider, plan.service)?;
        transaction.add_sublayer(sublayer, &label, plan.weight)?;
        for (index, row) in plan.rows.iter().enumerate() {
            for (version, layer) in VERSIONS.into_iter().zip(row.layers) {
                let callout = plan.callout(index, version);
                transaction.add_callout(callout, &label, layer)?;
                transaction.add_filter(&CatchAll {
                    key: plan.filter(index, version),
                    label,
                    layer,
                    sublayer,
                    weight: 1,
                    action: row.action,
                    callout,
                    flags: match row.action {
                        CalloutAction::Inspection => FilterFlags::NONE,
                        _ => FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED,
                    },
                })?;
            }
        }
        transaction.commit()?;
        Ok(Self { _session: session })
    }
}

/// A plan in force: its callouts are registered and asked. When it is dropped at `PASSIVE_LEVEL` the filters go first, and
/// then the [callouts](Callouts).
#[derive(Debug)]
#[must_use = "what is dropped is undone"]
pub struct Attached<const N: usize> {
    // Fields are dropped in this order.
    _filters: Filters,
    _callouts: Callouts<N>,
}

impl<const N: usize> Attached<N> {
    /// Registers the callouts, then adds the filters.
    ///
    /// # Errors
    /// As [`Callouts::register`] and [`Filters::add`]; nothing is left then.
    pub fn new(device: Device, plan: &Plan<N>, passive: Passive) -> Result<Self, NtStatus> {
        let callouts = Callouts::register(device, plan, passive)?;
        Ok(Self {
            _filters: Filters::add(plan, passive)?,
            _callouts: callouts,
        })
    }
}
