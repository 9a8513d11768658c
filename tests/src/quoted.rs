//! Paths that are translated, and what ICMP errors quote of them.

use std::net::{IpAddr, SocketAddr};

use portcullis_core::packet::Layout;

/// Local side, remote side, that on the wire, and a router.
pub const PATHS: [[&str; 4]; 2] = [
    [
        "192.0.2.10:50000",
        "198.51.100.1:9999",
        "198.51.100.7:53",
        "203.0.113.1",
    ],
    [
        "[2001:db8::10]:50000",
        "[2001:db8::80]:9999",
        "[2001:db8::7]:53",
        "2001:db8:f::1",
    ],
];

/// A policy whose last rule translates what goes to a port of the [`PATHS`]' remote side, and may go on.
#[must_use]
pub fn policy(wire: &str) -> String {
    format!(
        "default = 'permit'\nobserve = true\n[[rule]]\naction = 'permit'\nremote_port = 9999\ntranslate = '{wire}'\n"
    )
}

/// The address of an end.
#[must_use]
pub fn address(end: &str) -> IpAddr {
    end.parse::<SocketAddr>().expect("an end").ip()
}

/// The part of a packet that an ICMP error quotes.
#[must_use]
pub fn beginning(packet: &[u8], of_transport: usize) -> &[u8] {
    let layout = Layout::new_checked(packet).expect("a packet");
    &packet[..packet.len().min(layout.header + of_transport)]
}
