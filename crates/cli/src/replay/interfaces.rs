//! The network interfaces of the simulated host.

use ksim::net::{Interface, Interfaces, Link, LocalSide};
use portcullis_core::PacketSummary;

use crate::arguments::{Prefix, SimulatedInterface};

/// The link of the first interface; those below are VLANs.
const FIRST_LINK: Link = 0xf000;

/// The interfaces that were named, each a link of its own.
#[derive(Debug, Clone, Default)]
pub struct NamedLinks(Vec<(Link, Vec<Prefix>)>);

impl NamedLinks {
    /// Makes the interfaces, and says which local addresses are theirs.
    pub(crate) fn new(
        named: &[SimulatedInterface],
        interfaces: &mut Interfaces,
        local: &mut LocalSide,
    ) -> Self {
        let links = named.iter().zip(FIRST_LINK..).map(|(interface, link)| {
            interfaces.set(link, simulated(interface, link));
            for prefix in interface.prefixes.iter().filter(|prefix| prefix.is_one()) {
                local.insert(prefix.address);
            }
            (link, interface.prefixes.clone())
        });
        Self(links.collect())
    }

    /// The link of the interface that has the local end of a packet.
    pub(super) fn of(&self, packet: &[u8], local: &LocalSide) -> Option<Link> {
        if self.0.is_empty() {
            return None;
        }
        let summary = PacketSummary::parse(packet)?;
        let ends = [summary.source.address, summary.destination.address];
        ends.into_iter()
            .filter(|end| local.contains(*end))
            .find_map(|end| {
                let has = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.contains(end));
                let mut links = self.0.iter();
                links.find(|(_, prefixes)| has(prefixes))
            })
            .map(|(link, _)| *link)
    }
}

/// The names and LUIDs of these interfaces, for the policy.
pub(crate) fn luids(named: &[SimulatedInterface]) -> Vec<(String, u64)> {
    named
        .iter()
        .zip(FIRST_LINK..)
        .map(|(interface, link)| (interface.name.clone(), simulated(interface, link).luid()))
        .collect()
}

fn simulated(interface: &SimulatedInterface, link: Link) -> Interface {
    Interface::of_type(link, interface.kind.into())
}
