//! Packets that belong to no connection: those that are forwarded, ICMP errors, and those that were discarded.

use super::{Parts, PolicySource, Portcullis, report};
use crate::capture::Ends;
use crate::connection::{Application, Connection};
use crate::packet::{Done, PathNews};
use crate::policy::Decision;
use portcullis_proto::Counter;
use portcullis_proto::event::{Discard, EventKind, Operation};
use portcullis_proto::policy::Direction;

/// An ICMP error.
#[derive(Clone, Copy, Debug)]
pub struct IcmpError {
    /// Which way it goes.
    pub direction: Direction,
    /// Its ends; the ports are its type and its code.
    pub ends: Ends,
    /// The ends of the packet that it complains about, as its sender sees them, where that is known.
    pub about: Option<Ends>,
    /// The LUID of the network interface that it takes; 0 if unknown.
    pub interface: u64,
}

/// What a discard layer shows.
#[derive(Clone, Copy, Debug)]
pub struct Discarded<'a> {
    /// As much as is known of the connection.
    pub connection: Connection<'a>,
    /// Who did it, and why.
    pub discard: Discard,
}

impl<P: Parts> Portcullis<P> {
    /// Decides a packet that is forwarded, at `IPFORWARD`: local is where it comes from, remote where it goes, `interface`
    /// the LUID of the network interface by which it leaves. Without a
    /// rule about forwarding that matches it passes. Only what is blocked, and what a rule logs, makes an event: it would
    /// be one a packet.
    pub fn forwarded(&self, ends: &Ends, interface: u64) -> Decision {
        let packet = Connection {
            interface,
            ..anonymous(Direction::Outbound, ends)
        };
        let (decision, epoch, is_reported) = self.policy.with(|policy, epoch| {
            let decision = policy.map_or(Decision::permit(), |policy| {
                policy.decide_packet(Operation::Forward, &packet)
            });
            let is_told = !decision.is_permit() && self.is_reported(policy.as_ref(), decision);
            (decision, epoch, is_told || decision.log)
        });
        if !decision.is_permit() {
            self.statistics.count(Counter::ForwardBlocked);
        }
        if is_reported {
            self.make(EventKind::Authorize, decision, epoch, |event| {
                report::connection(event, &packet);
                event.operation = Operation::Forward.raw();
                event.direction = 0;
            });
        }
        decision
    }

    /// Decides an ICMP error, at `INBOUND_ICMP_ERROR` or `OUTBOUND_ICMP_ERROR`. Without a rule about these that matches it
    /// passes.
    pub fn icmp_error(&self, error: &IcmpError) -> Decision {
        let packet = Connection {
            interface: error.interface,
            ..anonymous(error.direction, &error.ends)
        };
        let (decision, epoch, is_reported) = self.policy.with(|policy, epoch| {
            let decision = policy.map_or(Decision::permit(), |policy| {
                policy.decide_packet(Operation::IcmpError, &packet)
            });
            (decision, epoch, self.is_observed(policy.as_ref(), decision))
        });
        if !decision.is_permit() {
            self.statistics.count(Counter::IcmpErrorsBlocked);
        }
        if is_reported {
            self.make(EventKind::IcmpError, decision, epoch, |event| {
                report::icmp_error(event, error);
            });
        }
        decision
    }

    /// Something was done to a connection's packets for the first time.
    pub fn packets_treated(&self, news: &PathNews) {
        let owner = news.owner;
        let decision = Decision {
            rule: owner.rule,
            log: owner.log,
            ..Decision::permit()
        };
        let (is_reported, epoch) = self
            .policy
            .with(|policy, epoch| (self.is_reported(policy.as_ref(), decision), epoch));
        if !is_reported {
            return;
        }
        let ends = Ends {
            protocol: news.protocol,
            local: news.local,
            remote: news.remote,
        };
        let connection = Connection {
            process_id: owner.process_id,
            flow: owner.flow,
            ..anonymous(owner.direction, &ends)
        };
        let kind = match news.done {
            Done::Changed(_) => EventKind::PacketsChanged,
            Done::Dropped(_) => EventKind::PacketsDropped,
        };
        self.make(kind, decision, epoch, |event| {
            report::connection(event, &connection);
            report::packets(event, news);
        });
    }

    /// Somebody discarded something, as a discard layer shows.
    pub fn discarded(&self, discarded: &Discarded<'_>) {
        self.statistics.count(Counter::Discards);
        self.tell(EventKind::Discarded, |event| {
            report::connection(event, &discarded.connection);
            event.value = discarded.discard.to_value();
        });
    }
}

/// A packet's connection: nobody's.
pub(super) const fn anonymous(direction: Direction, ends: &Ends) -> Connection<'static> {
    Connection {
        direction,
        protocol: ends.protocol,
        local: ends.local,
        remote: ends.remote,
        application: Application::UNKNOWN,
        user: &[],
        process_id: 0,
        flow: 0,
        interface: 0,
    }
}
