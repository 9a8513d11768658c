//! Puts fragmented datagrams together, v4 and v6 alike.
//!
//! An exact repeat of a fragment is ignored; any other overlap discards the datagram (RFC 5722, which
//! Windows applies). Datagrams, their fragments and the bytes of all are bounded, and a datagram that isn't
//! complete within [`TIMEOUT`] is given up.

use std::collections::{HashMap, VecDeque};

use rustc_hash::FxBuildHasher;
use wfp_schema::IpVersion;

use super::indicate::{PacketId, Ticks};
use super::key::Link;
use super::packet::{Fragment, Packet};

/// How long the rest of a datagram is waited for: 60 s, in units of 100 ns.
pub(super) const TIMEOUT: Ticks = 60 * 10_000_000;
/// Datagrams in the making.
const MAX_DATAGRAMS: usize = 1024;
/// Fragments of one datagram.
const MAX_FRAGMENTS: usize = 512;
/// Bytes of all datagrams in the making.
const MAX_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    version: IpVersion,
    source: u128,
    destination: u128,
    identification: u32,
    protocol: u8,
    link: Link,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    data: Vec<u8>,
}

#[derive(Debug, Default)]
struct Datagram {
    serial: u64,
    /// The header in front of the first fragment.
    header: Vec<u8>,
    next_header_at: usize,
    protocol: u8,
    /// Ordered by offset, without overlaps.
    pieces: Vec<Piece>,
    /// Bytes in them.
    held: usize,
    end: Option<usize>,
    ids: Vec<PacketId>,
    wire_bytes: usize,
}

/// A datagram that was put together.
#[derive(Debug)]
pub(super) struct Whole {
    /// As a packet without fragmentation.
    pub(super) bytes: Vec<u8>,
    /// Its fragments.
    pub(super) ids: Vec<PacketId>,
    /// What its fragments took on the wire.
    pub(super) wire_bytes: usize,
}

/// What became of a fragment.
#[derive(Debug)]
pub(super) enum Taken {
    /// The datagram is complete.
    Whole(Whole),
    /// Fragments are missing.
    Waiting,
    /// The datagram is discarded; these packets with it.
    Discarded(Vec<PacketId>),
}

/// The datagrams in the making.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    datagrams: HashMap<Key, Datagram, FxBuildHasher>,
    /// In the order of their first fragments; entries of datagrams that are done stay until their time.
    deadlines: VecDeque<(Ticks, Key, u64)>,
    bytes: usize,
    serial: u64,
}

impl Fragments {
    /// Takes a fragment.
    pub(super) fn take(
        &mut self,
        now: Ticks,
        id: PacketId,
        link: Link,
        packet: &Packet<'_>,
        fragment: Fragment,
    ) -> Taken {
        let key = Key {
            version: packet.version,
            source: packet.source,
            destination: packet.destination,
            identification: fragment.identification,
            protocol: if packet.version == IpVersion::V4 {
                packet.protocol
            } else {
                0
            },
            link,
        };
        if !self.datagrams.contains_key(&key) {
            self.serial += 1;
            self.deadlines.push_back((now + TIMEOUT, key, self.serial));
        }
        let serial = self.serial;
        let datagram = self.datagrams.entry(key).or_insert_with(|| Datagram {
            serial,
            ..Datagram::default()
        });
        datagram.ids.push(id);
        if id != PacketId::NONE {
            datagram.wire_bytes += packet.wire_len;
        }
        let data = &packet.bytes[packet.ip_header_len..];
        // A fragment that the capture cut leaves a hole that nothing can fill.
        let before = datagram.held;
        let sound = !packet.is_cut() && datagram.add(packet, fragment, data);
        let held = datagram.held;
        self.bytes += held - before;
        let bounded = datagram.pieces.len() <= MAX_FRAGMENTS && self.bytes <= MAX_BYTES;
        if datagram.end == Some(held) && sound {
            return self.remove(&key).map_or(Taken::Waiting, Taken::Whole);
        }
        if !sound || !bounded || self.datagrams.len() > MAX_DATAGRAMS {
            return self
                .remove_ids(&key)
                .map_or(Taken::Waiting, Taken::Discarded);
        }
        Taken::Waiting
    }

    /// Gives up the datagrams whose time has passed, and returns their packets.
    pub(super) fn expire(&mut self, now: Ticks) -> Vec<PacketId> {
        let mut ids = Vec::new();
        while let Some(&(deadline, key, serial)) = self.deadlines.front()
            && deadline <= now
        {
            self.deadlines.pop_front();
            if self
                .datagrams
                .get(&key)
                .is_some_and(|datagram| datagram.serial == serial)
            {
                ids.extend(self.remove_ids(&key).unwrap_or_default());
            }
        }
        ids
    }

    /// Gives up all datagrams, and returns their packets in order.
    pub(super) fn drain(&mut self) -> Vec<PacketId> {
        self.deadlines.clear();
        self.bytes = 0;
        let mut ids: Vec<_> = self
            .datagrams
            .drain()
            .flat_map(|(_, datagram)| datagram.ids)
            .collect();
        ids.sort_unstable();
        ids
    }

    fn remove_ids(&mut self, key: &Key) -> Option<Vec<PacketId>> {
        let datagram = self.datagrams.remove(key)?;
        self.forget(&datagram);
        Some(datagram.ids)
    }

    fn remove(&mut self, key: &Key) -> Option<Whole> {
        let datagram = self.datagrams.remove(key)?;
        self.forget(&datagram);
        let bytes = datagram.assemble(key.version);
        Some(Whole {
            bytes,
            ids: datagram.ids,
            wire_bytes: datagram.wire_bytes,
        })
    }

    const fn forget(&mut self, datagram: &Datagram) {
        self.bytes -= datagram.held;
    }
}

impl Datagram {
    /// Adds a fragment; `false` if the datagram is to be discarded.
    fn add(&mut self, packet: &Packet<'_>, fragment: Fragment, data: &[u8]) -> bool {
        let offset = usize::from(fragment.offset);
        let end = offset + data.len();
        if offset == 0 && self.header.is_empty() {
            self.header = packet.bytes[..fragment.unfragmentable].to_vec();
            self.next_header_at = fragment.next_header_at;
            self.protocol = packet.protocol;
        }
        if !fragment.more {
            if self.end.is_some_and(|known| known != end) {
                return false;
            }
            self.end = Some(end);
        }
        let at = self.pieces.partition_point(|piece| piece.offset < offset);
        if let Some(same) = self.pieces.get(at)
            && same.offset == offset
            && same.data == data
        {
            return true;
        }
        let free_before = at.checked_sub(1).is_none_or(|before| {
            let piece = &self.pieces[before];
            piece.offset + piece.data.len() <= offset
        });
        let free_after = self.pieces.get(at).is_none_or(|piece| end <= piece.offset);
        if !free_before || !free_after || self.end.is_some_and(|last| end > last) {
            return false;
        }
        self.held += data.len();
        self.pieces.insert(
            at,
            Piece {
                offset,
                data: data.to_vec(),
            },
        );
        true
    }

    /// The datagram as one packet: lengths, next header and fragment fields are those of a packet that was
    /// never fragmented. The IPv4 header checksum is made right.
    fn assemble(&self, version: IpVersion) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for piece in &self.pieces {
            bytes.extend_from_slice(&piece.data);
        }
        let total = |length: usize| u16::try_from(length).unwrap_or(0).to_be_bytes();
        match version {
            IpVersion::V4 => {
                let length = total(bytes.len());
                bytes[2..4].copy_from_slice(&length);
                // The fragment fields go, "don't fragment" stays as it was.
                bytes[6] &= 0x40;
                bytes[7] = 0;
                bytes[10..12].fill(0);
                let checksum = checksum(&bytes[..self.header.len()]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            IpVersion::V6 => {
                let length = total(bytes.len() - 40);
                bytes[4..6].copy_from_slice(&length);
                bytes[self.next_header_at] = self.protocol;
            }
        }
        bytes
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    let [high, low] = [sum >> 16, sum & 0xffff];
    let folded = high + low;
    let [_, _, high, low] = ((folded >> 16) + (folded & 0xffff)).to_be_bytes();
    !u16::from_be_bytes([high, low])
}
