//! Checking the rules and what they refer to.

use super::{Check, Cursor, Reason, ensure};
use crate::policy::boot::{self, Unfit};
use crate::policy::view::PolicyView;
use portcullis_proto::effect::{EffectKind, EffectSet, MAX_EFFECTS};
use portcullis_proto::policy::{
    Action, CONNECTIONS, Direction, RULE_BOOT, RULE_CHILDREN, RULE_CONTENT, RULE_HOST, RULE_LOG,
    RULE_OPERATIONS, Range64, RuleRecord, rule_operations,
};

/// How far the sections that rules refer to are used up.
#[derive(Default)]
pub(super) struct Cursors {
    pub(super) protocols: Cursor,
    pub(super) ports: Cursor,
    pub(super) addresses: Cursor,
    pub(super) applications: Cursor,
    pub(super) users: Cursor,
    pub(super) effects: Cursor,
    pub(super) interfaces: Cursor,
    pub(super) effect_set: EffectSet,
}

impl Cursors {
    pub(super) fn rule(&mut self, policy: &PolicyView<'_>, rule: &RuleRecord) -> Check {
        let action = Action::from_raw(rule.action).ok_or(Reason::Value)?;
        ensure(
            rule.direction == 0 || Direction::from_raw(rule.direction).is_some(),
            Reason::Value,
        )?;
        let flags = rule.flags.get();
        ensure(
            flags
                & !(RULE_LOG
                    | RULE_HOST
                    | RULE_CONTENT
                    | RULE_CHILDREN
                    | RULE_OPERATIONS
                    | RULE_BOOT)
                == 0,
            Reason::Flags,
        )?;
        // Only connections have hosts, contents, effects, and somebody to ask. What else a policy is about stands in its
        // header too.
        let others = rule_operations(flags) & !CONNECTIONS;
        ensure(
            others == 0
                || (flags & (RULE_HOST | RULE_CONTENT) == 0
                    && action != Action::Ask
                    && rule.effect_set.get() == 0),
            Reason::Flags,
        )?;
        ensure(u32::from(others) & !policy.flags == 0, Reason::Flags)?;
        // What looks for contents has no host, and comes too late to permit.
        ensure(
            flags & RULE_CONTENT == 0
                || (flags & RULE_HOST == 0 && rule.action == Action::Block.raw()),
            Reason::Flags,
        )?;
        // Only applications have children.
        ensure(
            flags & RULE_CHILDREN == 0 || rule.applications.count.get() > 0,
            Reason::Flags,
        )?;
        // Who is asked is asked before a host can be known.
        ensure(
            flags & RULE_HOST == 0 || action != Action::Ask,
            Reason::Flags,
        )?;
        boot::check(policy, rule).map_err(|unfit| match unfit {
            Unfit::Condition => Reason::Flags,
            Unfit::Count => Reason::Count,
        })?;
        self.effects(policy, rule, action)?;
        let number = |(first, last): (u16, u16)| (u128::from(first), u128::from(last));
        let protocols = self.protocols.run(rule.protocols, policy.protocols)?.iter();
        ranges(
            protocols.map(|range| number((range.first.get(), range.last.get()))),
            u8::MAX.into(),
        )?;
        for run in [rule.local_ports, rule.remote_ports] {
            let ports = self.ports.run(run, policy.ports)?.iter();
            ranges(
                ports.map(|range| number((range.first.get(), range.last.get()))),
                u16::MAX.into(),
            )?;
        }
        for run in [rule.local_addresses, rule.remote_addresses] {
            let addresses = self.addresses.run(run, policy.addresses)?.iter();
            let numbers = |range: &portcullis_proto::policy::AddressRange| {
                (
                    u128::from_be_bytes(range.first),
                    u128::from_be_bytes(range.last),
                )
            };
            ranges(addresses.map(numbers), u128::MAX)?;
        }
        self.applications
            .run(rule.applications, policy.applications)?;
        self.users.run(rule.users, policy.users)?;
        let interfaces = self.interfaces.run(rule.interfaces, policy.interfaces)?;
        // An answer is given for a connection, whichever interface it takes later.
        ensure(
            interfaces.is_empty() || action != Action::Ask,
            Reason::Flags,
        )?;
        ensure(
            interfaces.first().is_none_or(|range| range.first.get() > 0),
            Reason::Range,
        )?;
        let luid = |range: &Range64| (range.first.get().into(), range.last.get().into());
        ranges(interfaces.iter().map(luid), u64::MAX.into())
    }
}

impl Cursors {
    /// A rule's effects: those that its action admits, and its set says which.
    fn effects(&mut self, policy: &PolicyView<'_>, rule: &RuleRecord, action: Action) -> Check {
        let records = self.effects.run(rule.effects, policy.effects)?;
        ensure(records.len() <= MAX_EFFECTS, Reason::Count)?;
        let mut set = EffectSet::NONE;
        for record in records {
            set = set.with(EffectKind::from_raw(record.kind).ok_or(Reason::Value)?);
        }
        ensure(set.bits() == rule.effect_set.get(), Reason::Reference)?;
        let out_of_band = EffectSet::of(&[EffectKind::OutOfBand]);
        ensure(
            match action {
                Action::Permit => !set.contains(EffectKind::Ask) && !set.intersects(out_of_band),
                Action::Ask => set.contains(EffectKind::Ask) && !set.intersects(out_of_band),
                // What is blocked is not changed, but may have to be looked at.
                Action::Block => {
                    set.is_empty() || (set == out_of_band && rule.flags.get() & RULE_CONTENT != 0)
                }
            },
            Reason::Flags,
        )?;
        self.effect_set = self.effect_set.union(set);
        Ok(())
    }
}

/// Ranges that are not empty, ascend, do not meet, and end at `most`.
fn ranges(ranges: impl Iterator<Item = (u128, u128)>, most: u128) -> Check {
    let mut before = None;
    for (first, last) in ranges {
        ensure(first <= last && last <= most, Reason::Range)?;
        ensure(before.is_none_or(|before| before < first), Reason::Order)?;
        before = Some(last);
    }
    Ok(())
}
