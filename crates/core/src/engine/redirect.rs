//! Sending connections to proxies, and binding sockets elsewhere.

use super::{Parts, PolicySource, Portcullis, report};
use crate::connection::{Binding, Connection, Endpoint, TCP, UDP};
use crate::policy::{Decision, Effect, Host, PolicyView};
use core::net::IpAddr;
use portcullis_proto::event::EventKind;
use portcullis_proto::policy::{Action, Direction};
use portcullis_proto::{Counter, EffectKind};

/// What a rule makes of a connection, or of a bind, before it is authorized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detour {
    /// Where it goes instead.
    pub target: Endpoint,
    /// The rule's decision.
    pub decision: Decision,
    /// The policy's epoch.
    pub epoch: u64,
    is_reported: bool,
}

impl<P: Parts> Portcullis<P> {
    /// Which proxy a connection is to be sent to, at `ALE_CONNECT_REDIRECT`; `None`: it goes where it goes. What the
    /// rule says is decided again, and reported, when the connection is authorized.
    pub fn proxy_for(&self, connection: &Connection<'_>) -> Option<Detour> {
        if !matches!(connection.protocol, TCP | UDP) {
            return None;
        }
        self.policy.with(|policy, epoch| {
            let policy = policy?;
            let decision = policy.decide(connection, Host::of(connection));
            if decision.action == Action::Block {
                return None;
            }
            let (target, _) = policy.redirect(decision.rule, connection.remote.address)?;
            // What is meant for the proxy itself is there already.
            (!is_one(target, connection.remote)).then(|| Detour {
                target,
                decision,
                epoch,
                is_reported: self.is_reported(Some(&policy), decision),
            })
        })
    }

    /// A connection was sent to the proxy of this process.
    pub fn redirected(&self, connection: &Connection<'_>, detour: &Detour, process_id: u32) {
        self.statistics.count(Counter::Redirected);
        if detour.is_reported {
            let kind = EventKind::Redirected;
            self.make(kind, detour.decision, detour.epoch, |event| {
                report::connection(event, connection);
                report::target(event, detour.target);
                event.value = [u64::from(process_id).into(), 0.into()];
            });
        }
    }

    /// Where a socket is bound instead, at `ALE_BIND_REDIRECT`; `None`: where it asked for.
    pub fn address_for(&self, binding: &Binding<'_>) -> Option<Detour> {
        self.policy.with(|policy, epoch| {
            let policy = policy?;
            let decision = policy.decide_bind(binding);
            let like = binding.local.address;
            let address = policy
                .effects(decision.rule)
                .find_map(|effect| match effect {
                    Effect::Bind { address } if address.is_ipv4() == like.is_ipv4() => {
                        Some(address)
                    }
                    _ => None,
                })?;
            // A server of this machine alone stays one.
            let is_free = address != like && !is_loopback(like);
            is_free.then(|| Detour {
                target: Endpoint::new(address, binding.local.port),
                decision,
                epoch,
                is_reported: self.is_reported(Some(&policy), decision),
            })
        })
    }

    /// A socket was bound elsewhere.
    pub fn bound(&self, binding: &Binding<'_>, detour: &Detour) {
        self.statistics.count(Counter::Bound);
        if detour.is_reported {
            let subject = Connection {
                direction: Direction::Outbound,
                protocol: binding.protocol,
                local: binding.local,
                remote: binding.local,
                application: binding.application,
                user: binding.user,
                process_id: binding.process_id,
                flow: 0,
                interface: 0,
            };
            self.make(EventKind::Bound, detour.decision, detour.epoch, |event| {
                report::connection(event, &subject);
                // It says not what it is for.
                event.direction = 0;
                event.remote_address = [0; 16];
                event.remote_port = 0.into();
                report::target(event, detour.target);
            });
        }
    }

    /// Blocks a connection that goes straight although its rule sends it to a proxy, unless the rule lets it.
    pub(super) fn require_proxy(
        &self,
        policy: &PolicyView<'_>,
        connection: &Connection<'_>,
        decision: &mut Decision,
    ) {
        let is_for_it = decision.action != Action::Block
            && decision.effects.contains(EffectKind::Redirect)
            && matches!(connection.protocol, TCP | UDP);
        let redirect = is_for_it
            .then(|| policy.redirect(decision.rule, connection.remote.address))
            .flatten();
        if let Some((target, otherwise)) = redirect
            && !is_one(target, connection.remote)
        {
            self.statistics.count(Counter::ProxyMissing);
            if otherwise == Action::Block {
                *decision = Decision {
                    action: Action::Block,
                    rule: decision.rule,
                    log: decision.log,
                    ..Decision::permit()
                };
            }
        }
    }
}

/// Whether both are one place.
const fn is_one(one: Endpoint, other: Endpoint) -> bool {
    one.number() == other.number() && one.port == other.port
}

const fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback(),
    }
}
