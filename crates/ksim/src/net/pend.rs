//! Decisions that callouts delay: operations (`FwpsPendOperation0`) and classifies (`FwpsPendClassify0`).

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, Direction, LayerId};

use super::card::Offload;
use super::flow::{EndpointKey, State};
use super::host::{Entry, Host, Transit};
use super::indicate::{Filtering, Outcome, PacketId, Ticks};
use super::indicator::{Conversation, Details, Point};
use super::inject::{Absorbed, Fingerprint};
use super::packet::{Packet, Transport};
use super::redirect::{Completion, Redirection, Request};
use super::report::Reason;

/// A packet that waits for a decision about its flow or endpoint.
#[derive(Debug)]
struct Waiting {
    flow: usize,
    id: PacketId,
    outbound: bool,
    hops: u32,
    fingerprint: Fingerprint,
    bytes: Vec<u8>,
    offload: Offload,
    fragments: Vec<PacketId>,
}

impl Waiting {
    fn new(flow: usize, transit: &Transit<'_>) -> Self {
        Self {
            flow,
            id: transit.id,
            outbound: transit.outbound,
            hops: transit.hops,
            fingerprint: Fingerprint::of(transit.packet, transit.outbound),
            bytes: transit.packet.bytes.to_vec(),
            offload: transit.offload,
            fragments: Vec::new(),
        }
    }

    /// The packet alone, once its operation is over.
    fn into_absorbed(self) -> Absorbed {
        Absorbed {
            id: self.id,
            fragments: self.fragments,
            fingerprint: self.fingerprint,
            flow: Some(self.flow),
            outbound: self.outbound,
            hops: self.hops,
        }
    }
}

/// An operation that a callout keeps.
#[derive(Debug)]
pub(super) struct Pended {
    completion_handle: u64,
    /// The layer: bind, listen, or one that authorizes.
    at: Point,
    /// The endpoint of a bind or listen, unless it is the flow's own.
    endpoint: Option<EndpointKey>,
    waiting: Option<Waiting>,
}

/// A classify that a callout keeps.
#[derive(Debug)]
pub(super) struct PendedClassify {
    pend_handle: u64,
    what: Kept,
}

/// What goes on when a pended classify is completed.
#[derive(Debug)]
enum Kept {
    /// A redirection: of a bind or of a connect.
    Redirection {
        at: Point,
        redirection: Redirection,
        waiting: Waiting,
    },
    /// An endpoint that closes.
    Closure(Closing),
}

/// An endpoint that closes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) conversation: Conversation,
    pub(super) endpoint: u64,
    pub(super) parent: u64,
    /// Whether its bind is to be released.
    pub(super) release: bool,
    /// The data flow that ends with it, 0 without.
    pub(super) flow_handle: u64,
}

impl<F: Filtering> Host<F> {
    /// A callout pended an operation at a layer; a packet waits for it.
    pub(super) fn pend(
        &mut self,
        completion_handle: u64,
        at: Point,
        endpoint: Option<EndpointKey>,
        packet: Option<(usize, &Transit<'_>)>,
    ) -> Reason {
        if let Some((flow, _)) = packet {
            self.flows.all[flow].state = State::Pended;
        }
        self.pended.push(Pended {
            completion_handle,
            at,
            endpoint,
            waiting: packet.map(|(flow, transit)| Waiting::new(flow, transit)),
        });
        Reason::AwaitsAuthorization
    }

    /// A callout pended the classify of a redirect layer.
    pub(super) fn pend_redirection(
        &mut self,
        pend_handle: u64,
        at: Point,
        redirection: Redirection,
        flow: usize,
        transit: &Transit<'_>,
    ) -> Reason {
        self.flows.all[flow].state = State::Pended;
        let waiting = Waiting::new(flow, transit);
        self.pended_classifies.push(PendedClassify {
            pend_handle,
            what: Kept::Redirection {
                at,
                redirection,
                waiting,
            },
        });
        Reason::AwaitsAuthorization
    }

    /// Lets packets share the fate of one that waits.
    pub(super) fn pended_shares_fate(&mut self, id: PacketId, others: Vec<PacketId>) {
        let operations = self
            .pended
            .iter_mut()
            .filter_map(|one| one.waiting.as_mut());
        let classifies = self
            .pended_classifies
            .iter_mut()
            .filter_map(|one| match &mut one.what {
                Kept::Redirection { waiting, .. } => Some(waiting),
                Kept::Closure(_) => None,
            });
        let mut all = operations.chain(classifies);
        if let Some(waiting) = all.find(|waiting| waiting.id == id) {
            waiting.fragments.extend(others);
        }
    }

    /// Gives up everything that callouts keep.
    pub(super) fn drop_pended(&mut self) {
        for pended in std::mem::take(&mut self.pended) {
            if let Some(waiting) = pended.waiting {
                self.settle(&waiting.into_absorbed(), false);
            }
        }
        for pended in std::mem::take(&mut self.pended_classifies) {
            match pended.what {
                Kept::Redirection { waiting, .. } => self.settle(&waiting.into_absorbed(), false),
                Kept::Closure(closing) => self.closed(&closing),
            }
        }
    }

    /// Whether an operation with this completion handle waits here.
    #[must_use]
    pub fn awaits(&self, completion_handle: u64) -> bool {
        let mut pended = self.pended.iter();
        pended.any(|pended| pended.completion_handle == completion_handle)
    }

    /// Whether a classify with this pend handle waits here.
    #[must_use]
    pub fn awaits_classify(&self, pend_handle: u64) -> bool {
        let mut pended = self.pended_classifies.iter();
        pended.any(|pended| pended.pend_handle == pend_handle)
    }

    /// `FwpsCompleteOperation0` for the completion handle of a pended operation.
    ///
    /// A pended connect is reauthorized at once (`IS_REAUTHORIZE`, reason `CLASSIFY_COMPLETION`): if
    /// permitted, the packet of a TCP connection goes on, while the packet of another protocol is flushed
    /// and passes if the driver injects it. A pended accept goes back to where it was: the driver injects
    /// the packet, and that is classified anew. A pended bind or listen is classified once more; if that
    /// permits, the packet that showed the endpoint goes on. `false` if there is no such operation.
    pub fn complete(&mut self, now: Ticks, completion_handle: u64) -> bool {
        self.advance_to(now);
        let Some(at) = self
            .pended
            .iter()
            .position(|pended| pended.completion_handle == completion_handle)
        else {
            return false;
        };
        let pended = self.pended.swap_remove(at);
        if matches!(pended.at, Point::Bind | Point::Listen) {
            self.complete_endpoint(pended);
        } else if let Some(waiting) = pended.waiting {
            self.complete_authorization(waiting);
        }
        true
    }

    fn complete_authorization(&mut self, mut waiting: Waiting) {
        let (flow, outbound, hops) = (waiting.flow, waiting.outbound, waiting.hops);
        let bytes = std::mem::take(&mut waiting.bytes);
        let absorbed = waiting.into_absorbed();
        let entry = &self.flows.all[flow];
        let (true, Ok(packet)) = (entry.state == State::Pended, Packet::parse(&bytes)) else {
            // Its flow has ended meanwhile.
            self.settle(&absorbed, false);
            return;
        };
        let transit = Transit {
            hops,
            ..Transit::new(absorbed.id, entry.arrived(), &packet, outbound)
        };
        if entry.direction == Direction::Inbound {
            self.close(flow, State::New);
            self.remember(absorbed);
            return;
        }
        let outcome = self.ask(flow, &transit, 0, ReauthorizeReason::CLASSIFY_COMPLETION);
        if outcome != Outcome::Permit {
            let layer = self.authorizing_layer(flow);
            self.kill(flow, layer);
            self.settle(&absorbed, false);
        } else if self.begin(flow, &transit).is_err() {
            self.settle(&absorbed, false);
        } else if matches!(packet.transport, Transport::Tcp(_)) {
            self.go_on(flow, &transit, absorbed);
        } else {
            self.remember(absorbed);
        }
    }

    /// Sends a packet that waited through the stack.
    fn go_on(&mut self, flow: usize, transit: &Transit<'_>, absorbed: Absorbed) {
        let report = self.pass(flow, transit, Entry::Whole, 0);
        if report.reason.is_some_and(Reason::is_pending) {
            self.share_fate(absorbed.id, absorbed.fragments);
        } else {
            self.settle(&absorbed, report.passed);
        }
    }

    /// Lets the packet that waits go on, or drops it with its flow.
    fn release(&mut self, mut waiting: Waiting, blocked: Option<LayerId>) {
        let (flow, outbound, hops) = (waiting.flow, waiting.outbound, waiting.hops);
        let offload = waiting.offload;
        let bytes = std::mem::take(&mut waiting.bytes);
        let absorbed = waiting.into_absorbed();
        let entry = &mut self.flows.all[flow];
        let (true, Ok(packet)) = (entry.state == State::Pended, Packet::parse(&bytes)) else {
            self.settle(&absorbed, false);
            return;
        };
        if let Some(layer) = blocked {
            self.kill(flow, layer);
            self.settle(&absorbed, false);
            return;
        }
        entry.state = State::New;
        let transit = Transit {
            hops,
            offload,
            ..Transit::new(absorbed.id, entry.arrived(), &packet, outbound)
        };
        self.go_on(flow, &transit, absorbed);
    }

    /// Classifies a bind or a listen once more.
    fn complete_endpoint(&mut self, pended: Pended) {
        let flow = pended.waiting.as_ref().map(|waiting| waiting.flow);
        let endpoint = pended.endpoint.and_then(|key| self.endpoints.get(&key));
        let known = endpoint.map(|endpoint| (endpoint.conversation, endpoint.handle));
        let of_flow = flow.map(|flow| {
            let entry = &self.flows.all[flow];
            (entry.conversation, entry.endpoint_handle)
        });
        let Some((conversation, endpoint_handle)) = known.or(of_flow) else {
            return;
        };
        let details = Details {
            endpoint_handle,
            flags: self.indicator.options.completed_bind_flag,
            ..Details::new(Direction::Outbound)
        };
        let outcome = self.classify_socket(pended.at, &conversation, &details);
        let layer = self.indicator.layer_of(pended.at, &conversation);
        let blocked = (outcome != Outcome::Permit).then_some(layer);
        if let Some(endpoint) = pended.endpoint.and_then(|key| self.endpoints.get_mut(&key)) {
            (endpoint.pended, endpoint.blocked) = (None, blocked);
            endpoint.bound = true;
            if let Some(key) = pended.endpoint
                && endpoint.will_listen
            {
                self.ready(key, true, ConditionFlags::NONE, None);
            }
        } else if let Some(flow) = flow {
            self.flows.all[flow].bound = true;
        }
        if let Some(waiting) = pended.waiting {
            self.release(waiting, blocked);
        }
    }

    /// `FwpsCompleteClassify0` for the pend handle of a classify at a redirect layer or at
    /// `ALE_ENDPOINT_CLOSURE`. `changes` are versions of the layer data that were applied meanwhile, oldest first.
    /// `false` if there is no such classify.
    pub fn complete_classify(
        &mut self,
        now: Ticks,
        pend_handle: u64,
        completion: Completion,
        changes: &[Request],
    ) -> bool {
        self.advance_to(now);
        let Some(at) = self
            .pended_classifies
            .iter()
            .position(|pended| pended.pend_handle == pend_handle)
        else {
            return false;
        };
        match self.pended_classifies.swap_remove(at).what {
            Kept::Closure(closing) => {
                if completion == Completion::Again {
                    self.show_closure(&closing, 0);
                }
                self.closed(&closing);
            }
            Kept::Redirection {
                at,
                mut redirection,
                waiting,
            } => {
                for change in changes {
                    redirection.apply(*change);
                }
                let entry = &mut self.flows.all[waiting.flow];
                let layer = self.indicator.layer_of(at, &entry.conversation);
                if completion == Completion::Permit {
                    let which = usize::from(at == Point::ConnectRedirect);
                    entry.decided[which] = Some(Box::new(redirection));
                }
                self.release(waiting, (completion == Completion::Block).then_some(layer));
            }
        }
        true
    }

    /// An endpoint closes; a callout may keep it open for a while.
    pub(super) fn close_endpoint(&mut self, closing: Closing) {
        let pend_handle = self.handle();
        if self.show_closure(&closing, pend_handle) == Outcome::Pend {
            self.pended_classifies.push(PendedClassify {
                pend_handle,
                what: Kept::Closure(closing),
            });
        } else {
            self.closed(&closing);
        }
    }

    fn show_closure(&mut self, closing: &Closing, pend_handle: u64) -> Outcome {
        let details = Details {
            endpoint_handle: closing.endpoint,
            parent_endpoint_handle: closing.parent,
            completion_handle: pend_handle,
            ..Details::new(Direction::Outbound)
        };
        self.indicator
            .classify(Point::Closure, &closing.conversation, &details)
    }

    /// The endpoint is closed: its bind is released and its data flow is over.
    pub(super) fn closed(&mut self, closing: &Closing) {
        if closing.release {
            let details = Details {
                endpoint_handle: closing.endpoint,
                ..Details::new(Direction::Outbound)
            };
            self.indicator
                .classify(Point::Release, &closing.conversation, &details);
        }
        if closing.flow_handle != 0 {
            self.indicator.filtering.flow_ended(closing.flow_handle);
        }
    }
}
