//! A host with several network interfaces.

use ksim::net::{Interface, Interfaces, Link};

use crate::{HOST_V4, HOST_V6};

/// The link of the host's Ethernet interface.
pub const ETHERNET: Link = 0;
/// The link of its Wi-Fi interface.
pub const WIFI: Link = 1;
/// The link of its tunnel.
pub const TUNNEL: Link = 2;

/// Its interfaces' links, and their types (IANA `ifType`).
pub const INTERFACES: [(Link, u32); 3] = [(ETHERNET, 6), (WIFI, 71), (TUNNEL, 53)];

/// This host's and another's address, of both IP versions.
pub const BOTH: [(&str, &str); 2] = [(HOST_V4, "198.51.100.1"), (HOST_V6, "2001:db8::80")];

/// The interface of a link.
#[must_use]
pub fn interface(link: Link) -> Interface {
    let kind = INTERFACES.iter().find(|(known, _)| *known == link);
    Interface::of_type(link, kind.expect("an interface").1)
}

/// All of them.
#[must_use]
pub fn all() -> Interfaces {
    let mut interfaces = Interfaces::default();
    for (link, _) in INTERFACES {
        interfaces.set(link, interface(link));
    }
    interfaces
}

/// Everything over the tunnel, nothing else but what this machine says to itself.
#[must_use]
pub fn kill_switch() -> String {
    format!(
        "default = 'block'\n\
         [[rule]]\nname = 'myself'\naction = 'permit'\ninterface_type = 'loopback'\n\
         [[rule]]\nname = 'tunnel'\naction = 'permit'\ninterface = '{:#x}'\n",
        interface(TUNNEL).luid()
    )
}
