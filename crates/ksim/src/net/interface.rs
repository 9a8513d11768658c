//! The network interfaces of the host: what a capture does not tell of them.

use super::key::Link;

/// `ifType` of an Ethernet interface and of a software loopback interface (IANA).
const IF_TYPE_ETHERNET: u32 = 6;
const IF_TYPE_LOOPBACK: u32 = 24;

/// Interface indexes: loopback is 1 on every Windows system, the first real interface is given 2.
const LOOPBACK_INDEX: u32 = 1;
const FIRST_INDEX: u32 = 2;

const ETHERNET_MTU: u32 = 1500;
const LOOPBACK_MTU: u32 = u32::MAX;

/// A network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index (`IF_INDEX`).
    pub index: u32,
    /// Its type (IANA `ifType`).
    pub kind: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest IP packet that it takes.
    pub mtu: u32,
    /// The network profile it is in, `None` if that is not known.
    pub profile: Option<u32>,
    /// Whether packets can come and go.
    pub up: bool,
}

impl Interface {
    /// The software loopback interface.
    pub const LOOPBACK: Self = Self {
        index: LOOPBACK_INDEX,
        kind: IF_TYPE_LOOPBACK,
        mac: [0; 6],
        mtu: LOOPBACK_MTU,
        profile: None,
        up: true,
    };

    /// The Ethernet interface of a link about which nothing was said.
    #[must_use]
    pub const fn ethernet(link: Link) -> Self {
        let [high, low] = link.to_be_bytes();
        Self {
            index: FIRST_INDEX + link as u32,
            kind: IF_TYPE_ETHERNET,
            // Locally administered.
            mac: [0x02, 0, 0, 0, high, low],
            mtu: ETHERNET_MTU,
            profile: None,
            up: true,
        }
    }

    /// An interface of another type (IANA `ifType`) on a link.
    #[must_use]
    pub const fn of_type(link: Link, kind: u32) -> Self {
        Self {
            kind,
            ..Self::ethernet(link)
        }
    }

    /// `NET_LUID`: the type in the upper 16 bits, the LUID index in the next 24.
    #[must_use]
    pub const fn luid(&self) -> u64 {
        (self.kind as u64) << 48 | (self.index as u64) << 24
    }
}

/// The interfaces, by link. A link that was not named has an Ethernet interface of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Few, so that looking through them is faster than hashing.
    named: Vec<(Link, Interface)>,
    /// The profile of those that were not named.
    profile: Option<u32>,
}

impl Interfaces {
    /// Says what the interface of a link is.
    pub fn set(&mut self, link: Link, interface: Interface) {
        match self.named.iter_mut().find(|(known, _)| *known == link) {
            Some((_, known)) => *known = interface,
            None => self.named.push((link, interface)),
        }
    }

    /// A link about which nothing was said has an interface with this hardware address.
    pub(super) fn learn(&mut self, link: Link, mac: [u8; 6]) {
        if self.named.iter().all(|(known, _)| *known != link) {
            let interface = Interface {
                mac,
                ..self.of(link)
            };
            self.named.push((link, interface));
        }
    }

    /// The interface of a link.
    #[must_use]
    pub fn of(&self, link: Link) -> Interface {
        self.named
            .iter()
            .find(|(known, _)| *known == link)
            .map_or_else(
                || Interface {
                    profile: self.profile,
                    ..Interface::ethernet(link)
                },
                |(_, interface)| *interface,
            )
    }

    /// Says which network profile all of them are in.
    pub(super) fn set_profile(&mut self, profile: u32) {
        self.profile = Some(profile);
        for (_, interface) in &mut self.named {
            interface.profile = self.profile;
        }
    }
}
