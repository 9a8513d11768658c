//! TCP segments that no capture holds: what a direction's data became, behind the headers of a packet that came by.

use ksim::net::packet::{Packet, Transport, tcp_flag};
use portcullis_core::packet::{Checksums, Layout, complete};

use crate::capture::LinkType;

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// A TCP option that is nothing, and the one that says what arrived out of order.
const NO_OPERATION: u8 = 1;
const SELECTIVE_ACKNOWLEDGMENT: u8 = 5;

/// What a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    pub(super) data: Vec<u8>,
}

/// The headers of a direction's latest packet, for what has no packet of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    pub(super) link: Option<LinkType>,
    pub(super) link_header: Vec<u8>,
    /// From the IP header to the end of the TCP header; empty before the first packet.
    pub(super) headers: Vec<u8>,
    /// The acknowledgment number of that packet.
    pub(super) acknowledgment: u32,
    /// The number behind that packet.
    pub(super) behind: u32,
    /// The data of the longest packet so far.
    pub(super) longest: usize,
}

impl Template {
    pub(super) fn note(&mut self, packet: &Packet<'_>) {
        let Transport::Tcp(tcp) = packet.transport else {
            return;
        };
        let length = packet.ip_header_len + packet.transport_header_len;
        self.headers.clear();
        self.headers
            .extend_from_slice(packet.bytes.get(..length).unwrap_or_default());
        if tcp.has(tcp_flag::ACK) {
            self.acknowledgment = tcp.acknowledgment;
        }
        let [syn, fin] = [tcp_flag::SYN, tcp_flag::FIN].map(|flag| u32::from(tcp.has(flag)));
        let data = u32::try_from(packet.payload_wire_len).unwrap_or(u32::MAX);
        self.behind = tcp.sequence.wrapping_add(data).wrapping_add(syn + fin);
        self.longest = self.longest.max(packet.payload_wire_len);
    }
}

/// The packet of a segment, with the headers of `base`. `None` if these are not all there.
pub(super) fn packet(base: &[u8], segment: &Segment) -> Option<Vec<u8>> {
    let parsed = Packet::parse(base).ok()?;
    let Transport::Tcp(like) = parsed.transport else {
        return None;
    };
    let transport = parsed.ip_header_len;
    let opens = |flags: u8| flags & tcp_flag::SYN != 0;
    // What a connection is opened with, its data is not sent with.
    let header = if opens(like.flags) && !opens(segment.flags) {
        TCP_HEADER
    } else {
        parsed.transport_header_len
    };
    let mut bytes = base.get(..transport + header)?.to_vec();
    let tcp = bytes.get_mut(transport..)?;
    tcp.get_mut(4..8)?
        .copy_from_slice(&segment.sequence.to_be_bytes());
    tcp.get_mut(8..12)?
        .copy_from_slice(&segment.acknowledgment.to_be_bytes());
    *tcp.get_mut(12)? = u8::try_from(header / 4).ok()? << 4 | tcp[12] & 0xf;
    *tcp.get_mut(13)? = segment.flags;
    forget_selective(tcp.get_mut(TCP_HEADER..)?);
    bytes.extend_from_slice(&segment.data);
    let total = bytes.len();
    let (at, length) = match bytes.first()? >> 4 {
        4 => (2, total),
        _ => (4, total - 40),
    };
    bytes[at..at + 2].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    let layout = Layout::new_checked(&bytes).ok()?;
    let checksums = Checksums {
        ip_missing: true,
        transport_missing: true,
    };
    complete(&mut bytes, &layout, checksums);
    Some(bytes)
}

/// What arrived out of order has other numbers now, and arrives in order.
fn forget_selective(mut options: &mut [u8]) {
    while let [kind, ..] = *options {
        let length = match (kind, options.get(1)) {
            (0, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&length)) => usize::from(length.max(2)),
            _ => return,
        };
        let Some((option, rest)) = options.split_at_mut_checked(length) else {
            return;
        };
        if kind == SELECTIVE_ACKNOWLEDGMENT {
            option.fill(NO_OPERATION);
        }
        options = rest;
    }
}
