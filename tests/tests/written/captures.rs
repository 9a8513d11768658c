//! One rule of each kind on captures of all sorts: each packet of the flows that it decides is written as the rule says, and every
//! other one as it is.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::Path;

use portcullis_core::{Endpoint, PacketSummary};
use portcullis_tests::sweep::Sample;

use super::reader::{FIN, Frame, RST, SYN, Segment};
use super::{How, Replayed, all_shared, own, replay_with, tshark};

/// What becomes of a packet that is sent (`true`), or received.
type Expected = fn(&Frame, bool) -> Frame;

/// A kind of rule.
struct Kind {
    name: &'static str,
    /// The rest of a rule for connections that this host begins to some ports.
    rule: &'static str,
    answer: Option<&'static str>,
    /// What becomes of each packet; nothing: none is written.
    expected: Option<Expected>,
    /// Whether answers come to who has asked, from where it has asked.
    hears_answers: bool,
    /// How much later packets are written, in nanoseconds.
    later: Range<u64>,
}

impl Kind {
    const fn new(name: &'static str, rule: &'static str, expected: Option<Expected>) -> Self {
        Self {
            name,
            rule,
            answer: None,
            expected,
            hears_answers: true,
            later: 0..1,
        }
    }
}

const RULE: &str = "
    default = 'permit'
    [[rule]]
    name = 'the rule'
    direction = 'outbound'
    remote_port = [53, 80, 443]
";

const MILLISECOND: u64 = 1_000_000;

static KINDS: [Kind; 8] = [
    Kind::new("block", "action = 'block'", None),
    Kind {
        answer: Some("the rule=permit"),
        ..Kind::new(
            "answered",
            "action = 'ask'\nask_default = 'block'",
            Some(itself),
        )
    },
    Kind {
        answer: Some("the rule=block"),
        ..Kind::new("refused", "action = 'ask'\nask_default = 'permit'", None)
    },
    Kind::new(
        "mark",
        "action = 'permit'\ndscp = 46\nttl = 9",
        Some(marked),
    ),
    Kind {
        hears_answers: false,
        ..Kind::new(
            "translate",
            "action = 'permit'\ntranslate = ':47002'",
            Some(translated),
        )
    },
    Kind::new(
        "redirect",
        "action = 'permit'\nredirect = ['127.0.0.1:47001', '[::1]:47001']",
        Some(redirected),
    ),
    Kind {
        // The machine's time has units of 100 ns.
        later: 7 * MILLISECOND - 100..8 * MILLISECOND,
        ..Kind::new("delay", "action = 'permit'\ndelay = '7 ms'", Some(itself))
    },
    Kind::new("loss", "action = 'permit'\nloss = '100 %'", None),
];

fn itself(frame: &Frame, _: bool) -> Frame {
    frame.clone()
}

fn is_v4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Puts a word into a packet; these checksums follow (RFC 1624), so that a wrong one stays wrong.
fn put(packet: &mut [u8], at: usize, word: u16, sums: &[usize]) {
    let read = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let old = read(packet, at);
    packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
    for &place in sums {
        let mut sum = u32::from(!read(packet, place)) + u32::from(!old) + u32::from(word);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = !u16::try_from(sum).expect("folded");
        packet[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn marked(frame: &Frame, is_sent: bool) -> Frame {
    let mut frame = frame.clone();
    let packet = &mut frame.packet;
    if is_sent && is_v4(packet) {
        let class = 46 << 2 | packet[1] & 3;
        let word = u16::from_be_bytes([packet[0], class]);
        put(packet, 0, word, &[10]);
        let word = u16::from_be_bytes([9, packet[9]]);
        put(packet, 8, word, &[10]);
    } else if is_sent {
        let class = 46 << 2 | packet[1] >> 4 & 3;
        packet[0] = 6 << 4 | class >> 4;
        packet[1] = class << 4 | packet[1] & 15;
        packet[7] = 9;
    }
    frame
}

/// Where the transport's header begins, and its checksum is if it has one.
fn transport(packet: &[u8]) -> (usize, Option<usize>) {
    let (header, protocol) = if is_v4(packet) {
        (usize::from(packet[0] & 15) * 4, packet[9])
    } else {
        (40, packet[6])
    };
    let sum = header + if protocol == 6 { 16 } else { 6 };
    (header, (packet[sum..sum + 2] != [0, 0]).then_some(sum))
}

fn translated(frame: &Frame, is_sent: bool) -> Frame {
    let mut frame = frame.clone();
    let (header, sum) = transport(&frame.packet);
    let remote = header + if is_sent { 2 } else { 0 };
    put(&mut frame.packet, remote, 47_002, sum.as_slice());
    frame
}

fn redirected(frame: &Frame, is_sent: bool) -> Frame {
    let mut frame = frame.clone();
    let packet = &mut frame.packet;
    let (header, sum) = transport(packet);
    let (addresses, proxy, sums) = if is_v4(packet) {
        let sums = std::iter::once(10).chain(sum);
        (12, IpAddr::from(Ipv4Addr::LOCALHOST), sums.collect())
    } else {
        let sums: Vec<usize> = sum.into_iter().collect();
        (8, IpAddr::from(Ipv6Addr::LOCALHOST), sums)
    };
    let proxy = match proxy {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let remote = usize::from(is_sent);
    for (at, word) in (0..).step_by(2).zip(proxy.chunks(2)) {
        let word = u16::from_be_bytes([word[0], word[1]]);
        put(packet, addresses + remote * proxy.len() + at, word, &sums);
    }
    put(packet, header + 2 * remote, 47_001, sum.as_slice());
    frame
}

/// This host's end of a flow, and the other.
type Ends = (u8, (IpAddr, u16), (IpAddr, u16));

/// The flows that the rule has decided.
fn decided(replayed: &Replayed) -> HashSet<Ends> {
    let flows = replayed.outcome.flows.iter();
    let of_rule = flows.filter(|flow| flow.decided.rule == Some(0) || flow.rule() == Some(0));
    of_rule
        .map(|flow| {
            let report = &flow.report;
            let end = |end: ksim::net::End| (end.address, end.port);
            (report.protocol, end(report.local), end(report.remote))
        })
        .collect()
}

/// What is to be written for a packet.
struct Wanted {
    /// What may be written: one of these. `None` is nothing.
    choices: Vec<Option<Frame>>,
    /// How much later that may be, in nanoseconds.
    later: Range<u64>,
}

/// What the packets of a capture say of the flows that the rule has decided.
#[derive(Default)]
struct Flows {
    decided: HashSet<Ends>,
    /// How many of their packets have come.
    seen: HashMap<Ends, usize>,
    /// Those that are about to end, or began before the capture: what becomes of the rest of them is not the rule's alone.
    unsure: HashSet<Ends>,
}

impl Flows {
    /// Which flow a packet is of, and whether it is sent.
    fn of(&self, packet: &[u8]) -> Option<(Ends, bool)> {
        let summary = PacketSummary::parse(packet)?;
        let end = |end: Endpoint| (end.address, end.port);
        let (source, destination) = (end(summary.source), end(summary.destination));
        let there = (summary.protocol, source, destination);
        let back = (summary.protocol, destination, source);
        if self.decided.contains(&there) {
            Some((there, true))
        } else {
            self.decided.contains(&back).then_some((back, false))
        }
    }

    /// Whether the rule alone says what becomes of the next packet of a flow.
    fn is_sure(&mut self, ends: Ends, is_sent: bool, packet: &[u8]) -> bool {
        let seen = self.seen.entry(ends).or_default();
        *seen += 1;
        let segment = Segment::of(packet);
        let flags = segment.as_ref().map_or(0, |segment| segment.flags);
        let begins = is_sent && (ends.0 == 17 || flags & SYN != 0);
        if *seen == 1 && !begins {
            self.unsure.insert(ends);
        }
        let is_sure = !self.unsure.contains(&ends);
        if flags & (RST | FIN) != 0 {
            self.unsure.insert(ends);
        }
        is_sure && (ends.0 == 17 || segment.is_some())
    }
}

/// Replays a capture under a rule of a kind: what is written is what the rule says. How many packets it says that of.
fn expect(kind: &Kind, capture: &Path) -> (Replayed, usize) {
    let answers: Vec<&str> = kind.answer.into_iter().collect();
    let how = How {
        answers: &answers,
        ..How::default()
    };
    let policy = format!("{RULE}{}", kind.rule);
    let test = format!("all-{}", kind.name);
    let replayed = replay_with(&test, capture, &policy, 1, how);
    let mut flows = Flows {
        decided: decided(&replayed),
        ..Flows::default()
    };
    let (mut sure, mut now) = (0, 0);
    let mut wanted: Vec<Wanted> = Vec::new();
    for frame in &replayed.before {
        let frame = &trimmed(frame);
        // The times of some captures go back; the machine's does not.
        now = frame.time.max(now);
        let behind = now - frame.time;
        let itself = Some(frame.clone());
        let Some((ends, is_sent)) = flows.of(&frame.packet) else {
            let choices = vec![itself];
            wanted.push(Wanted {
                choices,
                later: 0..1,
            });
            continue;
        };
        let expected = kind.expected.map(|expected| expected(frame, is_sent));
        let is_known = is_sent || kind.hears_answers;
        let mut later = kind.later.start + behind..kind.later.end + behind;
        if kind.later.start == 0 {
            later.start = 0;
        }
        let choices = if flows.is_sure(ends, is_sent, &frame.packet) && is_known {
            sure += 1;
            vec![expected]
        } else {
            later.start = 0;
            vec![expected, itself, None]
        };
        wanted.push(Wanted { choices, later });
    }
    let name = format!("{}, {}", capture.display(), kind.name);
    let mut written: Vec<Frame> = replayed.after.iter().map(trimmed).collect();
    if kind.later.start > 0 {
        // Who overtakes whom does not matter.
        wanted.sort_by_key(|wanted| wanted.choices[0].as_ref().map(in_any_order));
        written.sort_by_key(in_any_order);
    }
    compare(&name, wanted, &written);
    (replayed, sure)
}

fn in_any_order(frame: &Frame) -> (Vec<u8>, u64) {
    (frame.packet.clone(), frame.time)
}

/// The packet without what Ethernet has put behind it, which a changed one has not.
fn trimmed(frame: &Frame) -> Frame {
    let packet = &frame.packet;
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let length = if is_v4(packet) { word(2) } else { 40 + word(4) };
    // Without a length it is one that the network card was to split.
    let is_known = length >= 20 && length <= packet.len();
    Frame {
        time: frame.time,
        packet: packet[..if is_known { length } else { packet.len() }].to_vec(),
    }
}

/// Each packet is one of those that may be written in its place.
#[track_caller]
fn compare(name: &str, wanted: Vec<Wanted>, written: &[Frame]) {
    let mut left = written.iter();
    let mut next = left.next();
    for (at, wanted) in wanted.into_iter().enumerate() {
        let fits = |choice: &Option<Frame>| {
            let (Some(choice), Some(next)) = (choice, next) else {
                return false;
            };
            let later = next.time.checked_sub(choice.time);
            choice.packet == next.packet && later.is_some_and(|later| wanted.later.contains(&later))
        };
        if wanted.choices.iter().any(fits) {
            next = left.next();
        } else {
            assert!(
                wanted.choices.contains(&None),
                "{name}: packet {at} is to be {:x?}, and {next:x?} was written",
                wanted.choices[0]
            );
        }
    }
    assert_eq!(next, None, "{name}: more was written");
}

#[test]
fn each_kind_is_written_as_the_rule_says_on_captures_of_the_project() {
    for kind in &KINDS {
        for name in ["openssl.pcapng", "split-hello.pcap"] {
            let (replayed, sure) = expect(kind, &own(name));
            println!("{name}, {}: {sure} packets", kind.name);
            assert!(sure > 10, "{name}, {}: {sure}", kind.name);
            tshark::agrees(&replayed);
        }
    }
}

/// Each second capture has its turn with one of the kinds; under further answers to open questions, a part of these.
#[test]
fn each_kind_is_written_as_the_rule_says_on_real_captures() {
    let captures = all_shared();
    let taken: Vec<_> = captures.iter().step_by(2).collect();
    let mut all = 0;
    for number in Sample::named().calls(taken.len() as u64 + 1) {
        let number = usize::try_from(number).expect("few") - 1;
        let kind = &KINDS[number % KINDS.len()];
        all += expect(kind, taken[number]).1;
    }
    println!("{all} packets of {} captures", taken.len());
    assert!(
        taken.len() < 60 || !Sample::named().is_all() || all > 2_000,
        "{all}"
    );
}
