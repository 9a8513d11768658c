//! Which packets, and which events, a capture takes.

use crate::connection::Endpoint;
use portcullis_proto::capture::{CapturePrefix, StartCaptureRequest};

/// The ends of a packet or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// IP protocol number.
    pub protocol: u8,
    /// This machine's end; the source of a forwarded packet.
    pub local: Endpoint,
    /// The other end; the destination of a forwarded packet.
    pub remote: Endpoint,
}

/// A capture's filter, as its request had it.
#[derive(Clone, Copy, Debug)]
pub struct CaptureFilter {
    request: StartCaptureRequest,
}

impl CaptureFilter {
    /// The filter of a request that was checked.
    #[must_use]
    pub const fn new(request: StartCaptureRequest) -> Self {
        Self { request }
    }

    /// Most bytes of a packet that are kept.
    #[must_use]
    pub const fn snap_length(&self) -> u32 {
        self.request.snap_length.get()
    }

    /// Whether every packet is taken, so that none has to be looked at.
    #[must_use]
    pub const fn takes_all(&self) -> bool {
        let request = &self.request;
        request.address_count == 0 && request.port_count == 0 && request.protocol_count == 0
    }

    /// Whether what has these ends is taken.
    #[must_use]
    pub fn takes(&self, ends: &Ends) -> bool {
        let (addresses, ports) = (self.request.addresses(), self.request.ports());
        let protocols = self.request.protocols();
        let both = [ends.local, ends.remote];
        let is_at = |end: Endpoint| addresses.iter().any(|prefix| holds(prefix, end.number()));
        let is_on = |end: Endpoint| {
            let holds = |first: u16, last: u16| (first..=last).contains(&end.port);
            ports
                .iter()
                .any(|range| holds(range.first.get(), range.last.get()))
        };
        (protocols.is_empty() || protocols.contains(&ends.protocol))
            && (addresses.is_empty() || both.into_iter().any(is_at))
            && (ports.is_empty() || both.into_iter().any(is_on))
    }
}

/// Whether the prefix holds the address.
const fn holds(prefix: &CapturePrefix, address: u128) -> bool {
    let differing = u128::from_be_bytes(prefix.address) ^ address;
    differing.leading_zeros() >= prefix.length as u32
}
