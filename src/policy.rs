//! The policy in force.

use core::{
    num::NonZeroU64,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use portcullis_core::{Connection, Decision, Policy, PolicySource, PolicyView};
use portcullis_proto::{Counter, EventKind, EventRecord};
use wfp::{
    NtStatus, Result,
    flow::{self, FlowId},
    irql::Passive,
    pool::PoolVec,
    swap::{Prepared, Swap},
    sync::WaitLock,
};

use crate::{
    management, packets, processes,
    state::{self, Core, tag},
};

/// A policy with its place in the order of policies.
struct Loaded {
    policy: Policy<PoolVec<u8>>,
    epoch: u64,
}

/// Where the policy is: read by every decision without a lock, replaced as a whole.
pub(crate) struct PolicyStore {
    current: Swap<Loaded>,
    /// Rises with every change of the policy in force.
    epoch: AtomicU64,
    /// Somebody has said what is to be in force, be it nothing.
    was_set: AtomicBool,
    /// Held by who sets a policy, so that epochs rise in the order of the policies.
    setting: WaitLock<()>,
}

/// What a status reply tells of the policy.
pub(crate) struct Summary {
    pub(crate) epoch: u64,
    pub(crate) hash: u64,
    pub(crate) rules: usize,
}

impl PolicyStore {
    pub(crate) fn try_new() -> Result<Self> {
        Ok(Self {
            current: Swap::try_new(tag::POLICY)?,
            epoch: AtomicU64::new(0),
            was_set: AtomicBool::new(false),
            setting: WaitLock::try_new(tag::POLICY, ())?,
        })
    }

    pub(crate) fn summary(&self) -> Summary {
        let current = self.current.read();
        Summary {
            epoch: self.epoch(),
            hash: current.as_ref().map_or(0, |loaded| loaded.policy.hash()),
            rules: current.map_or(0, |loaded| loaded.policy.view().rule_count()),
        }
    }

    /// Whether somebody has said what is to be in force.
    pub(crate) fn was_set(&self) -> bool {
        self.was_set.load(Ordering::Acquire)
    }

    /// Puts a policy in force, or withdraws the one that is, with the filters that it needs.
    fn set(&self, policy: Option<Policy<PoolVec<u8>>>, passive: Passive) -> Result {
        let setting = self.setting.lock(passive);
        let epoch = self.epoch() + 1;
        let new = policy
            .map(|policy| self.current.prepare(Loaded { policy, epoch }))
            .transpose()
            .inspect_err(|_| state::count(Counter::OutOfMemory))?;
        management::set_policy(Successor { store: self, new }, passive)?;
        self.was_set.store(true, Ordering::Release);
        drop(setting);
        Ok(())
    }
}

/// What is about to come into force: a policy, or none.
pub(crate) struct Successor<'s> {
    store: &'s PolicyStore,
    new: Option<Prepared<'s, Loaded>>,
}

impl<'s> Successor<'s> {
    /// The policy; `None` if there is to be none.
    pub(crate) fn view(&self) -> Option<PolicyView<'_>> {
        self.new.as_ref().map(|new| new.policy.view())
    }

    /// Whether no policy is in force until then.
    pub(crate) fn is_first(&self) -> bool {
        self.store.current.read().is_none()
    }

    /// Puts it in force. This cannot fail.
    pub(crate) fn publish(self, passive: Passive) -> Published<'s> {
        let old = match self.new {
            Some(new) => new.publish(passive),
            None => self.store.current.take(passive),
        };
        // After the policy: a flow that was decided in between is decided again.
        self.store.epoch.fetch_add(1, Ordering::Release);
        drop(old);
        Published { store: self.store }
    }
}

/// What has come into force.
pub(crate) struct Published<'s> {
    store: &'s PolicyStore,
}

impl Published<'_> {
    /// Withdraws the policy again, after which there is none.
    pub(crate) fn withdraw(self, passive: Passive) {
        let store = self.store;
        Successor { store, new: None }.publish(passive);
    }
}

impl PolicySource for PolicyStore {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    fn with<T>(&self, with: impl FnOnce(Option<PolicyView<'_>>, u64) -> T) -> T {
        match self.current.read() {
            Some(loaded) => {
                let view = loaded.policy.view();
                let view = processes::ancestry().map_or(view, |known| view.with_ancestry(known));
                with(Some(view), loaded.epoch)
            }
            None => with(None, self.epoch()),
        }
    }

    fn decided(
        &self,
        policy: (&PolicyView<'_>, u64),
        connection: &Connection<'_>,
        decision: Decision,
    ) -> bool {
        packets::decided(policy, connection, decision)
    }

    fn ended(&self, connection: &Connection<'_>) {
        packets::ended(connection);
    }
}

/// Sets the compiled policy in `bytes`; none if it is empty.
///
/// # Errors
/// `STATUS_DATA_NOT_ACCEPTED` if it is not valid, `STATUS_INSUFFICIENT_RESOURCES`, or why a filter
/// that it needs could not be added, or its protection at boot not be changed. The policy in force stays then.
pub(crate) fn set(core: &Core, bytes: &[u8], passive: Passive) -> Result {
    let (policy, hash, rules) = if bytes.is_empty() {
        (None, 0, 0)
    } else {
        if bytes.len() > portcullis_proto::policy::MAX_SIZE {
            core.statistics().count(Counter::PolicyRejected);
            return Err(NtStatus::DATA_NOT_ACCEPTED);
        }
        let copy = PoolVec::try_copy_of(tag::POLICY, bytes)
            .inspect_err(|_| core.statistics().count(Counter::OutOfMemory))?;
        let policy = Policy::new(copy).map_err(|_| {
            core.statistics().count(Counter::PolicyRejected);
            NtStatus::DATA_NOT_ACCEPTED
        })?;
        let (hash, rules) = (policy.hash(), policy.view().rule_count());
        (Some(policy), hash, rules)
    };
    core.policy().set(policy, passive)?;
    core.statistics().count(Counter::PoliciesSet);
    // What is held waits for its answer, or its time. What lives may not go on under every policy.
    core.reexamine(|flow| {
        let ended = NonZeroU64::new(flow).is_none_or(|id| flow::abort(FlowId::new(id)).is_ok());
        if !ended {
            core.statistics().count(Counter::FlowRemoveFailed);
        }
    });
    let event = EventRecord {
        kind: EventKind::PolicyChanged.raw(),
        time: wfp::time::system_time().into(),
        epoch: core.policy().epoch().into(),
        value: [hash.into(), (rules as u64).into()],
        ..EventRecord::default()
    };
    state::write_event(core, &event);
    Ok(())
}
