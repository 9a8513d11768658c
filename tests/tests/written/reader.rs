//! Captures as a receiving end reads them: TCP put in order, with nothing of the product's in it but the file format.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use portcullis_cli::capture::{self, LinkType};
use portcullis_tests::capture::contents;

/// TCP's flags.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Nanoseconds since 1970; 0 where the reader does not tell.
    pub(crate) time: u64,
    /// Its bytes from the IP header on.
    pub(crate) packet: Vec<u8>,
}

/// An address, as many bytes as it has, and a port.
pub(crate) type End = (Vec<u8>, u16);

/// A TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) source: End,
    pub(crate) destination: End,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: Option<u32>,
    pub(crate) flags: u8,
    pub(crate) data: Vec<u8>,
    /// Bytes that it had and the capture has not.
    pub(crate) cut: usize,
    pub(crate) is_sound: bool,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// The Internet checksum's sum, which is 0xffff over what is sound.
fn sum(parts: &[&[u8]]) -> u32 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum
}

impl Segment {
    /// The segment in a packet, if that is one.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (header, total, addresses) = match packet.first()? >> 4 {
            4 if packet.len() >= 20 && packet[9] == 6 && word(packet, 6) << 2 == 0 => {
                let header = usize::from(packet[0] & 15) * 4;
                // No length: a send that the network card splits.
                let total = match word(packet, 2) {
                    0 => packet.len(),
                    total => total.into(),
                };
                (header, total, 12..20)
            }
            6 if packet.len() >= 40 && packet[6] == 6 => {
                (40, 40 + usize::from(word(packet, 4)), 8..40)
            }
            _ => return None,
        };
        let tcp = packet.get(header..total.min(packet.len()))?;
        if tcp.len() < 20 {
            return None;
        }
        let addresses = &packet[addresses];
        let (from, to) = addresses.split_at(addresses.len() / 2);
        let offset = usize::from(tcp[12] >> 4) * 4;
        let length = u16::try_from(tcp.len()).ok()?.to_be_bytes();
        let pseudo: [&[u8]; 4] = [addresses, &length, &[0, 6], tcp];
        let is_v4 = packet[0] >> 4 == 4;
        Some(Self {
            source: (from.to_vec(), word(tcp, 0)),
            destination: (to.to_vec(), word(tcp, 2)),
            sequence: long(tcp, 4),
            acknowledgment: (tcp[13] & 16 != 0).then(|| long(tcp, 8)),
            flags: tcp[13],
            data: tcp.get(offset..)?.to_vec(),
            cut: total.saturating_sub(packet.len()),
            is_sound: sum(&pseudo) == 0xffff && (!is_v4 || sum(&[&packet[..header]]) == 0xffff),
        })
    }

    /// The numbers that it takes.
    fn length(&self) -> u32 {
        let marks = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        u32::try_from(self.data.len() + self.cut).expect("short") + marks
    }
}

/// One direction of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Its data in order.
    pub(crate) data: Vec<u8>,
    /// Whether it has come to its end.
    pub(crate) is_over: bool,
    /// Whether it was reset.
    pub(crate) is_reset: bool,
    /// Whether something of it is missing.
    pub(crate) has_gaps: bool,
    /// Packets that repeat, come early, or say that they have what nobody sent.
    pub(crate) oddities: usize,
    /// Packets with a wrong checksum.
    pub(crate) unsound: usize,
    next: Option<u32>,
    /// The number behind what was seen.
    seen: Option<u32>,
    early: Vec<(u32, Vec<u8>, bool)>,
}

fn ahead(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from).cast_signed())
}

impl Stream {
    fn take(&mut self, segment: &Segment) {
        self.unsound += usize::from(!segment.is_sound);
        self.is_reset |= segment.flags & RST != 0;
        let begins = segment
            .sequence
            .wrapping_add(u32::from(segment.flags & SYN != 0));
        self.next.get_or_insert(begins);
        if segment.length() == 0 || segment.flags & RST != 0 {
            return;
        }
        let end = segment.sequence.wrapping_add(segment.length());
        let behind = *self.seen.get_or_insert(segment.sequence);
        self.oddities += usize::from(segment.sequence != behind);
        if ahead(behind, end) > 0 {
            self.seen = Some(end);
        }
        self.has_gaps |= segment.cut > 0;
        let is_last = segment.flags & FIN != 0;
        if is_last || !segment.data.is_empty() {
            self.early.push((begins, segment.data.clone(), is_last));
        }
        self.drain();
    }

    /// Takes what is next. Where two packets have the same data the first that came counts.
    fn drain(&mut self) {
        while let Some(next) = self.next
            && let Some(at) = self.early.iter().position(|(begins, data, fin)| {
                let end = begins.wrapping_add(u32::try_from(data.len()).expect("short"));
                ahead(*begins, next) >= 0 && (ahead(next, end) > 0 || *fin && next == end)
            })
        {
            let (begins, data, fin) = self.early.remove(at);
            let known = usize::try_from(ahead(begins, next)).expect("not ahead");
            let later = self.early.iter().map(|(begins, ..)| ahead(next, *begins));
            // Data that came before, from the middle of this on, wins.
            let most = later.filter(|&to| to > 0).min().unwrap_or(i64::MAX);
            let fresh = &data[known..];
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(fresh.len());
            self.data.extend_from_slice(&fresh[..most]);
            self.next = Some(next.wrapping_add(u32::try_from(most).expect("short")));
            if most < fresh.len() {
                self.early.push((begins, data, fin));
            } else if fin {
                self.is_over = true;
                self.early.clear();
            }
        }
    }
}

/// The connections of a capture: each direction by its ends.
pub(crate) fn streams(frames: &[Frame]) -> BTreeMap<(End, End), Stream> {
    let mut streams: BTreeMap<(End, End), Stream> = BTreeMap::new();
    for segment in frames.iter().filter_map(|frame| Segment::of(&frame.packet)) {
        let ends = (segment.source.clone(), segment.destination.clone());
        let back = (segment.destination.clone(), segment.source.clone());
        let other = streams.get(&back);
        // Nobody is there any more who could get it.
        if other.is_some_and(|other| other.is_reset) && segment.flags & (RST | SYN) == 0 {
            continue;
        }
        let other = other.and_then(|other| other.seen);
        let stream = streams.entry(ends).or_default();
        // Somebody has what was not sent to him.
        let invented = segment.acknowledgment.zip(other);
        let is_odd = invented.is_some_and(|(told, seen)| ahead(seen, told) > 0);
        stream.oddities += usize::from(is_odd && segment.flags & RST == 0);
        stream.take(&segment);
    }
    for stream in streams.values_mut() {
        stream.has_gaps |= !stream.early.is_empty();
    }
    streams
}

/// The IP packets of a capture.
pub(crate) fn frames(file: &Path) -> Vec<Frame> {
    let (mut frames, mut others) = (Vec::new(), 0);
    capture::read(file, |frame| {
        if let Ok(packet) = capture::ip_packet(&frame) {
            // Whoever goes by an Ethernet frame's type finds a packet of that version.
            let wanted: &[u8] = if packet[0] >> 4 == 4 {
                &[8, 0]
            } else {
                &[0x86, 0xdd]
            };
            if frame.link == LinkType::ETHERNET && frame.data.ends_with(packet) {
                let header = &frame.data[..frame.data.len() - packet.len()];
                assert!(header.ends_with(wanted), "{}: {header:x?}", file.display());
            }
            frames.push(Frame {
                time: frame.time,
                packet: packet.to_vec(),
            });
        } else {
            others += 1;
        }
        ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
    if file
        .extension()
        .is_some_and(|extension| extension == "written")
    {
        // Another reader finds the same.
        let again = contents(file).packets;
        assert_eq!(again.len(), frames.len() + others, "{}", file.display());
        let mut again = again.iter();
        for Frame { packet, .. } in &frames {
            let found = again.any(|frame| frame.data.ends_with(packet));
            assert!(found, "{}", file.display());
        }
    }
    frames
}
