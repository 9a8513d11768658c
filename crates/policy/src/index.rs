//! The index: a binary decision tree that narrows a connection down to the few rules that can match it.
//!
//! Each node splits what is left of the space of connections in two, in the dimension and at the value that leave the
//! fewest rules on either side. A rule that reaches over a split is on both sides; [`ROOM_PER_RULE`] bounds what that costs.
//! What rules before it leave nothing to say throughout a part is left out there ([`Settled`]).

use crate::model::{Policy, Rule};
use crate::ranges::Ranges;
use portcullis_proto::effect::EffectKind;
use portcullis_proto::policy::{Action, Dimension, MAX_DEPTH, rule_operations, user_key};
use std::collections::HashMap;
use std::hash::Hash;

/// A leaf with so few rules is not split.
const FEW: usize = 4;
/// Entries in leaves for each rule, and for the policy, that splitting may lead to.
const ROOM_PER_RULE: usize = 24;
const ROOM: usize = 4096;
/// Number of dimensions.
const DIMENSIONS: usize = Dimension::ALL.len();

/// A range of values.
type Span = (u128, u128);

/// The index of a policy.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) root: Child,
    pub(crate) nodes: Vec<Node>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) application_keys: Vec<u64>,
    pub(crate) user_keys: Vec<u64>,
}

/// A place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Node(usize),
    Leaf(usize),
}

/// A split.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dimension: Dimension,
    pub(crate) split: u128,
    pub(crate) below: Child,
    pub(crate) above: Child,
    pub(crate) depth: u8,
}

/// The rules that have something to say of a connection that arrives here, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Leaf {
    /// Those with neither a host nor a content.
    pub(crate) plain: Vec<usize>,
    /// Those with a host.
    pub(crate) hosted: Vec<usize>,
    /// Those with contents.
    pub(crate) contents: Vec<usize>,
}

/// The part of the space that a rule reaches, by dimension. What a dimension cannot tell (an application pattern with
/// wildcards) is in it throughout.
#[derive(Debug)]
struct Shape {
    spans: [Ranges; DIMENSIONS],
    /// Whether all that it is about and that is within its shape matches it, but for its host or its contents.
    is_exact: bool,
    /// What it is about: flags of its record.
    operations: u16,
    says: Says,
}

/// What a rule can say of a connection that is in its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// The decision.
    Decision,
    /// That its host may lead to another decision: to a permit, or to a block or a question.
    Host { permits: bool },
    /// That its data is looked at: perhaps out of band.
    Contents { out_of_band: bool },
}

impl Says {
    fn of(rule: &Rule) -> Self {
        if !rule.contents.is_empty() {
            let mut kinds = rule.effects.iter().map(crate::Effect::kind);
            let out_of_band = kinds.any(|kind| kind == EffectKind::OutOfBand);
            Self::Contents { out_of_band }
        } else if !rule.hosts.is_empty() {
            let permits = rule.action == Action::Permit;
            Self::Host { permits }
        } else {
            Self::Decision
        }
    }
}

/// What rules have said, in order, of everything in a part of the space: each kind of thing about which operations.
#[derive(Debug, Default)]
struct Settled {
    decided: u16,
    host_may_permit: u16,
    host_may_block: u16,
    looked_at: u16,
    looked_at_out_of_band: u16,
}

impl Settled {
    /// Whether a later rule still has something to say: a rule after the decision has not, nor has one that only says again
    /// what is known. While a host is not known it matters whether there is a rule before the decision that permits, and
    /// otherwise whether there is any.
    const fn leaves(&self, rule: &Shape) -> bool {
        let settled = match rule.says {
            Says::Decision => 0,
            Says::Host { permits: true } => self.host_may_permit,
            Says::Host { permits: false } => self.host_may_permit | self.host_may_block,
            Says::Contents { out_of_band: true } => self.looked_at_out_of_band,
            Says::Contents { out_of_band: false } => self.looked_at_out_of_band | self.looked_at,
        };
        rule.operations & !(self.decided | settled) != 0
    }

    /// A rule that covers the part says what it says.
    const fn add(&mut self, rule: &Shape) {
        let settled = match rule.says {
            Says::Decision => &mut self.decided,
            Says::Host { permits: true } => &mut self.host_may_permit,
            Says::Host { permits: false } => &mut self.host_may_block,
            Says::Contents { out_of_band: true } => &mut self.looked_at_out_of_band,
            Says::Contents { out_of_band: false } => &mut self.looked_at,
        };
        *settled |= rule.operations;
    }
}

impl Index {
    pub(crate) fn build(policy: &Policy) -> Self {
        let application_keys = keys(
            policy
                .rules
                .iter()
                .flat_map(|rule| &rule.applications)
                .filter_map(super::model::ApplicationPattern::key),
        );
        let user_keys = keys(
            policy
                .rules
                .iter()
                .flat_map(|rule| &rule.users)
                .map(|user| user_key(user.as_bytes())),
        );
        let shapes: Vec<_> = policy
            .rules
            .iter()
            .map(|rule| Shape::of(rule, &application_keys, &user_keys))
            .collect();
        let mut space = [(0, u128::MAX); DIMENSIONS];
        for (dimension, span) in Dimension::ALL.iter().zip(&mut space) {
            *span = whole(*dimension, &application_keys, &user_keys);
        }
        let mut builder = Builder {
            shapes: &shapes,
            nodes: Vec::new(),
            leaves: HashMap::new(),
        };
        let room = ROOM + ROOM_PER_RULE * shapes.len();
        let top = builder.place((0..policy.rules.len()).collect(), space, 0, room);
        let nodes = builder.nodes.into_iter().flatten().collect();
        let mut leaves: Vec<_> = builder.leaves.into_iter().collect();
        leaves.sort_unstable_by_key(|(_, place)| *place);
        let leaves = leaves.into_iter().map(|(leaf, _)| leaf).collect();
        Self {
            root: top,
            nodes,
            leaves,
            application_keys,
            user_keys,
        }
    }
}

/// Distinct keys in order.
fn keys(keys: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Every value of a dimension.
const fn whole(dimension: Dimension, application_keys: &[u64], user_keys: &[u64]) -> Span {
    match dimension {
        Dimension::Direction => (1, 2),
        Dimension::Protocol => (0, 0xFF),
        Dimension::LocalAddress | Dimension::RemoteAddress => (0, u128::MAX),
        Dimension::LocalPort | Dimension::RemotePort => (0, 0xFFFF),
        Dimension::Application => (0, application_keys.len() as u128),
        Dimension::User => (0, user_keys.len() as u128),
    }
}

impl Shape {
    fn of(rule: &Rule, application_keys: &[u64], user_keys: &[u64]) -> Self {
        let place = |keys: &[u64], key: u64| {
            keys.binary_search(&key)
                .map_or(0, |place| place as u128 + 1)
        };
        let spans = Dimension::ALL.iter().map(|&dimension| {
            let ranges = match dimension {
                Dimension::Direction => {
                    Ranges::new(rule.direction.map(|d| (d.raw().into(), d.raw().into())))
                }
                Dimension::Protocol => rule.protocols.clone(),
                Dimension::LocalAddress => rule.local_addresses.clone(),
                Dimension::RemoteAddress => rule.remote_addresses.clone(),
                Dimension::LocalPort => rule.local_ports.clone(),
                Dimension::RemotePort => rule.remote_ports.clone(),
                // What an application starts may be of any path.
                Dimension::Application if rule.children => Ranges::default(),
                Dimension::Application => {
                    let keys: Option<Vec<_>> = rule
                        .applications
                        .iter()
                        .map(crate::ApplicationPattern::key)
                        .collect();
                    Ranges::new(
                        keys.into_iter()
                            .flatten()
                            .map(|key| place(application_keys, key))
                            .map(|p| (p, p)),
                    )
                }
                Dimension::User => Ranges::new(
                    rule.users
                        .iter()
                        .map(|user| place(user_keys, user_key(user.as_bytes())))
                        .map(|p| (p, p)),
                ),
            };
            if ranges.is_any() {
                Ranges::new([whole(dimension, application_keys, user_keys)])
            } else {
                ranges
            }
        });
        let mut shape = [const { None }; DIMENSIONS];
        for (place, ranges) in shape.iter_mut().zip(spans) {
            *place = Some(ranges);
        }
        // Keys may collide, so a rule for applications or users may match less than its shape. So does a rule for interfaces,
        // which are no dimension.
        let is_exact =
            rule.applications.is_empty() && rule.users.is_empty() && rule.interfaces.is_any();
        Self {
            spans: shape.map(Option::unwrap_or_default),
            is_exact,
            operations: rule_operations(rule.operation_flags()),
            says: Says::of(rule),
        }
    }

    fn covers(&self, space: &[Span; DIMENSIONS]) -> bool {
        self.is_exact
            && self
                .spans
                .iter()
                .zip(space)
                .all(|(ranges, &span)| ranges.covers_range(span))
    }

    fn meets(&self, dimension: usize, span: Span) -> bool {
        self.spans[dimension].meets(span)
    }
}

struct Builder<'p> {
    shapes: &'p [Shape],
    nodes: Vec<Option<Node>>,
    leaves: HashMap<Leaf, usize>,
}

/// Where to split: the dimension, the greatest value below, and how bad it is.
struct Split {
    dimension: usize,
    at: u128,
    cost: usize,
}

impl Builder<'_> {
    /// Places these rules, which meet the space, and returns where. `room` is how many entries in leaves splitting may
    /// add; either side of a split gets a share by its number of rules. Recurses to [`MAX_DEPTH`] at most.
    fn place(
        &mut self,
        mut rules: Vec<usize>,
        space: [Span; DIMENSIONS],
        depth: u8,
        room: usize,
    ) -> Child {
        let mut settled = Settled::default();
        rules.retain(|&rule| {
            let rule = &self.shapes[rule];
            let is_left = settled.leaves(rule);
            if is_left && rule.covers(&space) {
                settled.add(rule);
            }
            is_left
        });
        let is_final = rules.len() <= FEW || usize::from(depth) + 1 >= MAX_DEPTH;
        let Some(split) = (!is_final).then(|| self.best(&rules, &space)).flatten() else {
            return self.leaf(&rules);
        };
        let (first, last) = space[split.dimension];
        let side = |span: Span| {
            let mut part = space;
            part[split.dimension] = span;
            let meets = |rule: &usize| self.shapes[*rule].meets(split.dimension, span);
            (
                rules.iter().copied().filter(meets).collect::<Vec<_>>(),
                part,
            )
        };
        let below = side((first, split.at));
        let above = side((split.at + 1, last));
        let both = below.0.len() + above.0.len();
        let Some(room) = room.checked_sub(both.saturating_sub(rules.len())) else {
            return self.leaf(&rules);
        };
        let room_below = room * below.0.len() / both.max(1);
        let place = self.nodes.len();
        self.nodes.push(None);
        let below = self.place(below.0, below.1, depth + 1, room_below);
        let above = self.place(above.0, above.1, depth + 1, room - room_below);
        let dimension = Dimension::ALL[split.dimension];
        self.nodes[place] = Some(Node {
            dimension,
            split: split.at,
            below,
            above,
            depth,
        });
        Child::Node(place)
    }

    fn leaf(&mut self, rules: &[usize]) -> Child {
        let (mut leaf, place) = (Leaf::default(), self.leaves.len());
        for &rule in rules {
            let list = match self.shapes[rule].says {
                Says::Decision => &mut leaf.plain,
                Says::Host { .. } => &mut leaf.hosted,
                Says::Contents { .. } => &mut leaf.contents,
            };
            list.push(rule);
        }
        Child::Leaf(*self.leaves.entry(leaf).or_insert(place))
    }

    /// The split with the fewest rules on its fuller side and the fewest on both; `None` if none is worth it.
    fn best(&self, rules: &[usize], space: &[Span; DIMENSIONS]) -> Option<Split> {
        let mut best: Option<Split> = None;
        for (dimension, &(first, last)) in space.iter().enumerate() {
            let hull = |&rule: &usize| {
                let spans = self.shapes[rule].spans[dimension].as_slice();
                let within = |span: &&Span| span.0 <= last && span.1 >= first;
                let start = spans
                    .iter()
                    .find(within)
                    .map_or(first, |span| span.0.max(first));
                let end = spans
                    .iter()
                    .rev()
                    .find(within)
                    .map_or(last, |span| span.1.min(last));
                (start, end)
            };
            let (mut starts, mut ends): (Vec<_>, Vec<_>) = rules.iter().map(hull).unzip();
            starts.sort_unstable();
            ends.sort_unstable();
            let after_ends = ends.iter().copied().filter(|&end| end < last);
            let before_starts = starts
                .iter()
                .copied()
                .filter(|&start| start > first)
                .map(|start| start - 1);
            let mut candidates: Vec<_> = after_ends.chain(before_starts).collect();
            candidates.sort_unstable();
            candidates.dedup();
            for at in candidates {
                let below = starts.partition_point(|&start| start <= at);
                let above = rules.len() - ends.partition_point(|&end| end <= at);
                let fuller = below.max(above);
                let cost = fuller + 2 * (below + above - rules.len());
                if fuller < rules.len() && best.as_ref().is_none_or(|best| cost < best.cost) {
                    best = Some(Split {
                        dimension,
                        at,
                        cost,
                    });
                }
            }
        }
        best.filter(|best| best.cost < 2 * rules.len())
    }
}
