//! Writing the compiled policy.

use crate::automaton;
use crate::index::{Child, Index};
use crate::model::{Policy, Rule};
use crate::ranges::Ranges;
use portcullis_proto::effect::{
    EffectKind, EffectRecord, EffectSet, MAX_EFFECT_TEXT, MAX_EFFECTS, MAX_LIMITS,
};
use portcullis_proto::policy::{
    Action, AddressRange, ApplicationRecord, CRC_FROM, ContentRecord, ContentStateRecord,
    FORMAT_VERSION, HOST_SUFFIX, HostRecord, LEAF, LeafRecord, MAGIC, MAX_BINDS, MAX_CONTENT,
    MAX_ELEMENTS, MAX_LIST, MAX_PATTERN_UNITS, MAX_RULES, MAX_SIZE, NodeRecord, POLICY_BOOT,
    POLICY_BOOT_BLOCK, POLICY_BOOT_ESSENTIAL, POLICY_EVENTS_ALL, POLICY_OBSERVE, POLICY_OPERATIONS,
    PolicyHeader, RULE_BOOT, RULE_CHILDREN, RULE_CONTENT, RULE_HOST, RULE_LOG, Range16, Range64,
    RuleRecord, Run, SECTIONS, Section, SectionKind, UserRecord, crc32,
};
use std::collections::BTreeMap;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// What is larger than the format allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// Too many rules.
    Rules(usize),
    /// A list of a rule's condition is too long: the rule and the list's length.
    List(usize, usize),
    /// An application pattern of a rule is too long, or empty.
    Pattern(usize),
    /// A content of a rule is too long, or empty.
    Content(usize),
    /// A text of a rule's effect is too long.
    Effect(usize),
    /// One rule too many has a limit that its flows share.
    Limits(usize),
    /// Too many rules are tried when a socket is bound.
    Binds(usize),
    /// A section has too many elements.
    Section(SectionKind, usize),
    /// The whole is too large.
    Size(usize),
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rules(count) => write!(f, "{count} rules, and at most {MAX_RULES} are possible"),
            Self::List(_, count) => write!(
                f,
                "a list of {count} elements, and at most {MAX_LIST} are possible"
            ),
            Self::Pattern(_) => write!(
                f,
                "an application pattern of no, or more than {MAX_PATTERN_UNITS}, characters"
            ),
            Self::Content(_) => write!(f, "a content of no, or more than {MAX_CONTENT}, bytes"),
            Self::Effect(_) => write!(
                f,
                "a text of more than {MAX_EFFECT_TEXT} bytes to replace, or to put in its place"
            ),
            Self::Limits(_) => write!(
                f,
                "more than {MAX_LIMITS} rules with a rate that their connections share"
            ),
            Self::Binds(count) => write!(
                f,
                "{count} rules up to the last with `bind`, and at most {MAX_BINDS} are possible"
            ),
            Self::Section(kind, count) => write!(
                f,
                "{count} {kind} in all, and at most {MAX_ELEMENTS} are possible"
            ),
            Self::Size(size) => write!(
                f,
                "the compiled policy has {size} bytes, and at most {MAX_SIZE} are possible"
            ),
        }
    }
}

impl std::error::Error for EncodeError {}

/// The header's flags.
fn flags(policy: &Policy) -> u32 {
    let set = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    let boot = policy.boot.map_or(0, |boot| {
        POLICY_BOOT
            | set(boot.default == Action::Block, POLICY_BOOT_BLOCK)
            | set(boot.essential, POLICY_BOOT_ESSENTIAL)
    });
    let operations = policy
        .rules
        .iter()
        .fold(0, |flags, rule| flags | u32::from(rule.operation_flags()));
    set(policy.events_all, POLICY_EVENTS_ALL)
        | set(policy.observe, POLICY_OBSERVE)
        | (operations & POLICY_OPERATIONS)
        | boot
}

/// Encodes a policy.
pub(crate) fn encode(policy: &Policy) -> Result<Vec<u8>, EncodeError> {
    if policy.rules.len() > MAX_RULES {
        return Err(EncodeError::Rules(policy.rules.len()));
    }
    let index = Index::build(policy);
    let mut sections = Sections::default();
    for (place, rule) in policy.rules.iter().enumerate() {
        sections.rule(place, rule)?;
    }
    sections.index(&index);
    sections.hosts(policy);
    sections.contents(policy)?;
    sections.binds(policy)?;
    let root = reference(index.root);
    sections.finish(policy, root)
}

/// The rules that have each value of a condition, in order.
fn rules_of<T: Ord>(
    policy: &Policy,
    values: impl Fn(&Rule) -> &Vec<T>,
) -> BTreeMap<&T, Vec<usize>> {
    let mut rules_of: BTreeMap<&T, Vec<usize>> = BTreeMap::new();
    for (place, rule) in policy.rules.iter().enumerate() {
        for value in values(rule) {
            let rules = rules_of.entry(value).or_default();
            if rules.last() != Some(&place) {
                rules.push(place);
            }
        }
    }
    rules_of
}

#[derive(Default)]
struct Sections {
    rules: Vec<RuleRecord>,
    protocols: Vec<Range16>,
    ports: Vec<Range16>,
    addresses: Vec<AddressRange>,
    applications: Vec<ApplicationRecord>,
    users: Vec<UserRecord>,
    hosts: Vec<HostRecord>,
    rule_lists: Vec<U32>,
    application_keys: Vec<U64>,
    user_keys: Vec<U64>,
    nodes: Vec<NodeRecord>,
    leaves: Vec<LeafRecord>,
    contents: Vec<ContentRecord>,
    content_states: Vec<ContentStateRecord>,
    effects: Vec<EffectRecord>,
    interfaces: Vec<Range64>,
    effect_set: EffectSet,
    /// How many limits there are that flows share.
    limits: usize,
    binds: [U32; 2],
    /// Texts in the order in which they are read: all of the applications', the users', the hosts', the effects'.
    application_text: Vec<u8>,
    user_text: Vec<u8>,
    host_text: Vec<u8>,
    effect_text: Vec<u8>,
}

/// A number that fits, because everything is at most [`MAX_SIZE`].
fn small(number: usize) -> U32 {
    U32::new(u32::try_from(number).unwrap_or(u32::MAX))
}

fn reference(child: Child) -> u32 {
    match child {
        Child::Node(place) => small(place).get(),
        Child::Leaf(place) => small(place).get() | LEAF,
    }
}

/// Adds elements and returns their run.
fn run<T>(
    place: usize,
    section: &mut Vec<T>,
    elements: impl IntoIterator<Item = T>,
) -> Result<Run, EncodeError> {
    let first = section.len();
    section.extend(elements);
    let count = section.len() - first;
    let length = u16::try_from(count).map_err(|_| EncodeError::List(place, count))?;
    Ok(Run {
        first: if count == 0 { U32::ZERO } else { small(first) },
        count: U16::new(length),
    })
}

impl Sections {
    fn rule(&mut self, place: usize, rule: &Rule) -> Result<(), EncodeError> {
        let number = |number: u128| U16::new(u16::try_from(number).unwrap_or(u16::MAX));
        let numbers = |ranges: &Ranges| -> Vec<Range16> {
            ranges
                .as_slice()
                .iter()
                .map(|&(first, last)| Range16 {
                    first: number(first),
                    last: number(last),
                })
                .collect()
        };
        let addresses = |ranges: &Ranges| -> Vec<AddressRange> {
            let bytes = |&(first, last): &(u128, u128)| AddressRange {
                first: first.to_be_bytes(),
                last: last.to_be_bytes(),
            };
            ranges.as_slice().iter().map(bytes).collect()
        };
        let luid = |number: u128| U64::new(u64::try_from(number).unwrap_or(u64::MAX));
        let interfaces = rule
            .interfaces
            .as_slice()
            .iter()
            .map(|&(first, last)| Range64 {
                first: luid(first),
                last: luid(last),
            });
        let mut flags = rule.operation_flags();
        if rule.log {
            flags |= RULE_LOG;
        }
        if rule.boot {
            flags |= RULE_BOOT;
        }
        if !rule.hosts.is_empty() {
            flags |= RULE_HOST;
        }
        if !rule.contents.is_empty() {
            flags |= RULE_CONTENT;
        }
        if rule.children {
            flags |= RULE_CHILDREN;
        }
        let applications = self.application_records(place, rule)?;
        let (effects, effect_set) = self.effect_records(place, rule)?;
        let users = rule.users.iter().map(|user| {
            let text = small(self.user_text.len());
            self.user_text.extend(user.as_bytes());
            UserRecord {
                text,
                length: number(user.as_bytes().len() as u128),
                reserved: U16::ZERO,
            }
        });
        let users: Vec<_> = users.collect();
        self.rules.push(RuleRecord {
            action: rule.action.raw(),
            direction: rule
                .direction
                .map_or(0, portcullis_proto::policy::Direction::raw),
            flags: U16::new(flags),
            protocols: run(place, &mut self.protocols, numbers(&rule.protocols))?,
            local_ports: run(place, &mut self.ports, numbers(&rule.local_ports))?,
            remote_ports: run(place, &mut self.ports, numbers(&rule.remote_ports))?,
            local_addresses: run(place, &mut self.addresses, addresses(&rule.local_addresses))?,
            remote_addresses: run(
                place,
                &mut self.addresses,
                addresses(&rule.remote_addresses),
            )?,
            applications: run(place, &mut self.applications, applications)?,
            users: run(place, &mut self.users, users)?,
            interfaces: run(place, &mut self.interfaces, interfaces)?,
            effects: run(place, &mut self.effects, effects)?,
            effect_set: U32::new(effect_set.bits()),
        });
        Ok(())
    }

    /// The rules that decide about binds: up to the last one that does something about them.
    fn binds(&mut self, policy: &Policy) -> Result<(), EncodeError> {
        let binds = |rule: &Rule| {
            let bind = |effect: &crate::Effect| effect.kind() == EffectKind::Bind;
            rule.knows_a_bind() && rule.effects.iter().any(bind)
        };
        let end = policy
            .rules
            .iter()
            .rposition(binds)
            .map_or(0, |last| last + 1);
        let rules: Vec<_> = (0..end)
            .filter(|&rule| policy.rules[rule].knows_a_bind())
            .collect();
        if rules.len() > MAX_BINDS {
            return Err(EncodeError::Binds(rules.len()));
        }
        self.binds = self.rule_list(&rules).into();
        Ok(())
    }

    fn effect_records(
        &mut self,
        place: usize,
        rule: &Rule,
    ) -> Result<(Vec<EffectRecord>, EffectSet), EncodeError> {
        if rule.effects.len() > MAX_EFFECTS {
            return Err(EncodeError::List(place, rule.effects.len()));
        }
        let mut set = EffectSet::NONE;
        let mut records = Vec::with_capacity(rule.effects.len());
        for effect in &rule.effects {
            let (mut record, text) = effect.record();
            if text.iter().any(|part| part.len() > MAX_EFFECT_TEXT) {
                return Err(EncodeError::Effect(place));
            }
            let length = |part: &[u8]| U16::new(u16::try_from(part.len()).unwrap_or(u16::MAX));
            record.length = length(text[0]);
            record.other_length = length(text[1]);
            record.text = small(self.effect_text.len());
            if matches!(effect, crate::Effect::Rate { shared: true, .. }) {
                if self.limits >= MAX_LIMITS {
                    return Err(EncodeError::Limits(place));
                }
                record.port = U16::new(u16::try_from(self.limits).unwrap_or(u16::MAX));
                self.limits += 1;
            }
            self.effect_text.extend(text.concat());
            set = set.with(effect.kind());
            records.push(record);
        }
        self.effect_set = self.effect_set.union(set);
        Ok((records, set))
    }

    fn application_records(
        &mut self,
        place: usize,
        rule: &Rule,
    ) -> Result<Vec<ApplicationRecord>, EncodeError> {
        let mut records = Vec::with_capacity(rule.applications.len());
        for pattern in &rule.applications {
            let units = u16::try_from(pattern.units().len()).unwrap_or(u16::MAX);
            if units == 0 || usize::from(units) > MAX_PATTERN_UNITS {
                return Err(EncodeError::Pattern(place));
            }
            let text = small(self.application_text.len());
            self.application_text
                .extend(pattern.units().iter().flat_map(|unit| unit.to_le_bytes()));
            records.push(ApplicationRecord {
                text,
                units: U16::new(units),
                flags: U16::new(pattern.flags()),
            });
        }
        Ok(records)
    }

    /// Adds a list of rules and returns its first entry and its length.
    fn rule_list(&mut self, rules: &[usize]) -> (U32, U32) {
        let first = small(self.rule_lists.len());
        self.rule_lists
            .extend(rules.iter().map(|&rule| small(rule)));
        (first, small(rules.len()))
    }

    fn index(&mut self, index: &Index) {
        for leaf in &index.leaves {
            let (first, count) = self.rule_list(&leaf.plain);
            let (host_first, host_count) = self.rule_list(&leaf.hosted);
            let (content_first, content_count) = self.rule_list(&leaf.contents);
            self.leaves.push(LeafRecord {
                first,
                count,
                host_first,
                host_count,
                content_first,
                content_count,
            });
        }
        self.nodes.extend(index.nodes.iter().map(|node| NodeRecord {
            split: node.split.to_be_bytes(),
            below: U32::new(reference(node.below)),
            above: U32::new(reference(node.above)),
            dimension: node.dimension.raw(),
            depth: node.depth,
            reserved: [0; 6],
        }));
        self.application_keys
            .extend(index.application_keys.iter().map(|&key| U64::new(key)));
        self.user_keys
            .extend(index.user_keys.iter().map(|&key| U64::new(key)));
    }

    fn contents(&mut self, policy: &Policy) -> Result<(), EncodeError> {
        let is_wrong = |content: &Vec<u8>| content.is_empty() || content.len() > MAX_CONTENT;
        let wrong = |rule: &Rule| rule.contents.iter().any(is_wrong);
        if let Some(place) = policy.rules.iter().position(wrong) {
            return Err(EncodeError::Content(place));
        }
        let rules_of = rules_of(policy, |rule| &rule.contents);
        let literals: Vec<&[u8]> = rules_of.keys().map(|content| content.as_slice()).collect();
        for rules in rules_of.values() {
            let (first, count) = self.rule_list(rules);
            self.contents.push(ContentRecord { first, count });
        }
        let states = automaton::build(&literals);
        self.content_states
            .extend(states.iter().map(|state| ContentStateRecord {
                base: U32::new(state.base),
                fail: small(state.fail),
                content: small(state.content.map_or(0, |content| content + 1)),
                link: small(state.link),
                byte: state.byte,
                depth: u8::try_from(state.depth).unwrap_or(u8::MAX),
                reserved: U16::ZERO,
            }));
        Ok(())
    }

    fn hosts(&mut self, policy: &Policy) {
        for (host, rules) in rules_of(policy, |rule| &rule.hosts) {
            let text = small(self.host_text.len());
            self.host_text.extend(host.name.as_bytes());
            let (first, count) = self.rule_list(&rules);
            self.hosts.push(HostRecord {
                text,
                length: u8::try_from(host.name.len()).unwrap_or(u8::MAX),
                flags: if host.below { HOST_SUFFIX } else { 0 },
                reserved: U16::ZERO,
                first,
                count,
            });
        }
    }

    /// Puts the header and the sections together.
    fn finish(mut self, policy: &Policy, root: u32) -> Result<Vec<u8>, EncodeError> {
        let users_at = self.application_text.len();
        let hosts_at = users_at + self.user_text.len();
        for user in &mut self.users {
            user.text += small(users_at).get();
        }
        for host in &mut self.hosts {
            host.text += small(hosts_at).get();
        }
        let effects_at = hosts_at + self.host_text.len();
        for effect in &mut self.effects {
            if effect.length.get() + effect.other_length.get() > 0 {
                effect.text += small(effects_at).get();
            } else {
                effect.text = U32::ZERO;
            }
        }
        let text = [
            self.application_text,
            self.user_text,
            self.host_text,
            self.effect_text,
        ]
        .concat();
        let contents: [&[u8]; SECTIONS] = [
            self.rules.as_bytes(),
            self.protocols.as_bytes(),
            self.ports.as_bytes(),
            self.addresses.as_bytes(),
            self.applications.as_bytes(),
            self.users.as_bytes(),
            self.hosts.as_bytes(),
            self.rule_lists.as_bytes(),
            self.application_keys.as_bytes(),
            self.user_keys.as_bytes(),
            self.nodes.as_bytes(),
            self.leaves.as_bytes(),
            self.contents.as_bytes(),
            self.content_states.as_bytes(),
            self.effects.as_bytes(),
            self.interfaces.as_bytes(),
            &text,
        ];
        let size =
            size_of::<PolicyHeader>() + contents.iter().map(|section| section.len()).sum::<usize>();
        if size > MAX_SIZE {
            return Err(EncodeError::Size(size));
        }
        let mut header = PolicyHeader::new_zeroed();
        let mut end = size_of::<PolicyHeader>();
        for ((kind, section), bytes) in SectionKind::ALL
            .iter()
            .zip(&mut header.sections)
            .zip(contents)
        {
            let count = bytes.len() / kind.element_size();
            if count > MAX_ELEMENTS && *kind != SectionKind::Text {
                return Err(EncodeError::Section(*kind, count));
            }
            *section = Section {
                offset: small(end),
                count: small(count),
            };
            end += bytes.len();
        }
        header.magic = MAGIC;
        header.version = U16::new(FORMAT_VERSION);
        header.header_size = U16::new(u16::try_from(size_of::<PolicyHeader>()).unwrap_or(u16::MAX));
        header.total_size = small(size);
        header.flags = U32::new(flags(policy));
        header.default_action = policy.default.raw();
        header.root = U32::new(root);
        header.binds = self.binds;
        header.effects = U32::new(self.effect_set.bits());
        let mut blob = [&[header.as_bytes()], contents.as_slice()]
            .concat()
            .concat();
        header.crc = U32::new(crc32(&blob[CRC_FROM..]));
        blob[..size_of::<PolicyHeader>()].copy_from_slice(header.as_bytes());
        Ok(blob)
    }
}
