//! The headers of QUIC packets (RFC 9000, section 17; RFC 8999).

use super::reader::Reader;

/// The header form: set in packets with a long header.
const LONG: u8 = 0x80;
/// Set in every packet of the versions understood here.
const FIXED: u8 = 0x40;
/// Longest connection id of these versions.
const MAX_ID: usize = 20;

/// A version of QUIC.
#[derive(Debug)]
pub(super) struct Version {
    /// Its number on the wire.
    pub(super) number: u32,
    /// What Initial secrets are extracted with.
    pub(super) salt: [u8; 20],
    /// The type of an Initial packet, in bits 4 and 5 of its first byte.
    initial: u8,
    /// The labels of the key, the IV and the header protection key.
    pub(super) labels: [&'static [u8]; 3],
}

const LABELS: [&[u8]; 3] = [b"quic key", b"quic iv", b"quic hp"];

/// The versions whose Initial packets can be read.
pub(super) const VERSIONS: &[Version] = &[
    // RFC 9001, section 5.2.
    Version {
        number: 1,
        salt: [
            0x38, 0x76, 0x2C, 0xF7, 0xF5, 0x59, 0x34, 0xB3, 0x4D, 0x17, 0x9A, 0xE6, 0xA4, 0xC8,
            0x0C, 0xAD, 0xCC, 0xBB, 0x7F, 0x0A,
        ],
        initial: 0,
        labels: LABELS,
    },
    // RFC 9369, section 3.
    Version {
        number: 0x6B33_43CF,
        salt: [
            0x0D, 0xED, 0xE3, 0xDE, 0xF7, 0x00, 0xA6, 0xDB, 0x81, 0x93, 0x81, 0xBE, 0x6E, 0x26,
            0x9D, 0xCB, 0xF9, 0xBD, 0x2E, 0xD9,
        ],
        initial: 1,
        labels: [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"],
    },
    // The last draft before version 1, which older software still speaks.
    Version {
        number: 0xFF00_001D,
        salt: [
            0xAF, 0xBF, 0xEC, 0x28, 0x99, 0x93, 0xD2, 0x4C, 0x9E, 0x97, 0x86, 0xF1, 0x9C, 0x61,
            0x11, 0xE0, 0x43, 0x90, 0xA8, 0x99,
        ],
        initial: 0,
        labels: LABELS,
    },
];

/// A connection id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionId {
    length: u8,
    bytes: [u8; MAX_ID],
}

impl ConnectionId {
    fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_ID];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let length = u8::try_from(id.len()).ok()?;
        Some(Self { length, bytes })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

/// An Initial packet.
#[derive(Debug)]
pub(super) struct Initial {
    pub(super) version: &'static Version,
    pub(super) destination: ConnectionId,
    /// Offset of the packet number.
    pub(super) number_at: usize,
    /// Bytes of the packet.
    pub(super) length: usize,
}

/// A packet with a long header, at the front of what is left of a datagram.
#[derive(Debug)]
pub(super) enum Packet {
    /// An Initial packet.
    Initial(Initial),
    /// Another one, of so many bytes.
    Other {
        /// Bytes of the packet.
        length: usize,
    },
}

/// The version of a datagram that begins with a long header.
pub(super) fn version(datagram: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(datagram);
    let first = reader.byte()?;
    let version = reader.u32()?;
    (first & (LONG | FIXED) == LONG | FIXED).then_some(version)
}

/// Whether the version is one that is never used, so that servers offer those that they have.
pub(super) const fn is_reserved(version: u32) -> bool {
    version & 0x0F0F_0F0F == 0x0A0A_0A0A
}

/// The packet at the front. `None` if there is none whose end is known: it has a short header, belongs to a version
/// that cannot be read, is a Retry, or is cut short.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let version = version(bytes)?;
    let version = VERSIONS.iter().find(|known| known.number == version)?;
    let mut reader = Reader::new(bytes);
    let first = reader.byte()?;
    // The order of types is rotated in version 2: Initial, 0-RTT, Handshake, Retry.
    let kind = ((first >> 4) & 3).wrapping_sub(version.initial) & 3;
    reader.u32()?;
    let length = reader.byte()?.into();
    let destination = ConnectionId::new(reader.bytes(length)?)?;
    let source = reader.byte()?;
    reader.bytes(source.into())?;
    match kind {
        0 => {
            let token = usize::try_from(reader.varint()?).ok()?;
            reader.bytes(token)?;
        }
        3 => return None,
        _ => {}
    }
    let rest = usize::try_from(reader.varint()?).ok()?;
    let number_at = bytes.len() - reader.len();
    reader.bytes(rest)?;
    let length = number_at + rest;
    Some(if kind == 0 {
        Packet::Initial(Initial {
            version,
            destination,
            number_at,
            length,
        })
    } else {
        Packet::Other { length }
    })
}
