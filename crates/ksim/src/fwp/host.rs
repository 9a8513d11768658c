//! What the filter engine asks of the kernel: its filters' structures, and calls of callouts' functions.

use std::time::Duration;

use wfp_engine::{CalloutView, FilterEntry, FilterRecord, Host, Wait};
use wfp_schema::{LayerId, NotifyType, NtStatus};

use super::Attached;
use super::give::Arena;
use super::layout::kernel::{
    Classify0, Classify1, FlowDelete, Notify, RawAction, RawCondition, RawFilter,
};
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, DISPATCH, PASSIVE};
use crate::kernel::Machine;
use crate::time::Ticks;
use wfp_schema::Guid;

/// Calls drivers for the filter engine of one machine.
#[derive(Debug, Default)]
pub struct KernelHost {
    machine: Attached,
    /// Services that do not start with the system, in lower case.
    services_off: Vec<String>,
}

/// A callout's classify function, by the version of its registration.
#[derive(Debug, Clone, Copy)]
pub(super) enum ClassifyFn {
    /// `FWPS_CALLOUT_CLASSIFY_FN0`.
    Fn0(Classify0),
    /// `FWPS_CALLOUT_CLASSIFY_FN1` and later.
    Fn1(Classify1),
}

impl ClassifyFn {
    /// Where it is.
    pub(super) fn address(self) -> usize {
        match self {
            Self::Fn0(function) => function as usize,
            Self::Fn1(function) => function as usize,
        }
    }
}

/// The functions of a registered callout.
#[derive(Debug)]
pub struct KernelCallout {
    pub(super) classify: ClassifyFn,
    pub(super) notify: Notify,
    pub(super) flow_delete: Option<FlowDelete>,
}

/// A filter as callouts see it: `FWPS_FILTER0` and everything behind it.
#[derive(Debug)]
pub struct KernelFilter {
    filter: Out<RawFilter>,
    key: Out<Guid>,
    _memory: Arena,
}

// SAFETY: the addresses are of the filter's own memory, which is only copied in and out.
unsafe impl Sync for KernelFilter {}

impl KernelFilter {
    /// Where a callout finds it.
    pub(super) const fn as_in(&self) -> In<RawFilter> {
        self.filter.as_in()
    }
}

/// 100-ns units of a second.
const TICKS_PER_SECOND: Ticks = 10_000_000;

impl KernelHost {
    /// The host of a machine on which these services do not start with the system.
    pub(super) fn new(services_off: &[String]) -> Self {
        Self {
            services_off: services_off
                .iter()
                .map(|name| name.to_lowercase())
                .collect(),
            ..Self::default()
        }
    }

    pub(super) fn attach(&self, machine: std::sync::Weak<Machine>) {
        // A machine boots once.
        self.machine.set(machine).ok();
    }
}

impl Host for KernelHost {
    type Callout = KernelCallout;
    type Filter = KernelFilter;

    fn service_starts_automatically(&self, service: &str) -> bool {
        !self.services_off.contains(&service.to_lowercase())
    }

    fn make_filter(&self, record: &FilterRecord) -> KernelFilter {
        let mut memory = Arena::default();
        let conditions: Vec<_> = record
            .conditions()
            .iter()
            .map(|condition| RawCondition {
                field: u16::try_from(condition.field.get()).unwrap_or(u16::MAX),
                reserved: 0,
                match_type: condition.match_type.value(),
                value: memory.condition_value(&condition.value),
            })
            .collect();
        let weight = memory.uint64(record.effective_weight());
        let provider_context = record.visible_provider_context().map_or(0, |object| {
            let raw = super::show::provider_context(&mut memory, object);
            memory.put(raw).address()
        });
        let raw = RawFilter {
            id: record.id().get(),
            weight,
            sublayer_weight: record.sublayer_weight(),
            flags: record.runtime_flags().bits(),
            condition_count: u32::try_from(conditions.len()).unwrap_or(u32::MAX),
            conditions: if conditions.is_empty() {
                Out::null()
            } else {
                memory.put_all(&conditions)
            },
            action: RawAction {
                kind: record.action().value(),
                callout: record.callout().map_or(0, wfp_engine::CalloutId::get),
            },
            context: record.initial_context(),
            provider_context,
        };
        let filter = memory.put(raw);
        let key = memory.put(record.key());
        KernelFilter {
            filter,
            key,
            _memory: memory,
        }
    }

    fn notify(
        &self,
        callout: &CalloutView<'_, Self>,
        notify_type: NotifyType,
        filter: &FilterEntry<Self>,
        context: &mut u64,
    ) -> NtStatus {
        // Only a processor can run a driver.
        let Some(cpu) = Cpu::current() else {
            return NtStatus::INVALID_DEVICE_STATE;
        };
        let key = match notify_type {
            NotifyType::DeleteFilter => In::null(),
            NotifyType::AddFilter | NotifyType::AddFilterPostCommit => filter.host().key.as_in(),
        };
        let notify = callout.host().notify;
        let raw = filter.host().filter;
        let status = cpu.enter_driver(Callback::new("notifyFn", notify as usize), PASSIVE, || {
            notify(notify_type.value(), key, raw)
        });
        if let Some(raw) = raw.get() {
            *context = raw.context;
        }
        NtStatus::from_i32(status)
    }

    fn flow_delete(&self, callout: &CalloutView<'_, Self>, layer: LayerId, context: u64) {
        let (Some(cpu), Some(flow_delete)) = (Cpu::current(), callout.host().flow_delete) else {
            return;
        };
        let id = callout.id().get();
        cpu.enter_driver(
            Callback::new("flowDeleteFn", flow_delete as usize),
            DISPATCH,
            || {
                flow_delete(layer.get(), id, context);
            },
        );
    }

    fn now(&self) -> Duration {
        let ticks = self
            .machine
            .get()
            .and_then(std::sync::Weak::upgrade)
            .map_or(0, |machine| machine.time().now());
        duration(ticks)
    }

    fn wait(&self, wait: Wait) {
        let Some(cpu) = Cpu::current() else {
            std::thread::yield_now();
            return;
        };
        let (what, until) = match wait {
            Wait::Transaction { until } => ("the end of another session's transaction", until),
            Wait::Callout(_) => ("the end of a callout's calls", None),
            Wait::Filter(_) => ("the end of classify calls with a deleted filter", None),
            Wait::Subscriber => (
                "the end of a callback about the base filtering engine's state",
                None,
            ),
        };
        let mut again = false;
        cpu.machine().wait(cpu, what, until.map(ticks), || {
            std::mem::replace(&mut again, true)
        });
    }
}

fn duration(ticks: Ticks) -> Duration {
    let nanoseconds = u32::try_from(ticks % TICKS_PER_SECOND).unwrap_or(0) * 100;
    Duration::new(ticks / TICKS_PER_SECOND, nanoseconds)
}

fn ticks(duration: Duration) -> Ticks {
    duration
        .as_secs()
        .saturating_mul(TICKS_PER_SECOND)
        .saturating_add(Ticks::from(duration.subsec_nanos()).div_ceil(100))
}
