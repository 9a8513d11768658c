//! A compiled policy's sections as slices.

use super::decide::RuleIndex;
use super::validate::{self, PolicyError};
use crate::process::Ancestry;
use portcullis_proto::effect::{EffectRecord, EffectSet};
use portcullis_proto::event::Operation;
use portcullis_proto::policy::{
    Action, AddressRange, ApplicationRecord, CONNECTIONS, ContentRecord, ContentStateRecord,
    HostRecord, LeafRecord, NodeRecord, POLICY_EVENTS_ALL, POLICY_OBSERVE, POLICY_OPERATIONS,
    PolicyHeader, Range16, Range64, RuleRecord, Run, SectionKind, UserRecord, operation_flag,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A validated policy and the bytes that it is.
///
/// The bytes must not change while this exists. Should they change all the same, decisions are arbitrary, and nothing
/// worse: every access is checked.
#[derive(Debug)]
pub struct Policy<B> {
    bytes: B,
    hash: u64,
}

impl<B: AsRef<[u8]>> Policy<B> {
    /// Validates and keeps a compiled policy.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn new(bytes: B) -> Result<Self, PolicyError> {
        PolicyView::validate(bytes.as_ref())?;
        let hash = portcullis_proto::policy::hash(bytes.as_ref());
        Ok(Self { bytes, hash })
    }

    /// The policy, to decide with. It costs a few comparisons for each section.
    #[must_use]
    pub fn view(&self) -> PolicyView<'_> {
        PolicyView::trusted(self.bytes.as_ref()).unwrap_or(PolicyView::PERMIT_ALL)
    }

    /// [`hash`](portcullis_proto::policy::hash) of the bytes.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }
}

/// A compiled policy, borrowed.
#[derive(Clone, Copy)]
pub struct PolicyView<'p> {
    pub(super) default_action: Action,
    pub(super) flags: u32,
    pub(super) root: u32,
    pub(super) rules: &'p [RuleRecord],
    pub(super) protocols: &'p [Range16],
    pub(super) ports: &'p [Range16],
    pub(super) addresses: &'p [AddressRange],
    pub(super) applications: &'p [ApplicationRecord],
    pub(super) users: &'p [UserRecord],
    pub(super) hosts: &'p [HostRecord],
    pub(super) rule_lists: &'p [U32],
    pub(super) application_keys: &'p [U64],
    pub(super) user_keys: &'p [U64],
    pub(super) nodes: &'p [NodeRecord],
    pub(super) leaves: &'p [LeafRecord],
    pub(super) contents: &'p [ContentRecord],
    pub(super) content_states: &'p [ContentStateRecord],
    pub(super) effects: &'p [EffectRecord],
    pub(super) interfaces: &'p [Range64],
    pub(super) effect_set: EffectSet,
    pub(super) binds: [U32; 2],
    pub(super) ancestry: Option<&'p dyn Ancestry>,
    pub(super) text: &'p [u8],
}

impl core::fmt::Debug for PolicyView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PolicyView")
            .field("default_action", &self.default_action)
            .field("rules", &self.rules.len())
            .field("effects", &self.effect_set)
            .finish_non_exhaustive()
    }
}

impl<'p> PolicyView<'p> {
    /// A policy without rules that permits.
    pub const PERMIT_ALL: PolicyView<'static> = PolicyView {
        default_action: Action::Permit,
        flags: 0,
        root: 0,
        rules: &[],
        protocols: &[],
        ports: &[],
        addresses: &[],
        applications: &[],
        users: &[],
        hosts: &[],
        rule_lists: &[],
        application_keys: &[],
        user_keys: &[],
        nodes: &[],
        leaves: &[],
        contents: &[],
        content_states: &[],
        effects: &[],
        interfaces: &[],
        effect_set: EffectSet::NONE,
        binds: [U32::ZERO; 2],
        ancestry: None,
        text: &[],
    };

    /// Checks everything about a compiled policy, in one pass over it; linear in its size.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn validate(bytes: &'p [u8]) -> Result<Self, PolicyError> {
        validate::validate(bytes)
    }

    /// The view of bytes that were validated before. Only the sections' places are checked again; whatever else the
    /// bytes hold, reading them is safe and ends.
    #[must_use]
    pub fn trusted(bytes: &'p [u8]) -> Option<Self> {
        let (header, _) = PolicyHeader::ref_from_prefix(bytes).ok()?;
        Some(Self {
            default_action: Action::from_raw(header.default_action)?,
            flags: header.flags.get(),
            root: header.root.get(),
            rules: section(bytes, header, SectionKind::Rules)?,
            protocols: section(bytes, header, SectionKind::Protocols)?,
            ports: section(bytes, header, SectionKind::Ports)?,
            addresses: section(bytes, header, SectionKind::Addresses)?,
            applications: section(bytes, header, SectionKind::Applications)?,
            users: section(bytes, header, SectionKind::Users)?,
            hosts: section(bytes, header, SectionKind::Hosts)?,
            rule_lists: section(bytes, header, SectionKind::RuleLists)?,
            application_keys: section(bytes, header, SectionKind::ApplicationKeys)?,
            user_keys: section(bytes, header, SectionKind::UserKeys)?,
            nodes: section(bytes, header, SectionKind::Nodes)?,
            leaves: section(bytes, header, SectionKind::Leaves)?,
            contents: section(bytes, header, SectionKind::Contents)?,
            content_states: section(bytes, header, SectionKind::ContentStates)?,
            effects: section(bytes, header, SectionKind::Effects)?,
            interfaces: section(bytes, header, SectionKind::Interfaces)?,
            effect_set: EffectSet::from_bits(header.effects.get()),
            binds: header.binds,
            ancestry: None,
            text: section(bytes, header, SectionKind::Text)?,
        })
    }

    /// The policy, with what is known of who started whom. Without it no process has ancestors.
    #[must_use]
    pub const fn with_ancestry(self, ancestry: &'p dyn Ancestry) -> Self {
        Self {
            ancestry: Some(ancestry),
            ..self
        }
    }

    /// Number of rules.
    #[must_use]
    pub const fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// What happens where no rule matches.
    #[must_use]
    pub const fn default_action(&self) -> Action {
        self.default_action
    }

    /// Every kind of effect that a rule has.
    #[must_use]
    pub const fn effect_set(&self) -> EffectSet {
        self.effect_set
    }

    /// The kinds of effects of one rule.
    #[must_use]
    pub fn effect_set_of(&self, rule: RuleIndex) -> EffectSet {
        self.rules
            .get(rule.0 as usize)
            .map_or(EffectSet::NONE, |rule| {
                EffectSet::from_bits(rule.effect_set.get())
            })
    }

    /// Whether some rule has a condition on the network interface.
    #[must_use]
    pub const fn asks_for_interfaces(&self) -> bool {
        !self.interfaces.is_empty()
    }

    /// Whether every decision and flow makes events.
    #[must_use]
    pub const fn events_all(&self) -> bool {
        self.flags & POLICY_EVENTS_ALL != 0
    }

    /// Whether the layers that show more than connections make events.
    #[must_use]
    pub const fn observes(&self) -> bool {
        self.flags & POLICY_OBSERVE != 0
    }

    /// Whether some rule is about this operation; always true of connections, accepts and listens.
    #[must_use]
    pub const fn is_about(&self, operation: Operation) -> bool {
        let flags = self.flags & POLICY_OPERATIONS | CONNECTIONS as u32;
        flags & operation_flag(operation) as u32 != 0
    }

    /// The text of a record; empty if it lies outside.
    pub(super) fn text(&self, offset: U32, length: usize) -> &'p [u8] {
        text(self.text, offset, length)
    }

    /// A rule list; empty if it lies outside.
    pub(super) fn rule_list(&self, first: U32, count: U32) -> &'p [U32] {
        slice(self.rule_lists, first.get(), count.get() as usize)
    }
}

/// A part of the text section; empty if it lies outside.
pub(super) fn text(all: &[u8], offset: U32, length: usize) -> &[u8] {
    let start = offset.get() as usize;
    start
        .checked_add(length)
        .and_then(|end| all.get(start..end))
        .unwrap_or_default()
}

/// The elements of a run; none if it lies outside.
pub(super) fn run<T>(elements: &[T], run: Run) -> &[T] {
    slice(elements, run.first.get(), usize::from(run.count.get()))
}

fn slice<T>(elements: &[T], first: u32, count: usize) -> &[T] {
    let first = first as usize;
    first
        .checked_add(count)
        .and_then(|end| elements.get(first..end))
        .unwrap_or_default()
}

/// A section's elements.
fn section<'p, T>(bytes: &'p [u8], header: &PolicyHeader, kind: SectionKind) -> Option<&'p [T]>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let section = header.sections.get(usize::from(kind.raw()))?;
    let start = section.offset.get() as usize;
    let size = (section.count.get() as usize).checked_mul(size_of::<T>())?;
    let bytes = bytes.get(start..start.checked_add(size)?)?;
    <[T]>::ref_from_bytes(bytes).ok()
}
