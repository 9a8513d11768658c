//! Which addresses are this host's: given by the caller, or found out from the traffic.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

use rustc_hash::FxBuildHasher;

use super::key::Ends;

/// The addresses of the simulated host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalSide {
    addresses: BTreeSet<IpAddr>,
    prefixes: Vec<(IpAddr, u8)>,
    broadcasts: BTreeSet<IpAddr>,
}

/// Whether two addresses share their first bits.
pub(super) fn same_prefix(left: IpAddr, right: IpAddr, length: u8) -> bool {
    let (left, right, bits) = match (left, right) {
        (IpAddr::V4(left), IpAddr::V4(right)) => (
            u128::from(left.to_bits()) << 96,
            u128::from(right.to_bits()) << 96,
            32,
        ),
        (IpAddr::V6(left), IpAddr::V6(right)) => (left.to_bits(), right.to_bits(), 128),
        _ => return false,
    };
    let length = length.min(bits);
    length == 0 || (left ^ right) >> (128 - u32::from(length)) == 0
}

/// Whether the address stands for many hosts by its form alone.
const fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

impl LocalSide {
    /// Adds an address.
    pub fn insert(&mut self, address: IpAddr) {
        self.addresses.insert(address);
    }

    /// Adds every address that shares the first `length` bits; a length beyond the address is all of it.
    pub fn insert_prefix(&mut self, address: IpAddr, length: u8) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if length >= bits {
            self.insert(address);
        } else {
            if let IpAddr::V4(address) = address
                && length < 31
            {
                let host = u32::MAX.checked_shr(u32::from(length)).unwrap_or(0);
                self.insert_broadcast(IpAddr::V4((address.to_bits() | host).into()));
            }
            self.prefixes.push((address, length));
        }
    }

    /// Adds the broadcast address of a link.
    pub fn insert_broadcast(&mut self, address: IpAddr) {
        self.broadcasts.insert(address);
    }

    /// Whether the address is this host's. The unspecified address is, the sender of a DHCP request
    /// has no other yet; so is every loopback address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_unspecified()
            || address.is_loopback()
            || self.addresses.contains(&address)
            || (!self.is_group(address)
                && self
                    .prefixes
                    .iter()
                    .any(|&(prefix, length)| same_prefix(prefix, address, length)))
    }

    /// Whether packets to the address are for many hosts, this one among them.
    #[must_use]
    pub fn is_group(&self, address: IpAddr) -> bool {
        is_group(address) || self.broadcasts.contains(&address)
    }

    /// The addresses that were inserted or found, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied()
    }

    /// Finds the local side of traffic from the ends of its packets.
    ///
    /// It is the smallest plausible set of addresses such that each flow has one local end: addresses
    /// are taken one after the other, private, link-local and loopback addresses before public ones, and
    /// among those the end of the most flows that have no local end yet, then the one that began more
    /// flows. Flows to groups need no local address, since their group is an end on this host.
    #[must_use]
    pub fn discover(packets: impl Iterator<Item = Ends>) -> Discovery {
        let mut traffic = Traffic::default();
        packets.for_each(|ends| traffic.add(&ends));
        traffic.cover()
    }
}

/// How far an address is from being this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Anywhere.
    Public,
    /// Private (RFC 1918, RFC 4193) or link-local.
    Private,
    /// Loopback.
    Loopback,
}

impl Scope {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Loopback => "loopback",
        }
    }

    const fn of(address: IpAddr) -> Self {
        let private = match address {
            IpAddr::V4(address) => {
                let carrier_grade = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
                address.is_private() || address.is_link_local() || carrier_grade
            }
            IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
        };
        if address.is_loopback() {
            Self::Loopback
        } else if private {
            Self::Private
        } else {
            Self::Public
        }
    }
}

/// Why an address was taken as local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address.
    pub address: IpAddr,
    /// Flows that got their local end by it.
    pub flows: usize,
    /// How many of all its flows it began.
    pub began: usize,
    /// What kind of address it is.
    pub scope: Scope,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            flows,
            began,
            scope,
        } = self;
        write!(
            f,
            "{address} ({}, an end of {flows} {}, began {began})",
            scope.name(),
            if *flows == 1 { "flow" } else { "flows" }
        )
    }
}

/// A local side and how it was found.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// The local side.
    pub local: LocalSide,
    /// Each address of it, in the order of choice.
    pub found: Vec<Found>,
}

/// A flow's protocol and ends.
type Pair = (u8, [(IpAddr, u16); 2]);

/// The flows of a capture.
#[derive(Default)]
struct Traffic {
    /// By protocol and ends, the lower end first.
    flows: HashMap<Pair, Seen, FxBuildHasher>,
}

/// What was seen of a flow.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Whether the lower end began it.
    low_began: bool,
    /// Whether the lower end sent, and whether the higher end did.
    sent: [bool; 2],
}

/// An address while the cover is looked for.
#[derive(Default)]
struct Candidate {
    /// Flows without a local end yet, by their other end.
    open: BTreeMap<IpAddr, usize>,
    began: usize,
}

impl Traffic {
    fn add(&mut self, ends: &Ends) {
        let forward = ends.source <= ends.destination;
        let pair = if forward {
            [ends.source, ends.destination]
        } else {
            [ends.destination, ends.source]
        };
        let low_began = ends.source_begins == forward;
        let seen = self.flows.entry((ends.protocol, pair)).or_insert(Seen {
            low_began,
            sent: [false; 2],
        });
        seen.sent[usize::from(!forward)] = true;
    }

    /// Where packets for many hosts go: groups, and by all appearances directed broadcasts (they end in 255
    /// and never send). A group that sends is a made-up address like any other.
    fn groups(&self) -> BTreeSet<IpAddr> {
        let mut groups = BTreeSet::new();
        let mut senders = BTreeSet::new();
        for (&(_, ends), seen) in &self.flows {
            for (end, sent) in ends.iter().zip(seen.sent) {
                let last_is_255 = matches!(end.0, IpAddr::V4(v4) if v4.octets()[3] == 255);
                if sent {
                    senders.insert(end.0);
                } else if is_group(end.0) || last_is_255 {
                    groups.insert(end.0);
                }
            }
        }
        groups.difference(&senders).copied().collect()
    }

    fn cover(&self) -> Discovery {
        let groups = self.groups();
        let mut discovery = Discovery::default();
        for &group in groups.iter().filter(|&&group| !is_group(group)) {
            discovery.local.insert_broadcast(group);
        }
        let mut candidates: BTreeMap<IpAddr, Candidate> = BTreeMap::new();
        for (&(_, [low, high]), seen) in &self.flows {
            let beginner = if seen.low_began { low.0 } else { high.0 };
            candidates.entry(beginner).or_default().began += 1;
            let has_end = |end: IpAddr| end.is_unspecified() || groups.contains(&end);
            if !has_end(low.0) && !has_end(high.0) {
                let both = [(low.0, high.0), (high.0, low.0)];
                let one = if low.0 == high.0 { 1 } else { 2 };
                for &(end, other) in &both[..one] {
                    *candidates
                        .entry(end)
                        .or_default()
                        .open
                        .entry(other)
                        .or_default() += 1;
                }
            }
        }
        while let Some(best) = best(&candidates) {
            let chosen = candidates.remove(&best.address).unwrap_or_default();
            for other in chosen.open.keys() {
                if let Some(other) = candidates.get_mut(other) {
                    other.open.remove(&best.address);
                }
            }
            discovery.local.insert(best.address);
            discovery.found.push(best);
        }
        discovery
    }
}

/// The next address to take, while flows lack a local end.
fn best(candidates: &BTreeMap<IpAddr, Candidate>) -> Option<Found> {
    let open = candidates
        .iter()
        .filter(|(_, candidate)| !candidate.open.is_empty());
    open.map(|(&address, candidate)| Found {
        address,
        flows: candidate.open.values().sum(),
        began: candidate.began,
        scope: Scope::of(address),
    })
    .max_by_key(|found| {
        (
            found.scope,
            found.flows,
            found.began,
            Reverse(found.address),
        )
    })
}
