//! Protection at boot: what of a policy holds while the driver does not decide.
//!
//! From the start of the network stack until a policy is set, and again after the driver's stop or crash, only filters
//! that the system keeps by itself can hold. They ask no callout, so a rule that becomes such a filter has conditions
//! on addresses, ports, protocol, direction, interfaces and exact applications alone. This module says which filters a policy
//! means; who adds them is the driver's business.
//!
//! A rule becomes at most one filter at each [`Point`]. Filters are numbered by their place: what a host needs to have a
//! network first, then the rules in their order, then the default. The place is also the weight: whatever the first
//! matching rule says is what the heaviest matching filter says.

use super::view::{PolicyView, run};
use core::iter;
use portcullis_proto::Family;
use portcullis_proto::policy::{
    APPLICATION_ANY_VOLUME, APPLICATION_WILDCARD, Action, AddressRange, Direction,
    MAX_BOOT_CONDITIONS, MAX_BOOT_RULES, POLICY_BOOT, POLICY_BOOT_BLOCK, POLICY_BOOT_ESSENTIAL,
    RULE_BOOT, RULE_CHILDREN, RULE_CONTENT, RULE_HOST, RULE_OPERATIONS, Range16, Range64,
    RuleRecord, interface_type, interfaces_of_type,
};

use crate::connection::UDP;

/// IP protocol number of ICMP for IPv6.
const ICMPV6: u8 = 58;
/// The IPv4-mapped IPv6 addresses, `::ffff:0:0/96`.
const MAPPED: (u128, u128) = (0xFFFF_0000_0000, 0xFFFF_FFFF_FFFF);

/// Where connections are authorized: the four layers at which a boot filter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// Outbound: `ALE_AUTH_CONNECT`; inbound: `ALE_AUTH_RECV_ACCEPT`.
    pub direction: Direction,
    /// The layer's version of IP.
    pub family: Family,
}

impl Point {
    /// Every point.
    pub const ALL: [Self; 4] = [
        Self::new(Direction::Outbound, Family::V4),
        Self::new(Direction::Outbound, Family::V6),
        Self::new(Direction::Inbound, Family::V4),
        Self::new(Direction::Inbound, Family::V6),
    ];

    const fn new(direction: Direction, family: Family) -> Self {
        Self { direction, family }
    }
}

/// What a host needs to have a network at all. With `POLICY_BOOT_ESSENTIAL` these are permitted before any rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Essential {
    direction: Option<Direction>,
    family: Option<Family>,
    traffic: Traffic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    /// Between this machine and itself.
    Loopback,
    /// UDP from this local to that remote port.
    Udp(u16, u16),
    /// ICMP for IPv6 of these types.
    Icmpv6(&'static [(u16, u16)]),
}

const fn both(family: Family, traffic: Traffic) -> Essential {
    Essential {
        direction: None,
        family: Some(family),
        traffic,
    }
}

const fn icmp(direction: Direction, types: &'static [(u16, u16)]) -> Essential {
    Essential {
        direction: Some(direction),
        family: Some(Family::V6),
        traffic: Traffic::Icmpv6(types),
    }
}

/// Redirects are left out: no host needs them, and they serve attackers (RFC 4890, section 4.3.2, leaves them to the
/// administrator).
const ESSENTIAL: [Essential; 5] = [
    Essential {
        direction: None,
        family: None,
        traffic: Traffic::Loopback,
    },
    // DHCP (RFC 2131, section 4.1) and DHCP for IPv6 (RFC 8415, section 7.2).
    both(Family::V4, Traffic::Udp(68, 67)),
    both(Family::V6, Traffic::Udp(546, 547)),
    // Router and neighbour solicitation; reports of multicast listeners, without which switches withhold solicitations.
    // Router and neighbour advertisement go both ways only for neighbours (RFC 4861, RFC 2710, RFC 3810).
    icmp(Direction::Outbound, &[(131, 133), (135, 136), (143, 143)]),
    icmp(Direction::Inbound, &[(130, 130), (134, 136)]),
];

/// A policy's protection at boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'p> {
    policy: PolicyView<'p>,
}

/// A filter that holds without the driver.
#[derive(Clone, Copy, Debug)]
pub struct BootFilter<'p> {
    policy: PolicyView<'p>,
    place: u16,
    point: Point,
    action: Action,
    source: Source<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Source<'p> {
    Essential(&'static Essential),
    Rule(&'p RuleRecord),
    Default,
}

/// One condition of a [`BootFilter`]. Conditions on the same field stand side by side and are alternatives. Numbers are
/// from the first to the second, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootCondition<'p> {
    /// The traffic stays on this machine.
    Loopback,
    /// The IP protocol's number.
    Protocol(u8, u8),
    /// The local port; for ICMP the message's type.
    LocalPort(u16, u16),
    /// The remote port.
    RemotePort(u16, u16),
    /// The local address, at an IPv4 point; in the processor's byte order.
    LocalV4(u32, u32),
    /// The remote address, at an IPv4 point; in the processor's byte order.
    RemoteV4(u32, u32),
    /// The local address, at an IPv6 point; in network order.
    LocalV6([u8; 16], [u8; 16]),
    /// The remote address, at an IPv6 point; in network order.
    RemoteV6([u8; 16], [u8; 16]),
    /// The network interface that has the local address, by its LUID.
    Interface(u64),
    /// The type of that interface: IANA's `ifType`.
    InterfaceType(u16, u16),
    /// The application's path in NT form: little-endian UTF-16 in lower case, without a terminator.
    Application(&'p [u8]),
}

impl<'p> PolicyView<'p> {
    /// The protection at boot, if the policy asks for any.
    #[must_use]
    pub const fn boot(&self) -> Option<Boot<'p>> {
        if self.flags & POLICY_BOOT == 0 {
            return None;
        }
        Some(Boot { policy: *self })
    }
}

impl<'p> Boot<'p> {
    /// More than there are filters of any policy.
    pub const MAX_FILTERS: usize = (ESSENTIAL.len() + MAX_BOOT_RULES + 1) * Point::ALL.len();

    /// What happens where no rule matches.
    #[must_use]
    pub const fn default_action(&self) -> Action {
        if self.policy.flags & POLICY_BOOT_BLOCK == 0 {
            Action::Permit
        } else {
            Action::Block
        }
    }

    /// The filters, the heaviest first; at most [`MAX_FILTERS`](Self::MAX_FILTERS).
    pub fn filters(&self) -> impl Iterator<Item = BootFilter<'p>> + use<'p> {
        let policy = self.policy;
        let is_essential = policy.flags & POLICY_BOOT_ESSENTIAL != 0;
        let essential = ESSENTIAL
            .iter()
            .filter(move |_| is_essential)
            .map(|one| (Action::Permit, Source::Essential(one)));
        let rules = policy
            .rules
            .iter()
            .filter(|rule| rule.flags.get() & RULE_BOOT != 0)
            .take(MAX_BOOT_RULES)
            .map(|rule| {
                let action = Action::from_raw(rule.action).unwrap_or(Action::Block);
                (action, Source::Rule(rule))
            });
        let default = iter::once((self.default_action(), Source::Default));
        let places = essential.chain(rules).chain(default).zip(0..);
        places.flat_map(move |((action, source), place)| {
            Point::ALL
                .into_iter()
                .map(move |point| BootFilter {
                    policy,
                    place,
                    point,
                    action,
                    source,
                })
                .filter(BootFilter::is_possible)
        })
    }
}

impl<'p> BootFilter<'p> {
    /// Its place among all: the smaller, the heavier. No two filters of one point have the same.
    #[must_use]
    pub const fn place(&self) -> u16 {
        self.place
    }

    /// Where it is.
    #[must_use]
    pub const fn point(&self) -> Point {
        self.point
    }

    /// Its number among those of all points, below [`Boot::MAX_FILTERS`]: no two filters have the same.
    #[must_use]
    pub fn number(&self) -> u16 {
        let point = (0..)
            .zip(Point::ALL)
            .find_map(|(number, point)| (point == self.point).then_some(number));
        self.place * 4 + point.unwrap_or(0)
    }

    /// What it does.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Whether it may hold before the base filtering engine runs too. Whose traffic it is matters to the filters of
    /// that engine's start on.
    #[must_use]
    pub const fn is_boot_time(&self) -> bool {
        match self.source {
            Source::Rule(rule) => rule.applications.count.get() == 0,
            Source::Essential(_) | Source::Default => true,
        }
    }

    /// Its conditions, at most [`MAX_BOOT_CONDITIONS`]; without any it matches everything at its point.
    pub fn conditions(&self) -> impl Iterator<Item = BootCondition<'p>> + use<'p> {
        let essential = match self.source {
            Source::Essential(essential) => Some(essential.traffic),
            _ => None,
        };
        let (policy, family) = (self.policy, self.point.family);
        let rule = match self.source {
            Source::Rule(rule) => Some(rule),
            _ => None,
        };
        let of_rule = rule.into_iter().flat_map(move |rule| {
            let both = |range: &Range16| (range.first.get(), range.last.get());
            let protocols = run(policy.protocols, rule.protocols).iter().map(both);
            let local_ports = run(policy.ports, rule.local_ports).iter().map(both);
            let remote_ports = run(policy.ports, rule.remote_ports).iter().map(both);
            let local = run(policy.addresses, rule.local_addresses).iter();
            let remote = run(policy.addresses, rule.remote_addresses).iter();
            let applications = run(policy.applications, rule.applications).iter();
            let interfaces = run(policy.interfaces, rule.interfaces).iter();
            let low = |number: u16| u8::try_from(number).unwrap_or(u8::MAX);
            protocols
                .map(move |(first, last)| BootCondition::Protocol(low(first), low(last)))
                .chain(local_ports.map(|(first, last)| BootCondition::LocalPort(first, last)))
                .chain(remote_ports.map(|(first, last)| BootCondition::RemotePort(first, last)))
                .chain(local.filter_map(move |range| address(range, family, true)))
                .chain(remote.filter_map(move |range| address(range, family, false)))
                .chain(interfaces.filter_map(interface))
                .chain(applications.map(move |record| {
                    let bytes = 2 * usize::from(record.units.get());
                    BootCondition::Application(policy.text(record.text, bytes))
                }))
        });
        essential
            .into_iter()
            .flat_map(Traffic::conditions)
            .chain(of_rule)
    }

    /// Whether anything at its point can match it.
    fn is_possible(&self) -> bool {
        let fits = |direction: Option<Direction>| {
            direction.is_none_or(|direction| direction == self.point.direction)
        };
        match self.source {
            Source::Essential(essential) => {
                let family = essential.family;
                fits(essential.direction) && family.is_none_or(|it| it == self.point.family)
            }
            Source::Rule(rule) => {
                let meets = |addresses| {
                    let ranges = run(self.policy.addresses, addresses);
                    ranges.is_empty()
                        || ranges
                            .iter()
                            .any(|range| address(range, self.point.family, true).is_some())
                };
                fits(Direction::from_raw(rule.direction))
                    && meets(rule.local_addresses)
                    && meets(rule.remote_addresses)
            }
            Source::Default => true,
        }
    }
}

impl Traffic {
    fn conditions<'a>(self) -> impl Iterator<Item = BootCondition<'a>> {
        let (protocol, local, remote): (_, &'static [(u16, u16)], _) = match self {
            Self::Loopback => (None, &[], None),
            Self::Udp(_, remote) => (Some(UDP), &[], Some((remote, remote))),
            Self::Icmpv6(types) => (Some(ICMPV6), types, None),
        };
        let own = match self {
            Self::Loopback => Some(BootCondition::Loopback),
            Self::Udp(local, _) => Some(BootCondition::LocalPort(local, local)),
            Self::Icmpv6(_) => None,
        };
        protocol
            .map(|number| BootCondition::Protocol(number, number))
            .into_iter()
            .chain(own)
            .chain(
                local
                    .iter()
                    .map(|&(first, last)| BootCondition::LocalPort(first, last)),
            )
            .chain(remote.map(|(first, last)| BootCondition::RemotePort(first, last)))
    }
}

/// The interfaces of a range as one condition: a single one, or all of some types. A filter knows no other ranges.
const fn interface<'a>(range: &Range64) -> Option<BootCondition<'a>> {
    let (first, last) = (range.first.get(), range.last.get());
    let (low, high) = (interface_type(first), interface_type(last));
    if first == last {
        Some(BootCondition::Interface(first))
    } else if interfaces_of_type(low).0 == first && interfaces_of_type(high).1 == last {
        Some(BootCondition::InterfaceType(low, high))
    } else {
        None
    }
}

/// Whether a filter can have all of these as its conditions. An interface and a type are conditions on two fields, which
/// would both have to match.
fn are_fit(interfaces: &[Range64]) -> bool {
    let mut conditions = interfaces.iter().map(interface);
    let is_type = |condition| match condition {
        Some(BootCondition::InterfaceType(..)) => Some(true),
        Some(_) => Some(false),
        None => None,
    };
    let Some(first) = conditions.next().map(is_type) else {
        return true;
    };
    first.is_some() && conditions.all(|condition| is_type(condition) == first)
}

/// The part of a range that is of this family.
fn address(range: &AddressRange, family: Family, is_local: bool) -> Option<BootCondition<'static>> {
    let (first, last) = (
        u128::from_be_bytes(range.first),
        u128::from_be_bytes(range.last),
    );
    match family {
        Family::V4 => {
            let (first, last) = (first.max(MAPPED.0), last.min(MAPPED.1));
            let low = |number: u128| u32::try_from(number - MAPPED.0).unwrap_or(u32::MAX);
            (first <= last).then(|| {
                let (first, last) = (low(first), low(last));
                if is_local {
                    BootCondition::LocalV4(first, last)
                } else {
                    BootCondition::RemoteV4(first, last)
                }
            })
        }
        Family::V6 => {
            // No mapped address comes to an IPv6 layer: what a range has of them does not matter.
            let is_mapped = first >= MAPPED.0 && last <= MAPPED.1;
            (!is_mapped).then_some(if is_local {
                BootCondition::LocalV6(range.first, range.last)
            } else {
                BootCondition::RemoteV6(range.first, range.last)
            })
        }
    }
}

/// What keeps the rules of a policy from being a protection at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Unfit {
    /// There is no such protection, or a condition or an effect that takes the driver.
    Condition,
    /// There are too many of them, or a rule has too many conditions.
    Count,
}

/// Whether a rule may hold at boot; one that is not to need not.
///
/// # Errors
/// Why it may not.
pub(in crate::policy) fn check(policy: &PolicyView<'_>, rule: &RuleRecord) -> Result<(), Unfit> {
    if rule.flags.get() & RULE_BOOT == 0 {
        return Ok(());
    }
    let inexact = APPLICATION_WILDCARD | APPLICATION_ANY_VOLUME;
    let mut applications = run(policy.applications, rule.applications).iter();
    if policy.flags & POLICY_BOOT == 0
        || rule.flags.get() & (RULE_HOST | RULE_CONTENT | RULE_CHILDREN | RULE_OPERATIONS) != 0
        || rule.users.count.get() != 0
        || rule.effect_set.get() != 0
        || rule.action == Action::Ask.raw()
        || applications.any(|application| application.flags.get() & inexact != 0)
        || !are_fit(run(policy.interfaces, rule.interfaces))
    {
        return Err(Unfit::Condition);
    }
    let conditions: usize = [
        rule.protocols,
        rule.local_ports,
        rule.remote_ports,
        rule.local_addresses,
        rule.remote_addresses,
        rule.applications,
        rule.interfaces,
    ]
    .iter()
    .map(|run| usize::from(run.count.get()))
    .sum();
    if conditions > MAX_BOOT_CONDITIONS {
        return Err(Unfit::Count);
    }
    Ok(())
}
