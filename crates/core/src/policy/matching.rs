//! Whether one rule matches.

use super::view::{PolicyView, run};
use crate::connection::{Application, Connection};
use portcullis_proto::event::Operation;
use portcullis_proto::policy::{
    APPLICATION_ANY_VOLUME, APPLICATION_WILDCARD, Action, AddressRange, ApplicationRecord,
    Direction, RULE_CHILDREN, Range16, Range64, RuleRecord, Run, application_key, fold_unit,
    operation_flag, rule_operations, user_key, without_volume,
};

/// A connection's facts in the form in which rules are compared with them. What costs is worked out when first asked
/// for.
#[derive(Debug)]
pub(super) struct Facts<'c> {
    /// What is decided: one of `RULE_OPERATIONS`.
    pub(super) operation: u16,
    pub(super) direction: Direction,
    pub(super) protocol: u8,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
    pub(super) local_address: u128,
    pub(super) remote_address: u128,
    interface: u64,
    application: Application<'c>,
    process_id: u64,
    user: &'c [u8],
    volume_units: Option<usize>,
    application_place: Option<u128>,
    user_place: Option<u128>,
}

impl<'c> Facts<'c> {
    pub(super) const fn new(connection: &Connection<'c>) -> Self {
        let operation = match connection.direction {
            Direction::Outbound => Operation::Connect,
            Direction::Inbound => Operation::Accept,
        };
        Self::of(operation, connection)
    }

    pub(super) const fn of(operation: Operation, connection: &Connection<'c>) -> Self {
        Self {
            operation: operation_flag(operation),
            direction: connection.direction,
            protocol: connection.protocol,
            local_port: connection.local.port,
            remote_port: connection.remote.port,
            local_address: connection.local.number(),
            remote_address: connection.remote.number(),
            interface: connection.interface,
            application: connection.application,
            process_id: connection.process_id,
            user: connection.user,
            volume_units: None,
            application_place: None,
            user_place: None,
        }
    }

    /// Code units of the path's `\device\harddiskvolumeN`.
    fn volume_units(&mut self) -> usize {
        let application = self.application;
        *self
            .volume_units
            .get_or_insert_with(|| without_volume(application.units()))
    }

    /// The application's place in the index: 1 + that of its key, 0 if it has none.
    pub(super) fn application_place(&mut self, policy: &PolicyView<'_>) -> u128 {
        if let Some(known) = self.application_place {
            return known;
        }
        let volume = self.volume_units();
        let key = application_key(self.application.units().skip(volume));
        let found = place(
            policy
                .application_keys
                .binary_search_by_key(&key, |key| key.get()),
        );
        *self.application_place.insert(found)
    }

    /// The user's place in the index.
    pub(super) fn user_place(&mut self, policy: &PolicyView<'_>) -> u128 {
        let user = self.user;
        *self.user_place.get_or_insert_with(|| {
            let key = user_key(user);
            place(policy.user_keys.binary_search_by_key(&key, |key| key.get()))
        })
    }
}

fn place(found: Result<usize, usize>) -> u128 {
    found.map_or(0, |place| place as u128 + 1)
}

impl PolicyView<'_> {
    /// Whether everything about the rule but its host matches.
    pub(super) fn matches(&self, rule: &RuleRecord, facts: &mut Facts<'_>) -> bool {
        self.matches_local(rule, facts)
            && ports_match(run(self.ports, rule.remote_ports), facts.remote_port)
            && addresses_match(
                run(self.addresses, rule.remote_addresses),
                facts.remote_address,
            )
            && self.interface_matches(rule, facts.interface)
            && self.owner_matches(rule, facts)
    }

    /// Whether the rule counts for a connection over this interface.
    fn interface_matches(&self, rule: &RuleRecord, interface: u64) -> bool {
        match interface {
            0 => rule.interfaces.count.get() == 0 || rule.action == Action::Block.raw(),
            luid => interfaces_match(run(self.interfaces, rule.interfaces), luid),
        }
    }

    /// Whether everything about the rule matches but its host, its remote side and its owner.
    fn matches_local(&self, rule: &RuleRecord, facts: &Facts<'_>) -> bool {
        is_about(rule, facts)
            && ports_match(
                run(self.protocols, rule.protocols),
                u16::from(facts.protocol),
            )
            && ports_match(run(self.ports, rule.local_ports), facts.local_port)
            && addresses_match(
                run(self.addresses, rule.local_addresses),
                facts.local_address,
            )
    }

    /// Whether everything about the rule but its host and its remote side matches; an unspecified local address is
    /// every address, an unknown interface every interface.
    pub(super) fn matches_listener(
        &self,
        rule: &RuleRecord,
        facts: &mut Facts<'_>,
        anywhere: bool,
    ) -> bool {
        let local = if anywhere {
            is_about(rule, facts)
                && ports_match(
                    run(self.protocols, rule.protocols),
                    u16::from(facts.protocol),
                )
                && ports_match(run(self.ports, rule.local_ports), facts.local_port)
        } else {
            self.matches_local(rule, facts)
        };
        let interface = facts.interface == 0
            || interfaces_match(run(self.interfaces, rule.interfaces), facts.interface);
        local && interface && self.owner_matches(rule, facts)
    }

    fn owner_matches(&self, rule: &RuleRecord, facts: &mut Facts<'_>) -> bool {
        self.user_matches(rule.users, facts.user) && self.application_matches(rule, facts)
    }

    fn user_matches(&self, users: Run, user: &[u8]) -> bool {
        let users = run(self.users, users);
        users.is_empty()
            || (!user.is_empty()
                && users
                    .iter()
                    .any(|known| self.text(known.text, known.length.get().into()) == user))
    }

    fn application_matches(&self, rule: &RuleRecord, facts: &mut Facts<'_>) -> bool {
        if rule.applications.count.get() == 0 {
            return true;
        }
        let volume = facts.volume_units();
        let (application, process_id) = (facts.application, facts.process_id);
        self.one_matches(rule, application, || volume)
            || (rule.flags.get() & RULE_CHILDREN != 0
                && self.ancestry.is_some_and(|ancestry| {
                    let matches = &mut |ancestor: Application<'_>| {
                        self.one_matches(rule, ancestor, || without_volume(ancestor.units()))
                    };
                    ancestry.any_ancestor(process_id, application, matches)
                }))
    }

    /// Whether one of the rule's patterns matches an application, the name of whose volume is so long.
    fn one_matches(
        &self,
        rule: &RuleRecord,
        application: Application<'_>,
        volume: impl Fn() -> usize + Copy,
    ) -> bool {
        if application.is_truncated() {
            return rule.action == Action::Block.raw();
        }
        run(self.applications, rule.applications)
            .iter()
            .any(|&pattern| self.pattern_matches(pattern, application, volume))
    }

    fn pattern_matches(
        &self,
        record: ApplicationRecord,
        application: Application<'_>,
        volume: impl Fn() -> usize,
    ) -> bool {
        let pattern = self
            .text(record.text, 2 * usize::from(record.units.get()))
            .as_chunks()
            .0;
        let mut path = application.as_utf16().as_chunks().0;
        if record.flags.get() & APPLICATION_ANY_VOLUME != 0 {
            match volume() {
                0 => return false,
                volume => path = path.get(volume..).unwrap_or_default(),
            }
        }
        if record.flags.get() & APPLICATION_WILDCARD != 0 {
            wildcard_matches(pattern, path)
        } else {
            pattern.len() == path.len()
                && !pattern.is_empty()
                && pattern.iter().zip(path).all(|(&p, &u)| same(p, u))
        }
    }
}

/// Whether the rule is about such an operation, in this direction.
const fn is_about(rule: &RuleRecord, facts: &Facts<'_>) -> bool {
    rule_operations(rule.flags.get()) & facts.operation != 0
        && (rule.direction == 0 || rule.direction == facts.direction.raw())
}

/// Whether the number is in one of the ranges, which ascend; no ranges hold every number. `bounds` tells the first and the
/// last number of a range.
fn is_in<R, N: Ord>(ranges: &[R], number: &N, bounds: impl Fn(&R) -> [N; 2]) -> bool {
    let candidate = ranges.partition_point(|range| bounds(range)[1] < *number);
    ranges.is_empty()
        || ranges
            .get(candidate)
            .is_some_and(|range| bounds(range)[0] <= *number)
}

fn ports_match(ranges: &[Range16], number: u16) -> bool {
    is_in(ranges, &number, |range| {
        [range.first.get(), range.last.get()]
    })
}

fn addresses_match(ranges: &[AddressRange], address: u128) -> bool {
    is_in(ranges, &address, |range| {
        [range.first, range.last].map(u128::from_be_bytes)
    })
}

fn interfaces_match(ranges: &[Range64], luid: u64) -> bool {
    is_in(ranges, &luid, |range| [range.first.get(), range.last.get()])
}

/// A code unit, little-endian.
type Unit = [u8; 2];

const ANY_UNITS: Unit = [b'*', 0];
const ANY_UNIT: Unit = [b'?', 0];

/// A pattern's unit, which is in lower case, and a path's.
const fn same(pattern: Unit, path: Unit) -> bool {
    u16::from_le_bytes(pattern) == fold_unit(u16::from_le_bytes(path))
}

/// Whether the pattern matches the whole path. When units after a `*` do not fit, that `*` takes one unit more; an
/// earlier one never has to. So the work is at most the product of the lengths.
fn wildcard_matches(mut pattern: &[Unit], mut path: &[Unit]) -> bool {
    // What follows the last `*` can only be the path's end, which differs most often.
    while let [before @ .., last] = pattern
        && *last != ANY_UNITS
    {
        let [rest @ .., unit] = path else {
            return false;
        };
        if *last != ANY_UNIT && !same(*last, *unit) {
            return false;
        }
        (pattern, path) = (before, rest);
    }
    let mut at_pattern = 0;
    let mut at_path = 0;
    // After the last `*`: where the pattern goes on, and the unit it is to go on at next.
    let mut retry = None;
    loop {
        match (pattern.get(at_pattern), path.get(at_path)) {
            (None, None) => return true,
            (Some(&ANY_UNITS), _) => {
                at_pattern += 1;
                retry = Some((at_pattern, at_path));
                continue;
            }
            (Some(&expected), Some(&unit)) if expected == ANY_UNIT || same(expected, unit) => {
                at_pattern += 1;
                at_path += 1;
                continue;
            }
            _ => {}
        }
        match retry {
            Some((after, from)) if from < path.len() => {
                at_pattern = after;
                at_path = from + 1;
                retry = Some((after, from + 1));
            }
            _ => return false,
        }
    }
}
