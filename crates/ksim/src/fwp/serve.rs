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
        // What concerns another host stays where it is, in order: a packet that is injected behind an operation's
        // completion must not come before it.
        let ended = |flow: u64| self.fwp.engine.flow(FlowId::new(flow)).is_none();
        let mine = |request: &StackRequest| match request {
            // There is nobody else.
            _ if self.processors() == 1 => true,
            StackRequest::Inject(packet) => packet.processor % self.processors() == cpu.index(),
            StackRequest::Complete { completion_handle } => host.awaits(*completion_handle),
            StackRequest::CompleteClassify { pend_handle, .. } => {
                host.awaits_classify(*pend_handle)
            }
            StackRequest::InjectStream(InjectedStreamData { flow_handle, .. })
            | StackRequest::AbortFlow { flow_handle }
            | StackRequest::ContinueStream { flow_handle, .. } => {
                host.has_flow(*flow_handle) || ended(*flow_handle)
            }
        };
        for request in self.fwp.take_requests(mine) {
            served |= serve(self, host, &request);
        }
        served
    }
}

/// Whether `request` was for `host`.
fn serve<F: Filtering>(machine: &Machine, host: &mut Host<F>, request: &StackRequest) -> bool {
    match request {
        StackRequest::Inject(packet) => {
            let headed = packet
                .sender
                .map(|sender| host.with_ip_header(sender, &packet.bytes));
            let bytes = match &headed {
                None => &packet.bytes,
                Some(Some(headed)) => headed,
                // Its socket has been closed meanwhile.
                Some(None) => return true,
            };
            host.inject(&Injection {
                point: packet.point,
                bytes,
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
