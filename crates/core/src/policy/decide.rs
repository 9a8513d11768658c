//! Deciding a connection.

use super::content::ContentMatch;
use super::effect::Effect;
use super::matching::Facts;
use super::view::PolicyView;
use crate::ask::Terms;
use crate::connection::{Binding, Connection, Listener, TCP, UDP};
use portcullis_proto::effect::{EffectKind, EffectSet};
use portcullis_proto::event::{NO_RULE, Operation};
use portcullis_proto::policy::{
    Action, Dimension, Direction, HOST_SUFFIX, HostRecord, LEAF, LeafRecord, MAX_DEPTH,
    RULE_CONTENT, RULE_HOST, RULE_LOG, RuleRecord,
};
use zerocopy::little_endian::U32;

/// A rule's place in the policy, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleIndex(pub u32);

impl RuleIndex {
    /// The number that events carry: [`NO_RULE`] for none.
    #[must_use]
    pub const fn raw(rule: Option<Self>) -> u32 {
        match rule {
            Some(Self(rule)) => rule,
            None => NO_RULE,
        }
    }
}

/// What is known of the host that a connection, or a datagram, is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'h> {
    /// Not known yet.
    Pending,
    /// There is none, or none that will ever be known.
    Never,
    /// Its name in lower case, without a trailing dot.
    Known(&'h [u8]),
}

impl Host<'static> {
    /// What is known when the connection begins.
    #[must_use]
    pub const fn of(connection: &Connection<'_>) -> Self {
        match connection.protocol {
            TCP | UDP => Self::Pending,
            _ => Self::Never,
        }
    }
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says another thing, and any of them may hold together"
)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The rule that decided; `None`: the default action, or nothing yet, did.
    pub rule: Option<RuleIndex>,
    /// The rule wants its matches to be logged.
    pub log: bool,
    /// The host name may change the decision, or the rule that took it. Such a decision is always a permit.
    pub host_dependent: bool,
    /// What is found in the flow's data may change the decision, unless that is, or becomes, a block.
    pub content_dependent: bool,
    /// One of the rules that look for contents in it does so out of band.
    pub out_of_band: bool,
    /// The kinds of effects that the rule has.
    pub effects: EffectSet,
    /// On what terms somebody is asked, if the action says so.
    pub ask: Terms,
    /// There is no policy, so this is no opinion: others decide. It is a permit for those who need an answer.
    pub undecided: bool,
}

impl Decision {
    /// Permit, by no rule.
    #[must_use]
    pub const fn permit() -> Self {
        Self {
            action: Action::Permit,
            rule: None,
            log: false,
            host_dependent: false,
            content_dependent: false,
            out_of_band: false,
            effects: EffectSet::NONE,
            ask: Terms::NONE,
            undecided: false,
        }
    }

    /// No opinion: there is no policy.
    #[must_use]
    pub const fn undecided() -> Self {
        Self {
            undecided: true,
            ..Self::permit()
        }
    }

    /// The decision once there is an answer, or (`None`) never will be: then the rule's default decides. A decision that
    /// asks nobody stays as it is.
    #[must_use]
    pub const fn settled(self, answer: Option<Action>) -> Self {
        if !matches!(self.action, Action::Ask) {
            return self;
        }
        let action = match answer {
            Some(action) => action,
            None => self.ask.otherwise,
        };
        Self {
            action,
            content_dependent: self.content_dependent && matches!(action, Action::Permit),
            out_of_band: self.out_of_band && matches!(action, Action::Permit),
            ..self
        }
    }

    /// The block of a rule one of whose literals was found.
    #[must_use]
    pub const fn content(found: ContentMatch) -> Self {
        Self {
            action: Action::Block,
            rule: Some(found.rule),
            log: found.log,
            ..Self::permit()
        }
    }

    /// Whether it permits.
    #[must_use]
    pub const fn is_permit(&self) -> bool {
        matches!(self.action, Action::Permit)
    }
}

/// A rule that matched, with its place.
type Match<'p> = (u32, &'p RuleRecord);

/// The rules to try: those of a leaf of the index, or all.
#[derive(Clone, Copy)]
struct Candidates<'p> {
    plain: &'p [U32],
    hosted: &'p [U32],
    contents: &'p [U32],
    all: &'p [RuleRecord],
}

impl<'p> Candidates<'p> {
    fn of(policy: &PolicyView<'p>, leaf: Option<&LeafRecord>) -> Self {
        leaf.map_or(
            Self {
                plain: &[],
                hosted: &[],
                contents: &[],
                all: policy.rules,
            },
            |leaf| Self {
                plain: policy.rule_list(leaf.first, leaf.count),
                hosted: policy.rule_list(leaf.host_first, leaf.host_count),
                contents: policy.rule_list(leaf.content_first, leaf.content_count),
                all: &[],
            },
        )
    }

    /// Those with neither a host nor a content, in order.
    fn plain(&self, policy: &PolicyView<'p>) -> impl Iterator<Item = Match<'p>> + use<'p> {
        policy.listed(self.plain).chain(
            (0..)
                .zip(self.all)
                .filter(|(_, rule)| !has(rule, RULE_HOST | RULE_CONTENT)),
        )
    }

    /// Those with a host, in order.
    fn hosted(&self, policy: &PolicyView<'p>) -> impl Iterator<Item = Match<'p>> + use<'p> {
        policy
            .listed(self.hosted)
            .chain((0..).zip(self.all).filter(|(_, rule)| has(rule, RULE_HOST)))
    }

    /// Those with contents, in order.
    fn contents(&self, policy: &PolicyView<'p>) -> impl Iterator<Item = Match<'p>> + use<'p> {
        policy.listed(self.contents).chain(
            (0..)
                .zip(self.all)
                .filter(|(_, rule)| has(rule, RULE_CONTENT)),
        )
    }
}

/// Whether the rule has one of these flags.
const fn has(rule: &RuleRecord, flags: u16) -> bool {
    rule.flags.get() & flags != 0
}

/// Whether the rule's matches are to be logged.
pub(super) const fn is_logged(rule: &RuleRecord) -> bool {
    has(rule, RULE_LOG)
}

impl<'p> PolicyView<'p> {
    /// Decides a connection by what is known of it and its host; see [the module](super) for how.
    #[must_use]
    pub fn decide(&self, connection: &Connection<'_>, host: Host<'_>) -> Decision {
        let mut facts = Facts::new(connection);
        // A path that is not known in full has no place in the index.
        let leaf = if connection.application.is_truncated() {
            None
        } else {
            self.leaf(&mut facts)
        };
        self.decide_among(Candidates::of(self, leaf), host, &mut facts)
    }

    /// The same without the index: every rule is tried in turn. It is what [`decide`](Self::decide) is measured by.
    #[must_use]
    pub fn decide_linear(&self, connection: &Connection<'_>, host: Host<'_>) -> Decision {
        self.decide_among(
            Candidates::of(self, None),
            host,
            &mut Facts::new(connection),
        )
    }

    fn decide_among(
        &self,
        candidates: Candidates<'p>,
        host: Host<'_>,
        facts: &mut Facts<'_>,
    ) -> Decision {
        let definite = candidates
            .plain(self)
            .find(|(_, rule)| self.matches(rule, facts));
        let mut decision = match host {
            Host::Never => self.decision(definite),
            Host::Known(name) => self.decision(self.host_match(name, definite, facts)),
            Host::Pending => self.pending(candidates, definite, facts),
        };
        let limit = match host {
            Host::Known(_) => decision.rule.map(|rule| rule.0),
            Host::Never | Host::Pending => definite.map(|(rule, _)| rule),
        };
        let limit = limit.unwrap_or(u32::MAX);
        if decision.action == Action::Block {
            return decision;
        }
        let mut contents = candidates
            .contents(self)
            .take_while(|&(index, _)| index < limit)
            .filter(|(_, rule)| self.matches(rule, facts));
        let is_out_of_band = |(_, rule): &Match<'_>| {
            EffectSet::from_bits(rule.effect_set.get()).contains(EffectKind::OutOfBand)
        };
        if let Some(first) = contents.next() {
            decision.content_dependent = true;
            decision.out_of_band = self.effect_set().contains(EffectKind::OutOfBand)
                && (is_out_of_band(&first) || contents.any(|found| is_out_of_band(&found)));
        }
        decision
    }

    /// Decides a packet that is forwarded, or an ICMP error. Where no rule names the operation and matches, it passes:
    /// the default action is about connections.
    #[must_use]
    pub fn decide_packet(&self, operation: Operation, packet: &Connection<'_>) -> Decision {
        let mut facts = Facts::of(operation, packet);
        let leaf = self.leaf(&mut facts);
        let mut rules = Candidates::of(self, leaf).plain(self);
        rules
            .find(|(_, rule)| self.matches(rule, &mut facts))
            .map_or(Decision::permit(), |found| self.decision(Some(found)))
    }

    /// Decides whether a socket may be bound; see [`decide_listener`](Self::decide_listener). Where no rule names binds and matches, it
    /// passes: the default action is about connections.
    #[must_use]
    pub fn decide_socket(&self, protocol: u8, socket: &Listener<'_>) -> Decision {
        self.socket_rule(Operation::Bind, protocol, socket)
            .map_or(Decision::permit(), |(found, _)| self.decision(Some(found)))
    }

    /// Decides whether there may be a listener; see [the module](super) for how.
    #[must_use]
    pub fn decide_listener(&self, listener: &Listener<'_>) -> Decision {
        let found = self.socket_rule(Operation::Listen, TCP, listener);
        let decision = self.decision(found.map(|(rule, _)| rule));
        match found {
            // Somebody is asked about those of whom the rule is right, when they come.
            Some((_, true)) => decision.settled(Some(Action::Permit)),
            _ => decision,
        }
    }

    /// The rule that decides about a socket that has no remote side, and whether it is right about some of its connections only.
    fn socket_rule(
        &self,
        operation: Operation,
        protocol: u8,
        listener: &Listener<'_>,
    ) -> Option<(Match<'p>, bool)> {
        let mut facts = Facts::of(
            operation,
            &Connection {
                direction: Direction::Inbound,
                protocol,
                local: listener.local,
                remote: listener.local,
                application: listener.application,
                user: listener.user,
                process_id: listener.process_id,
                flow: 0,
                interface: listener.interface,
            },
        );
        let anywhere = listener.local.address.is_unspecified();
        let is_of_some = |rule: &RuleRecord| {
            has(rule, RULE_HOST | RULE_CONTENT)
                || rule.remote_ports.count.get() != 0
                || rule.remote_addresses.count.get() != 0
                || (anywhere && rule.local_addresses.count.get() != 0)
                || (listener.interface == 0 && rule.interfaces.count.get() != 0)
        };
        (0..).zip(self.rules).find_map(|(index, rule)| {
            let is_of_some = is_of_some(rule);
            let decides = !is_of_some || rule.action != Action::Block.raw();
            (decides && self.matches_listener(rule, &mut facts, anywhere))
                .then_some(((index, rule), is_of_some))
        })
    }

    /// Decides where a socket is bound, by what is known then: the rules without a condition on anything else are tried
    /// in order, up to the last one with an effect for it, and the first that matches decides.
    #[must_use]
    pub fn decide_bind(&self, binding: &Binding<'_>) -> Decision {
        let mut facts = Facts::new(&Connection {
            // No rule among these is for one direction alone, or it is for this one.
            direction: Direction::Outbound,
            protocol: binding.protocol,
            local: binding.local,
            remote: binding.local,
            application: binding.application,
            user: binding.user,
            process_id: binding.process_id,
            flow: 0,
            interface: 0,
        });
        let anywhere = binding.local.address.is_unspecified();
        let [first, count] = self.binds;
        self.listed(self.rule_list(first, count))
            .find(|(_, rule)| {
                !(anywhere && rule.local_addresses.count.get() != 0)
                    && self.matches_listener(rule, &mut facts, anywhere)
            })
            .map_or(Decision::permit(), |found| self.decision(Some(found)))
    }

    fn decision(&self, decider: Option<Match<'_>>) -> Decision {
        decider.map_or_else(
            || Decision {
                action: self.default_action,
                ..Decision::permit()
            },
            |(index, rule)| {
                let action = Action::from_raw(rule.action).unwrap_or(Action::Block);
                let rule_index = Some(RuleIndex(index));
                let terms = |effect| match effect {
                    Effect::Ask {
                        milliseconds,
                        otherwise,
                    } => Some(Terms {
                        milliseconds,
                        otherwise,
                    }),
                    _ => None,
                };
                let ask = if action == Action::Ask {
                    self.effects(rule_index).find_map(terms)
                } else {
                    None
                };
                Decision {
                    action,
                    rule: rule_index,
                    log: is_logged(rule),
                    effects: EffectSet::from_bits(rule.effect_set.get()),
                    ask: ask.unwrap_or(Terms::NONE),
                    ..Decision::permit()
                }
            },
        )
    }

    /// Decides while the host is not known.
    fn pending(
        &self,
        candidates: Candidates<'p>,
        definite: Option<Match<'_>>,
        facts: &mut Facts<'_>,
    ) -> Decision {
        let decision = self.decision(definite);
        let limit = definite.map_or(u32::MAX, |(index, _)| index);
        // A rule that blocks cannot change a block.
        let matters =
            |rule: &RuleRecord| decision.is_permit() || rule.action == Action::Permit.raw();
        let may_overrule = candidates
            .hosted(self)
            .take_while(|&(index, _)| index < limit)
            .any(|(_, rule)| matters(rule) && self.matches(rule, facts));
        match (may_overrule, decision.action) {
            // Whoever answers is asked before a host can be known.
            (false, _) | (true, Action::Ask) => decision,
            (true, Action::Permit) => Decision {
                host_dependent: true,
                ..decision
            },
            (true, Action::Block) => Decision {
                host_dependent: true,
                ..Decision::permit()
            },
        }
    }

    /// The rules of a list.
    pub(super) fn listed(&self, list: &'p [U32]) -> impl Iterator<Item = Match<'p>> + use<'p> {
        let rules = self.rules;
        list.iter()
            .filter_map(move |index| Some((index.get(), rules.get(index.get() as usize)?)))
    }

    /// The first rule that names the host and matches, if it comes before the definite one, else that.
    fn host_match(
        &self,
        name: &[u8],
        definite: Option<Match<'p>>,
        facts: &mut Facts<'_>,
    ) -> Option<Match<'p>> {
        let mut best = definite;
        let parents = (2..name.len()).filter(|&at| name.get(at - 1) == Some(&b'.'));
        let domains = parents.filter_map(|at| Some((name.get(at..)?, HOST_SUFFIX)));
        for (text, flags) in core::iter::once((name, 0)).chain(domains) {
            let Some(host) = self.host(text, flags) else {
                continue;
            };
            let limit = best.map_or(u32::MAX, |(index, _)| index);
            let list = self.rule_list(host.first, host.count);
            let before = list.partition_point(|index| index.get() < limit);
            let mut rules = self.listed(list.get(..before).unwrap_or_default());
            best = rules.find(|(_, rule)| self.matches(rule, facts)).or(best);
        }
        best
    }

    fn host(&self, text: &[u8], flags: u8) -> Option<&'p HostRecord> {
        let key = |host: &HostRecord| (self.text(host.text, host.length.into()), host.flags);
        let place = self
            .hosts
            .binary_search_by(|host| key(host).cmp(&(text, flags)))
            .ok()?;
        self.hosts.get(place)
    }

    /// The leaf of the index that the connection belongs to.
    fn leaf(&self, facts: &mut Facts<'_>) -> Option<&'p LeafRecord> {
        let mut reference = self.root;
        for _ in 0..=MAX_DEPTH {
            if reference & LEAF != 0 {
                return self.leaves.get((reference & !LEAF) as usize);
            }
            let node = self.nodes.get(reference as usize)?;
            let value = match Dimension::from_raw(node.dimension)? {
                Dimension::Direction => facts.direction.raw().into(),
                Dimension::Protocol => facts.protocol.into(),
                Dimension::LocalAddress => facts.local_address,
                Dimension::RemoteAddress => facts.remote_address,
                Dimension::LocalPort => facts.local_port.into(),
                Dimension::RemotePort => facts.remote_port.into(),
                Dimension::Application => facts.application_place(self),
                Dimension::User => facts.user_place(self),
            };
            reference = if value <= u128::from_be_bytes(node.split) {
                node.below
            } else {
                node.above
            }
            .get();
        }
        None
    }
}
