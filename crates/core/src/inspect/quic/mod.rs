//! The server name in the first packets of a QUIC connection (RFC 9000; version 2: RFC 9369).
//!
//! The `ClientHello` travels in CRYPTO frames of Initial packets, whose keys follow from the first destination
//! connection id (RFC 9001, section 5.2): anyone on the path can read them. Clients spread it over several packets and
//! frames in any order, so it is put together before it is parsed. That takes memory, which a flow has only while its
//! name is sought: an [`Assembly`] of the [pool](crate::inspect::AssemblyPool).
//!
//! Bounds for each flow: [`MAX_DATAGRAMS`] datagrams of [`MAX_DATAGRAM`] bytes are looked at, with [`MAX_COALESCED`]
//! packets in each and at most two key derivations and decryptions for each packet; and [`MAX_HELLO`] bytes are kept.

mod crypto;
mod keys;
mod packet;
mod reader;

use super::tls::ClientHello;
use super::{HostName, Outcome};
use crypto::CryptoStream;
use keys::Keys;
use packet::{ConnectionId, Initial, Packet, VERSIONS};
use portcullis_proto::event::HostSource;
use reader::Reader;

/// Bytes of the longest `ClientHello` that is put together. With post-quantum key shares it has about 2 KiB.
pub const MAX_HELLO: usize = 4096;
/// Bytes of the longest datagram that is looked at; those that begin a connection fit an Ethernet frame.
pub const MAX_DATAGRAM: usize = 2048;
/// Datagrams of the initiator's that are looked at.
pub const MAX_DATAGRAMS: u8 = 16;
/// Packets in one datagram that are looked at.
pub const MAX_COALESCED: usize = 4;

/// Bytes of a datagram by which [`is_quic`] tells: the first byte and the version.
pub(super) const PREFIX: usize = 5;

/// Whether a flow whose first datagram begins so is QUIC that can be read, or that may come to be: a client that wants
/// to see its versions negotiated begins with one that does not exist (RFC 9000, section 15).
pub(super) fn is_quic(datagram: &[u8]) -> bool {
    packet::version(datagram).is_some_and(|version| {
        VERSIONS.iter().any(|known| known.number == version) || packet::is_reserved(version)
    })
}

/// What is known of a QUIC connection whose host name is sought.
#[derive(Debug)]
pub struct Assembly {
    /// Of the version and the connection id from which they were derived.
    keys: Option<(u32, ConnectionId, Keys)>,
    datagrams: u8,
    stream: CryptoStream,
    hello: ClientHello,
    name: HostName,
    /// The datagram at hand, decrypted in place.
    datagram: [u8; MAX_DATAGRAM],
}

impl Assembly {
    /// Of a connection of which nothing was seen.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            keys: None,
            datagrams: 0,
            stream: CryptoStream::new(),
            hello: ClientHello::new(),
            name: HostName::EMPTY,
            datagram: [0; MAX_DATAGRAM],
        }
    }

    /// Forgets everything.
    pub(super) const fn reset(&mut self) {
        self.keys = None;
        self.datagrams = 0;
        self.stream.reset();
        self.hello = ClientHello::new();
        self.name.clear();
    }

    /// The name, after [`Outcome::Host`].
    pub(super) const fn name(&self) -> &HostName {
        &self.name
    }

    /// The initiator sent a datagram of `length` bytes, in these pieces.
    pub(super) fn push<'d>(
        &mut self,
        length: u64,
        pieces: impl IntoIterator<Item = &'d [u8]>,
    ) -> Outcome {
        let mut filled = 0;
        for piece in pieces {
            let Some(room) = self.datagram.get_mut(filled..filled + piece.len()) else {
                return Outcome::None(HostSource::TooLong);
            };
            room.copy_from_slice(piece);
            filled += piece.len();
        }
        if filled as u64 != length {
            // A part could not be mapped. It may be sent again.
            return self.wait();
        }
        let datagram = self.datagram.get(..filled).unwrap_or_default();
        if self.datagrams == 0 && !is_quic(datagram) {
            return Outcome::None(HostSource::NotRecognized);
        }
        match self.packets(filled) {
            Outcome::NeedMore => self.wait(),
            known => known,
        }
    }

    /// Nothing known yet, unless that was the last datagram to be looked at.
    const fn wait(&mut self) -> Outcome {
        self.datagrams += 1;
        if self.datagrams < MAX_DATAGRAMS {
            Outcome::NeedMore
        } else {
            Outcome::None(HostSource::NeverSent)
        }
    }

    /// Goes through the packets of the datagram.
    fn packets(&mut self, length: usize) -> Outcome {
        let mut start = 0;
        for _ in 0..MAX_COALESCED {
            let rest = self.datagram.get(start..length).unwrap_or_default();
            let outcome;
            (outcome, start) = match packet::parse(rest) {
                // What a datagram is filled up with, or a packet of the established connection.
                None => break,
                Some(Packet::Other { length }) => (Outcome::NeedMore, start + length),
                Some(Packet::Initial(initial)) => {
                    (self.initial(start, &initial), start + initial.length)
                }
            };
            if outcome != Outcome::NeedMore {
                return outcome;
            }
        }
        Outcome::NeedMore
    }

    /// Decrypts an Initial packet and reads its frames.
    fn initial(&mut self, start: usize, initial: &Initial) -> Outcome {
        let Some(packet) = self.datagram.get_mut(start..start + initial.length) else {
            return MALFORMED;
        };
        // The keys stay those of the first connection id, though the client changes it when it learns the server's;
        // only after a Retry they follow from the new one.
        let known = self
            .keys
            .as_ref()
            .filter(|(version, ..)| *version == initial.version.number);
        let mut opened = known.and_then(|(.., keys)| keys.open(packet, initial.number_at));
        let is_known = |(_, id, _): &(u32, ConnectionId, Keys)| *id == initial.destination;
        if opened.is_none() && !known.is_some_and(is_known) {
            let keys = Keys::derive(initial.version, initial.destination.as_bytes());
            opened = keys.open(packet, initial.number_at);
            if opened.is_some() {
                self.keys = Some((initial.version.number, initial.destination, keys));
            }
        }
        let Some(payload) = opened.and_then(|range| packet.get(range)) else {
            // Damaged or forged: the server drops such a packet, and so it counts for nothing here.
            return Outcome::NeedMore;
        };
        let Some(outcome) = frames(payload, &mut self.stream) else {
            return MALFORMED;
        };
        if let Err(too_long) = outcome {
            return Outcome::None(too_long);
        }
        match self.hello.push(self.stream.take_new(), &mut self.name) {
            Outcome::Host(_) => Outcome::Host(HostSource::Quic),
            // The name is not held back for what may come in another datagram.
            Outcome::NeedMore if self.hello.is_named() => Outcome::Host(HostSource::Quic),
            other => other,
        }
    }
}

impl Assembly {
    /// Whether an encrypted `ClientHello` has been seen besides.
    #[must_use]
    pub const fn has_encrypted_hello(&self) -> bool {
        self.hello.has_encrypted()
    }
}

impl Default for Assembly {
    fn default() -> Self {
        Self::new()
    }
}

const MALFORMED: Outcome = Outcome::None(HostSource::Malformed);

/// Collects the CRYPTO frames of an Initial packet. `None`: a frame that may not be there, or that is cut short
/// (RFC 9000, section 17.2.2).
fn frames(payload: &[u8], stream: &mut CryptoStream) -> Option<Result<(), HostSource>> {
    const PADDING: u64 = 0x00;
    const PING: u64 = 0x01;
    const ACK: u64 = 0x02;
    const ACK_ECN: u64 = 0x03;
    const CRYPTO: u64 = 0x06;
    const CONNECTION_CLOSE: u64 = 0x1C;

    let mut reader = Reader::new(payload);
    while !reader.is_empty() {
        match reader.varint()? {
            PADDING | PING => {}
            frame @ (ACK | ACK_ECN) => {
                reader.varint()?; // largest acknowledged
                reader.varint()?; // delay
                let ranges = reader.varint()?;
                reader.varint()?; // first range
                // Each range takes at least two bytes of what is left, so the packet's end bounds this.
                for _ in 0..ranges {
                    reader.varint()?;
                    reader.varint()?;
                }
                if frame == ACK_ECN {
                    for _ in 0..3 {
                        reader.varint()?;
                    }
                }
            }
            CRYPTO => {
                let offset = reader.varint()?;
                let length = usize::try_from(reader.varint()?).ok()?;
                if let Err(too_long) = stream.insert(offset, reader.bytes(length)?) {
                    return Some(Err(too_long));
                }
            }
            CONNECTION_CLOSE => return Some(Ok(())),
            _ => return None,
        }
    }
    Some(Ok(()))
}
