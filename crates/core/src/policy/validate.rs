//! Checking a compiled policy.
//!
//! One pass from the header to the text. Each run, list and text must begin where the one before it ended, so that the
//! elements are counted once, and the whole check is linear in the policy's size. What the index *means* is not
//! checked: an index that leads astray makes a policy that decides otherwise than its rules read, and nothing else.

mod rules;

use super::effect;
use super::view::PolicyView;
use portcullis_proto::effect::EffectKind;
use portcullis_proto::policy::{
    APPLICATION_ANY_VOLUME, APPLICATION_WILDCARD, Action, CRC_FROM, Dimension, Direction,
    FORMAT_VERSION, HOST_SUFFIX, HostRecord, LEAF, MAGIC, MAX_BINDS, MAX_BOOT_RULES, MAX_CONTENT,
    MAX_DEPTH, MAX_ELEMENTS, MAX_PATTERN_UNITS, MAX_RULES, MAX_SIZE, NO_BASE, POLICY_BOOT,
    POLICY_BOOT_BLOCK, POLICY_BOOT_ESSENTIAL, POLICY_EVENTS_ALL, POLICY_OBSERVE, POLICY_OPERATIONS,
    PolicyHeader, RULE_BOOT, RULE_CONTENT, RULE_HOST, RuleRecord, Run, SectionKind, crc32,
};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

/// What is wrong with a compiled policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Shorter than its header.
    TooShort,
    /// Longer than [`MAX_SIZE`].
    TooLong,
    /// Not a compiled policy.
    Magic,
    /// Of another version of the format.
    Version,
    /// A size that contradicts the bytes at hand.
    Size,
    /// The checksum is wrong: the bytes were damaged.
    Checksum,
    /// An unknown flag.
    Flags,
    /// A reserved field that is not zero.
    Reserved,
    /// An action, a direction or a dimension that does not exist.
    Value,
    /// A section that does not begin where the one before it ended.
    SectionOffset,
    /// More elements than there may be.
    Count,
    /// A run, a list or a text that does not begin where the one before it ended.
    RunOffset,
    /// A run, a list or a text that ends beyond its section.
    RunEnd,
    /// Elements that nothing refers to.
    Unused,
    /// A range that ends before it begins, or beyond what its numbers can be.
    Range,
    /// Elements that do not ascend.
    Order,
    /// A reference to something that does not exist, or that is of another kind.
    Reference,
    /// A text that is not what it should be: UTF-16, a SID, a host name.
    Text,
}

impl Reason {
    /// The reason in words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooShort => "too short",
            Self::TooLong => "too long",
            Self::Magic => "not a compiled policy",
            Self::Version => "another version of the format",
            Self::Size => "size contradicts the bytes at hand",
            Self::Checksum => "wrong checksum",
            Self::Flags => "unknown flag",
            Self::Reserved => "reserved field is not zero",
            Self::Value => "unknown value",
            Self::SectionOffset => "section is not where the one before it ends",
            Self::Count => "too many elements",
            Self::RunOffset => "run is not where the one before it ends",
            Self::RunEnd => "run ends beyond its section",
            Self::Unused => "elements are not used",
            Self::Range => "range is empty or out of bounds",
            Self::Order => "elements do not ascend",
            Self::Reference => "reference to what does not exist",
            Self::Text => "text is malformed",
        }
    }
}

/// Why a compiled policy is refused, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyError {
    /// Offset in bytes of the record, or header field, that is wrong.
    pub offset: usize,
    /// What is wrong.
    pub reason: Reason,
}

impl core::fmt::Display for PolicyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} at offset {}", self.reason.text(), self.offset)
    }
}

impl core::error::Error for PolicyError {}

/// A check's result: where nothing more can be said than the reason, the caller knows the place.
pub(super) type Check = Result<(), Reason>;

pub(super) const fn ensure(holds: bool, reason: Reason) -> Check {
    if holds { Ok(()) } else { Err(reason) }
}

pub(super) fn validate(bytes: &[u8]) -> Result<PolicyView<'_>, PolicyError> {
    let sections = header(bytes)?;
    let policy = PolicyView::trusted(bytes).ok_or(PolicyError {
        offset: 0,
        reason: Reason::Size,
    })?;
    let contents = Contents {
        policy,
        sections,
        text: Cursor::default(),
        lists: Cursor::default(),
    };
    contents.check()?;
    Ok(policy)
}

/// Checks the header and returns the sections' offsets.
fn header(bytes: &[u8]) -> Result<[usize; portcullis_proto::policy::SECTIONS], PolicyError> {
    let at = |offset, reason| move || PolicyError { offset, reason };
    let check = |holds: bool, offset, reason| holds.then_some(()).ok_or_else(at(offset, reason));
    let (header, _) =
        PolicyHeader::ref_from_prefix(bytes).map_err(|_| at(0, Reason::TooShort)())?;
    check(bytes.len() <= MAX_SIZE, 0, Reason::TooLong)?;
    check(header.magic == MAGIC, 0, Reason::Magic)?;
    check(header.version.get() == FORMAT_VERSION, 4, Reason::Version)?;
    check(
        usize::from(header.header_size.get()) == size_of::<PolicyHeader>(),
        6,
        Reason::Size,
    )?;
    check(
        header.total_size.get() as usize == bytes.len(),
        8,
        Reason::Size,
    )?;
    let checked = bytes.get(CRC_FROM..).unwrap_or_default();
    check(header.crc.get() == crc32(checked), 12, Reason::Checksum)?;
    check(
        header_flags_are_valid(header.flags.get()),
        16,
        Reason::Flags,
    )?;
    check(
        Action::from_raw(header.default_action).is_some_and(|action| action != Action::Ask),
        20,
        Reason::Value,
    )?;
    check(header.reserved == [0; 3], 21, Reason::Reserved)?;
    let mut end = size_of::<PolicyHeader>();
    let mut offsets = [0; portcullis_proto::policy::SECTIONS];
    let places = core::mem::offset_of!(PolicyHeader, sections)..;
    let sections = header
        .sections
        .iter()
        .zip(places.step_by(size_of::<portcullis_proto::policy::Section>()));
    for ((&kind, offset), (section, place)) in
        SectionKind::ALL.iter().zip(&mut offsets).zip(sections)
    {
        let count = section.count.get() as usize;
        let most = match kind {
            SectionKind::Rules => MAX_RULES,
            SectionKind::Text => MAX_SIZE,
            _ => MAX_ELEMENTS,
        };
        check(count <= most, place, Reason::Count)?;
        check(
            section.offset.get() as usize == end,
            place,
            Reason::SectionOffset,
        )?;
        *offset = end;
        end += count * kind.element_size();
    }
    check(end == bytes.len(), 8, Reason::Size)?;
    Ok(offsets)
}

/// Whether a rule asks for nothing that a bind does not tell.
const fn knows_a_bind(rule: &RuleRecord) -> bool {
    rule.direction != Direction::Inbound.raw()
        && rule.remote_ports.count.get() == 0
        && rule.remote_addresses.count.get() == 0
        && rule.interfaces.count.get() == 0
}

/// What goes with [`POLICY_BOOT`] does not go without it.
const fn header_flags_are_valid(flags: u32) -> bool {
    let of_boot = POLICY_BOOT_BLOCK | POLICY_BOOT_ESSENTIAL;
    flags & !(POLICY_EVENTS_ALL | POLICY_OBSERVE | POLICY_OPERATIONS | POLICY_BOOT | of_boot) == 0
        && (flags & POLICY_BOOT != 0 || flags & of_boot == 0)
}

/// How far a section is used up.
#[derive(Default)]
pub(super) struct Cursor(usize);

impl Cursor {
    /// The next `count` of `available` elements, which begin at `first`.
    fn take(&mut self, first: U32, count: usize, available: usize) -> Check {
        ensure(first.get() as usize == self.0, Reason::RunOffset)?;
        ensure(count <= available.saturating_sub(self.0), Reason::RunEnd)?;
        self.0 += count;
        Ok(())
    }

    /// A run of at least one element, or the empty run.
    fn run<'e, T>(&mut self, run: Run, elements: &'e [T]) -> Result<&'e [T], Reason> {
        let count = usize::from(run.count.get());
        if count == 0 {
            ensure(run.first.get() == 0, Reason::RunOffset)?;
            return Ok(&[]);
        }
        let start = self.0;
        self.take(run.first, count, elements.len())?;
        elements.get(start..self.0).ok_or(Reason::RunEnd)
    }
}

struct Contents<'p> {
    policy: PolicyView<'p>,
    sections: [usize; portcullis_proto::policy::SECTIONS],
    text: Cursor,
    lists: Cursor,
}

impl Contents<'_> {
    fn check(mut self) -> Result<(), PolicyError> {
        let policy = self.policy;
        self.rules()?;
        self.each(
            SectionKind::Applications,
            policy.applications.len(),
            Self::application,
        )?;
        self.each(SectionKind::Users, policy.users.len(), Self::user)?;
        self.each(SectionKind::Leaves, policy.leaves.len(), Self::leaf)?;
        self.each(SectionKind::Hosts, policy.hosts.len(), Self::host)?;
        self.each(SectionKind::Effects, policy.effects.len(), Self::effect)?;
        self.each(SectionKind::Contents, policy.contents.len(), Self::content)?;
        self.each(
            SectionKind::ContentStates,
            policy.content_states.len(),
            Self::content_state,
        )?;
        self.each(
            SectionKind::ApplicationKeys,
            policy.application_keys.len(),
            |this, index| ascends(this.policy.application_keys, index),
        )?;
        self.each(
            SectionKind::UserKeys,
            policy.user_keys.len(),
            |this, index| ascends(this.policy.user_keys, index),
        )?;
        self.each(SectionKind::Nodes, policy.nodes.len(), Self::node)?;
        let root_at = core::mem::offset_of!(PolicyHeader, root);
        self.reference(policy.root, None)
            .map_err(|reason| PolicyError {
                offset: root_at,
                reason,
            })?;
        self.binds().map_err(|reason| PolicyError {
            offset: core::mem::offset_of!(PolicyHeader, binds),
            reason,
        })?;
        self.used(
            SectionKind::RuleLists,
            self.lists.0,
            policy.rule_lists.len(),
        )?;
        self.used(SectionKind::Text, self.text.0, policy.text.len())
    }

    fn offset(&self, kind: SectionKind, index: usize) -> usize {
        self.sections
            .get(usize::from(kind.raw()))
            .map_or(0, |start| start + index * kind.element_size())
    }

    /// Checks each element of a section.
    fn each(
        &mut self,
        kind: SectionKind,
        count: usize,
        check: impl Fn(&mut Self, usize) -> Check,
    ) -> Result<(), PolicyError> {
        for index in 0..count {
            check(self, index).map_err(|reason| PolicyError {
                offset: self.offset(kind, index),
                reason,
            })?;
        }
        Ok(())
    }

    fn used(&self, kind: SectionKind, used: usize, count: usize) -> Result<(), PolicyError> {
        if used == count {
            Ok(())
        } else {
            Err(PolicyError {
                offset: self.offset(kind, used),
                reason: Reason::Unused,
            })
        }
    }

    fn rules(&self) -> Result<(), PolicyError> {
        let mut cursors = rules::Cursors::default();
        let policy = &self.policy;
        let mut at_boot = 0;
        for (index, rule) in policy.rules.iter().enumerate() {
            cursors.rule(policy, rule).map_err(|reason| PolicyError {
                offset: self.offset(SectionKind::Rules, index),
                reason,
            })?;
            at_boot += usize::from(rule.flags.get() & RULE_BOOT != 0);
            if at_boot > MAX_BOOT_RULES {
                return Err(PolicyError {
                    offset: self.offset(SectionKind::Rules, index),
                    reason: Reason::Count,
                });
            }
        }
        self.used(
            SectionKind::Protocols,
            cursors.protocols.0,
            policy.protocols.len(),
        )?;
        self.used(SectionKind::Ports, cursors.ports.0, policy.ports.len())?;
        self.used(
            SectionKind::Addresses,
            cursors.addresses.0,
            policy.addresses.len(),
        )?;
        self.used(
            SectionKind::Applications,
            cursors.applications.0,
            policy.applications.len(),
        )?;
        self.used(SectionKind::Users, cursors.users.0, policy.users.len())?;
        self.used(
            SectionKind::Effects,
            cursors.effects.0,
            policy.effects.len(),
        )?;
        self.used(
            SectionKind::Interfaces,
            cursors.interfaces.0,
            policy.interfaces.len(),
        )?;
        if policy.effect_set == cursors.effect_set {
            Ok(())
        } else {
            Err(PolicyError {
                offset: core::mem::offset_of!(PolicyHeader, effects),
                reason: Reason::Reference,
            })
        }
    }

    fn effect(&mut self, index: usize) -> Check {
        let record = self.policy.effects.get(index).ok_or(Reason::RunEnd)?;
        let kind = EffectKind::from_raw(record.kind).ok_or(Reason::Value)?;
        effect::check_unused(kind, record)?;
        let length = record.length.get() + record.other_length.get();
        if length > 0 {
            self.text
                .take(record.text, length.into(), self.policy.text.len())?;
        }
        self.policy.effect(record).map(|_| ())
    }

    fn application(&mut self, index: usize) -> Check {
        let record = self.policy.applications.get(index).ok_or(Reason::RunEnd)?;
        let units = usize::from(record.units.get());
        let flags = record.flags.get();
        ensure(
            flags & !(APPLICATION_WILDCARD | APPLICATION_ANY_VOLUME) == 0,
            Reason::Flags,
        )?;
        ensure((1..=MAX_PATTERN_UNITS).contains(&units), Reason::Text)?;
        self.text
            .take(record.text, 2 * units, self.policy.text.len())?;
        let text = self.policy.text(record.text, 2 * units).as_chunks().0;
        let units = || text.iter().map(|&pair| u16::from_le_bytes(pair));
        let lower = |unit| unit != 0 && portcullis_proto::policy::fold_unit(unit) == unit;
        ensure(
            units().all(lower) && char::decode_utf16(units()).all(|unit| unit.is_ok()),
            Reason::Text,
        )?;
        let wild = units().any(|unit| unit == u16::from(b'*') || unit == u16::from(b'?'));
        ensure(wild == (flags & APPLICATION_WILDCARD != 0), Reason::Flags)?;
        let rooted = units().next() == Some(u16::from(b'\\'));
        ensure(rooted || flags & APPLICATION_ANY_VOLUME == 0, Reason::Text)
    }

    fn user(&mut self, index: usize) -> Check {
        let record = self.policy.users.get(index).ok_or(Reason::RunEnd)?;
        let length = usize::from(record.length.get());
        ensure(record.reserved.get() == 0, Reason::Reserved)?;
        self.text
            .take(record.text, length, self.policy.text.len())?;
        match self.policy.text(record.text, length) {
            [1, authorities @ 0..=15, ..] if length == 8 + 4 * usize::from(*authorities) => Ok(()),
            _ => Err(Reason::Text),
        }
    }

    fn leaf(&mut self, index: usize) -> Check {
        let leaf = *self.policy.leaves.get(index).ok_or(Reason::RunEnd)?;
        self.rule_list(leaf.first, leaf.count, 0)?;
        self.rule_list(leaf.host_first, leaf.host_count, RULE_HOST)?;
        self.rule_list(leaf.content_first, leaf.content_count, RULE_CONTENT)
    }

    fn content(&mut self, index: usize) -> Check {
        let record = *self.policy.contents.get(index).ok_or(Reason::RunEnd)?;
        ensure(record.count.get() > 0, Reason::Count)?;
        self.rule_list(record.first, record.count, RULE_CONTENT)
    }

    /// Where a state leads back to is shallower, which bounds every way back; where it leads on to is looked up with
    /// care each time.
    fn content_state(&mut self, index: usize) -> Check {
        let states = self.policy.content_states;
        let state = states.get(index).ok_or(Reason::RunEnd)?;
        ensure(state.reserved.get() == 0, Reason::Reserved)?;
        if state.depth == 0 {
            // The root, or no state.
            let leads_on = index == 0 || state.base.get() == NO_BASE;
            let back = (state.fail.get(), state.content.get(), state.link.get());
            return ensure(leads_on && back == (0, 0, 0), Reason::Reference);
        }
        ensure(usize::from(state.depth) <= MAX_CONTENT, Reason::Range)?;
        ensure(
            state.content.get() as usize <= self.policy.contents.len(),
            Reason::Reference,
        )?;
        for back in [state.fail.get(), state.link.get()] {
            let shallower = states.get(back as usize).is_some_and(|target| {
                target.depth < state.depth && (target.depth > 0 || back == 0)
            });
            ensure(shallower, Reason::Reference)?;
        }
        Ok(())
    }

    fn host(&mut self, index: usize) -> Check {
        let record = *self.policy.hosts.get(index).ok_or(Reason::RunEnd)?;
        ensure(record.flags & !HOST_SUFFIX == 0, Reason::Flags)?;
        ensure(record.reserved.get() == 0, Reason::Reserved)?;
        ensure(record.count.get() > 0, Reason::Count)?;
        self.text
            .take(record.text, record.length.into(), self.policy.text.len())?;
        let key = |record: &HostRecord| {
            (
                self.policy.text(record.text, record.length.into()),
                record.flags,
            )
        };
        ensure(host_name_is_valid(key(&record).0), Reason::Text)?;
        let before = index
            .checked_sub(1)
            .and_then(|before| self.policy.hosts.get(before));
        ensure(
            before.is_none_or(|before| key(before) < key(&record)),
            Reason::Order,
        )?;
        self.rule_list(record.first, record.count, RULE_HOST)
    }

    /// The rules that decide about binds.
    fn binds(&mut self) -> Check {
        let [first, count] = self.policy.binds;
        ensure(count.get() as usize <= MAX_BINDS, Reason::Count)?;
        self.rule_list(first, count, 0)?;
        for rule in self.policy.rule_list(first, count) {
            let rule = self.policy.rules.get(rule.get() as usize);
            ensure(rule.is_some_and(knows_a_bind), Reason::Reference)?;
        }
        Ok(())
    }

    /// A list of rules, all with just these of the flags [`RULE_HOST`] and [`RULE_CONTENT`].
    fn rule_list(&mut self, first: U32, count: U32, flags: u16) -> Check {
        self.lists
            .take(first, count.get() as usize, self.policy.rule_lists.len())?;
        let mut least = 0;
        for index in self.policy.rule_list(first, count) {
            ensure(index.get() >= least, Reason::Order)?;
            let rule = self
                .policy
                .rules
                .get(index.get() as usize)
                .ok_or(Reason::Reference)?;
            ensure(
                rule.flags.get() & (RULE_HOST | RULE_CONTENT) == flags,
                Reason::Reference,
            )?;
            least = index.get() + 1;
        }
        Ok(())
    }

    fn node(&mut self, index: usize) -> Check {
        let node = self.policy.nodes.get(index).ok_or(Reason::RunEnd)?;
        let most = match Dimension::from_raw(node.dimension).ok_or(Reason::Value)? {
            Dimension::Direction | Dimension::Protocol => u128::from(u8::MAX),
            Dimension::LocalPort | Dimension::RemotePort => u128::from(u16::MAX),
            Dimension::LocalAddress | Dimension::RemoteAddress => u128::MAX,
            Dimension::Application => self.policy.application_keys.len() as u128,
            Dimension::User => self.policy.user_keys.len() as u128,
        };
        ensure(u128::from_be_bytes(node.split) <= most, Reason::Range)?;
        ensure(usize::from(node.depth) < MAX_DEPTH, Reason::Range)?;
        ensure(node.reserved == [0; 6], Reason::Reserved)?;
        self.reference(node.below.get(), Some((index, node.depth)))?;
        self.reference(node.above.get(), Some((index, node.depth)))
    }

    /// A child of a node, or the root.
    fn reference(&self, reference: u32, parent: Option<(usize, u8)>) -> Check {
        let index = (reference & !LEAF) as usize;
        if reference & LEAF != 0 {
            return ensure(index < self.policy.leaves.len(), Reason::Reference);
        }
        let child = self.policy.nodes.get(index).ok_or(Reason::Reference)?;
        match parent {
            None => ensure(child.depth == 0, Reason::Reference),
            Some((parent, depth)) => ensure(
                index > parent && child.depth == depth + 1,
                Reason::Reference,
            ),
        }
    }
}

/// Whether a key is greater than the one before it.
fn ascends(keys: &[U64], index: usize) -> Check {
    let before = index.checked_sub(1).and_then(|before| keys.get(before));
    ensure(
        before.is_none_or(|before| keys.get(index).is_some_and(|key| before.get() < key.get())),
        Reason::Order,
    )
}

/// Letters, digits, `-` and `_` in labels of 1 to 63, in lower case (an underscore is no host name's by RFC 952, but
/// DNS and TLS carry it).
fn host_name_is_valid(name: &[u8]) -> bool {
    name.len() <= portcullis_proto::event::MAX_HOST
        && name.split(|&byte| byte == b'.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .iter()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        })
}
