//! Packets of the rows.

use ksim::net::{Link, Opened, Socket};
use portcullis_tests::{Tcp, udp};
use wfp_schema::IpVersion;

use crate::world::World;

/// A peer.
pub(crate) const PEER: &str = "198.51.100.7";

/// The host's IPv4 address.
pub(crate) const HOST: &str = portcullis_tests::HOST_V4;

impl World {
    /// Whether the host may connect to this port of the peer; each time from another port.
    pub(crate) fn connects_to(&self, address: &str, port: u16) -> bool {
        let source = self.fresh_port();
        let mut connection = Tcp::new(&format!("{HOST}:{source}"), &format!("{address}:{port}"));
        let packets = connection.handshake();
        self.net().passes(&packets[0])
    }

    /// Whether the host may connect.
    pub(crate) fn connects(&self) -> bool {
        self.connects_to(PEER, 443)
    }

    /// Whether the host may send a datagram of this IP protocol.
    pub(crate) fn sends(&self, protocol: u8, address: &str) -> bool {
        let packet = portcullis_tests::packets::ip(
            HOST.parse().expect("an address"),
            address.parse().expect("an address"),
            protocol,
            &[0; 8],
        );
        self.net().passes(packet)
    }

    /// A UDP socket is bound to any address and any port, and got this one.
    pub(crate) fn bind_any(&self, port: u16) {
        let opened = self.net().open(&Socket {
            version: IpVersion::V4,
            protocol: 17,
            address: None,
            port,
            any_port: true,
            raw: false,
            promiscuous: false,
            listens: false,
            link: Link::default(),
        });
        assert!(matches!(opened, Opened::Bound(_)), "{opened:?}");
    }

    /// An established connection that the host has begun.
    pub(crate) fn connection(&self) -> Tcp {
        let source = self.fresh_port();
        let mut connection = Tcp::new(&format!("{HOST}:{source}"), &format!("{PEER}:443"));
        let handshake = connection.handshake();
        assert!(
            self.net().all_pass(&handshake),
            "nothing blocks the connection"
        );
        connection
    }
}

/// A datagram from the host to a port of the peer.
pub(crate) fn datagram(source: u16, port: u16) -> Vec<u8> {
    udp(
        &format!("{HOST}:{source}"),
        &format!("{PEER}:{port}"),
        b"datagram",
    )
}
