//! Giving the network stack what drivers asked of it.

use crate::cpu::Cpu;
use crate::kernel::Machine;
use crate::net::{Filtering, Host, Injection};

use wfp_engine::FlowId;

use super::stack::{InjectedStreamData, StackRequest};

impl Machine {
    /// Gives `host`, the stack on `cpu`, everything that drivers asked of it since the last time.
    ///
    /// What concerns a flow of another processor's host is left for that one. Returns whether anything was for
    /// this host: it may have led to more.
    pub fn serve_stack<F: Filtering>(&self, cpu: &Cpu, host: &mut Host<F>) -> bool {
        let mut served = false;
        // What concerns another host's stream stays where it is, in order.
        let mine = |request: &StackRequest| match request {
            StackRequest::InjectStream(InjectedStreamData { flow_handle, .. })
            | StackRequest::ContinueStream { flow_handle, .. } => {
                host.has_flow(*flow_handle)
                    || self.fwp.engine.flow(FlowId::new(*flow_handle)).is_none()
            }
            _ => true,
        };
        for request in self.fwp.take_requests(mine) {
            if serve(self, cpu, host, &request) {
                served = true;
            } else if self.processors() > 1 {
                self.fwp.ask(request);
            }
        }
        served
    }
}

/// Whether `request` was for `host`.
fn serve<F: Filtering>(
    machine: &Machine,
    cpu: &Cpu,
    host: &mut Host<F>,
    request: &StackRequest,
) -> bool {
    match request {
        StackRequest::Inject(packet) => {
            if packet.processor % machine.processors() != cpu.index() {
                return false;
            }
            host.inject(&Injection {
                point: packet.point,
                bytes: &packet.bytes,
                mark: packet.mark,
                origin: packet.origin,
                link: 0,
                hops: packet.hops,
            });
            true
        }
        StackRequest::InjectStream(data) => {
            // Of a flow that has ended nothing goes on.
            host.stream_inject(data.flow_handle, &data.injection);
            true
        }
        StackRequest::Complete { completion_handle } => {
            host.complete(machine.time().now(), *completion_handle)
        }
        StackRequest::CompleteClassify {
            pend_handle,
            completion,
            changes,
        } => host.complete_classify(machine.time().now(), *pend_handle, *completion, changes),
        StackRequest::AbortFlow { flow_handle } => host.abort(*flow_handle),
        StackRequest::ContinueStream { flow_handle, stage } => {
            host.stream_continue(*flow_handle, *stage);
            true
        }
    }
}
