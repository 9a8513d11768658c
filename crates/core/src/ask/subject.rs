//! What is asked about.

use crate::connection::{Connection, Endpoint, Listener, TCP, is_icmp};
use portcullis_proto::event::Operation;
use portcullis_proto::policy::Direction;

/// What an answer is about: the same each time the system asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    operation: Operation,
    protocol: u8,
    local: Endpoint,
    /// Of a listener the same as `local`.
    remote: Endpoint,
}

impl Subject {
    /// A connection, or an exchange of datagrams with a peer.
    #[must_use]
    pub const fn connection(connection: &Connection<'_>) -> Self {
        // The type and the code of an ICMP message are those of the packet at hand, not of the exchange.
        let ports = !is_icmp(connection.protocol);
        Self {
            operation: match connection.direction {
                Direction::Outbound => Operation::Connect,
                Direction::Inbound => Operation::Accept,
            },
            protocol: connection.protocol,
            local: endpoint(connection.local, ports),
            remote: endpoint(connection.remote, ports),
        }
    }

    /// A socket that wants to listen.
    #[must_use]
    pub const fn listener(listener: &Listener<'_>) -> Self {
        Self {
            operation: Operation::Listen,
            protocol: TCP,
            local: listener.local,
            remote: listener.local,
        }
    }

    /// A number that differs, mostly, where subjects differ.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "numbers are taken apart into halves"
    )]
    pub(super) const fn hash(&self, seed: u64) -> u64 {
        const fn mix(hash: u64, value: u64) -> u64 {
            let product = (hash ^ value) as u128 * 0x9e37_79b9_7f4a_7c15;
            (product as u64) ^ ((product >> 64) as u64)
        }
        let small = (self.operation as u64) << 40
            | (self.protocol as u64) << 32
            | (self.local.port as u64) << 16
            | self.remote.port as u64;
        let (local, remote) = (self.local.number(), self.remote.number());
        let mut hash = mix(seed, small);
        hash = mix(hash, local as u64);
        hash = mix(hash, (local >> 64) as u64);
        hash = mix(hash, remote as u64);
        mix(hash, (remote >> 64) as u64)
    }
}

const fn endpoint(endpoint: Endpoint, has_port: bool) -> Endpoint {
    Endpoint::new(endpoint.address, if has_port { endpoint.port } else { 0 })
}
