//! The base filtering engine's state, and who is told of its changes.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_engine::SubscriptionId;
use wfp_schema::{BfeState, NtStatus};

use super::layout::kernel::BfeStateChanged;
use crate::access::Out;
use crate::cpu::{Callback, DISPATCH, PASSIVE};
use crate::export::exports;
use crate::kernel::Machine;
use crate::verifier::ARGUMENT;

/// How the verifier calls a subscription.
const SUBSCRIPTION: &str = "BFE state subscription";

/// The subscriptions of drivers, by their handles.
pub(super) type State = Mutex<HashMap<usize, SubscriptionId>>;

/// The base filtering engine of a machine, to start and to stop as its service would be.
///
/// The change happens as deferred work: on the next processor that has time, at `PASSIVE_LEVEL`, with the
/// subscribers' callbacks in it. After [`Kernel::on`](crate::Kernel::on) it has happened.
#[derive(Debug, Clone, Copy)]
pub struct Bfe<'a>(&'a Machine);

impl<'a> Bfe<'a> {
    pub(super) const fn new(machine: &'a Machine) -> Self {
        Self(machine)
    }

    /// Its state now.
    #[must_use]
    pub fn state(self) -> BfeState {
        self.0.fwp.engine.bfe_state()
    }

    /// Starts it: `START_PENDING`, then `RUNNING`.
    pub fn start(self) {
        self.0
            .time()
            .defer("start of the base filtering engine", |cpu| {
                cpu.machine().fwp.engine.start_bfe();
            });
    }

    /// Stops it: `STOP_PENDING`, in which sessions can still be used, and `STOPPED` once what the callbacks have
    /// left as deferred work has run.
    pub fn stop(self) {
        self.0
            .time()
            .defer("stop of the base filtering engine", |cpu| {
                if cpu.machine().fwp.engine.begin_stop_bfe() {
                    cpu.machine()
                        .time()
                        .defer("end of the base filtering engine", |cpu| {
                            cpu.machine().fwp.engine.finish_stop_bfe();
                        });
                }
            });
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmbfestateget0>
    fn FwpmBfeStateGet0(call) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        if call.machine().fwp.subscriptions.lock().is_empty() {
            call.violation(&ARGUMENT, "called before FwpmBfeStateSubscribeChanges0");
        }
        call.machine().fwp.engine.bfe_state().value()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0>
    fn FwpmBfeStateSubscribeChanges0(
        call, device: usize, callback: Option<BfeStateChanged>, context: usize, handle: Out<usize>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32();
    {
        let Some(callback) = callback else {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        };
        if device == 0 || handle.is_null() {
            return NtStatus::FWP_NULL_POINTER.to_i32();
        }
    }
    then {
        let machine = call.machine();
        let subscription = machine.fwp.engine.subscribe(move |state| {
            // Changes are made on processors only, see `Bfe`.
            if let Some(cpu) = crate::Cpu::current() {
                let told = Callback::new("FWPM_SERVICE_STATE_CHANGE_CALLBACK0", callback as usize);
                cpu.enter_driver(told, PASSIVE, || callback(context, state.value()));
            }
        });
        let number = machine.ndis.new_handle();
        machine.fwp.subscriptions.lock().insert(number, subscription);
        machine.verifier().track(&call, SUBSCRIPTION, number, "", 0);
        handle.set(number);
        NtStatus::SUCCESS.to_i32()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmbfestateunsubscribechanges0>
    fn FwpmBfeStateUnsubscribeChanges0(call, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        call.machine().verifier().untrack(&call, SUBSCRIPTION, handle);
        let Some(subscription) = call.machine().fwp.subscriptions.lock().remove(&handle) else {
            return NtStatus::INVALID_HANDLE.to_i32();
        };
        match call.machine().fwp.engine.unsubscribe(subscription) {
            Ok(()) => NtStatus::SUCCESS.to_i32(),
            Err(status) => status.to_i32(),
        }
    }
}
