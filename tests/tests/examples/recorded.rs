//! `recording`.

use ksim::Config;
use ksim::ndis::MdlLayout;
use ksim::net::Setup;
use portcullis_tests::examples::built;
use portcullis_tests::foreign::Machine;
use portcullis_tests::{Net, Product, udp};
use wfp_schema::{Action, FilterFlags, LayerId, NtStatus};

use super::{alive, clients, code, machine};

/// Whose datagrams begin as IP headers of their version do.
const SERVERS: [&str; 2] = ["198.51.100.1:17664", "[2001:db8::80]:24576"];

/// A host on which no port has a socket that nobody has opened from here.
fn closed() -> Setup {
    Setup {
        sockets: Some(std::iter::empty().collect()),
        ..Setup::default()
    }
}

pub(super) fn recording(net: &mut Net, port: u16) {
    net.restart(closed());
    for (client, server) in clients(port).iter().zip(SERVERS) {
        net.packet(&udp(client, server, &[0x55; 200]));
        net.packet(&udp(server, client, b"answer"));
        // A datagram that no socket wants.
        net.packet(&udp(
            server,
            &client.replace(&format!(":{port}"), ":7"),
            b"?",
        ));
    }
}

const SIZE: usize = 128;
const RECORDS: usize = 512;

/// A record, as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    time: u64,
    length: usize,
    is_received: bool,
    /// Of one that was discarded: by whom, why, and by which filter.
    discarded: Option<(u8, u32, u64)>,
    bytes: Vec<u8>,
}

impl Record {
    fn new(bytes: &[u8; SIZE]) -> Self {
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        Self {
            time: long(0),
            length: short(16) as usize,
            is_received: bytes[25] == 1,
            discarded: (bytes[26] == 1).then(|| (bytes[27], short(20), long(8))),
            bytes: bytes[32..][..bytes[24].into()].to_vec(),
        }
    }
}

/// How many were lost until now, and up to so many records.
fn read(machine: &Machine, most: usize) -> (u64, Vec<Record>) {
    let device = machine.open(r"\\.\Recording");
    // Room for part of a record is not used.
    let result = alive(device.ioctl(code(1), &[], 8 + most * SIZE + SIZE / 2));
    assert_eq!(result.status, NtStatus::SUCCESS);
    alive(device.close());
    let (lost, records) = result.output.split_first_chunk().expect("a number");
    let (records, rest) = records.as_chunks();
    assert_eq!(rest.len(), 0);
    let records = records.iter().map(Record::new).collect();
    (u64::from_le_bytes(*lost), records)
}

#[test]
fn recording_keeps_the_beginning_of_each_packet_wherever_its_bytes_are() {
    for seed in 0..20 {
        let mut config = Config::default();
        config.fwp.mdl_layout = MdlLayout::Seeded(seed);
        let mut machine = Machine::with_built(&config, &built("recording"));
        let mut expected = Vec::new();
        for (client, server) in clients(50_000).iter().zip(SERVERS) {
            for length in [0, 1, 47, 48, 49, 67, 68, 69, 1_000] {
                let data: Vec<u8> = (0..=250).cycle().take(length).collect();
                for (packet, is_received) in [
                    (udp(client, server, &data), false),
                    (udp(server, client, &data), true),
                ] {
                    assert!(machine.net.passes(&packet), "seed {seed}");
                    expected.push(Record {
                        time: machine.net.now(),
                        length: packet.len(),
                        is_received,
                        discarded: None,
                        bytes: packet[..packet.len().min(96)].to_vec(),
                    });
                }
            }
        }
        assert_eq!(read(&machine, RECORDS), (0, expected), "seed {seed}");
        assert_eq!(read(&machine, RECORDS), (0, Vec::new()), "read once");
        machine.end();
    }
}

#[test]
fn recording_keeps_what_is_discarded_with_its_reason() {
    for (family, (client, server)) in clients(50_000).iter().zip(SERVERS).enumerate() {
        let mut machine = machine("recording");
        machine.net.restart(closed());
        let fates = |machine: &mut Machine, packet: &[u8]| {
            assert!(!machine.net.passes(packet));
            let (lost, records) = read(machine, RECORDS);
            assert_eq!(lost, 0);
            let is_it = |record: &Record| packet.starts_with(&record.bytes);
            let (its, others): (Vec<_>, Vec<_>) = records.into_iter().partition(is_it);
            let fates: Vec<_> = its.iter().map(|record| record.discarded).collect();
            (fates, others)
        };
        // The port has no socket: an ICMP error answers it.
        let datagram = udp(server, client, b"nobody wants this");
        let (its, answers) = fates(&mut machine, &datagram);
        assert_eq!(its, [None, Some((0, 4, 0))], "{client}");
        let [answer] = &answers[..] else {
            panic!("{client}: {answers:?}");
        };
        assert!(!answer.is_received && answer.discarded.is_none());

        // Others block what comes and what goes, after they have been asked.
        let product = Product::new(&machine.kernel, 0x10);
        let layers = [
            [LayerId::INBOUND_IPPACKET_V4, LayerId::INBOUND_IPPACKET_V6],
            [LayerId::OUTBOUND_IPPACKET_V4, LayerId::OUTBOUND_IPPACKET_V6],
        ];
        let packets = [
            udp(server, client, b"not in"),
            udp(client, server, b"not out"),
        ];
        for (layer, packet) in layers.iter().zip(&packets) {
            let layer = layer[family];
            let filter = product.add_filter(layer, Action::Block, FilterFlags::NONE, Vec::new());
            let (its, answers) = fates(&mut machine, packet);
            assert_eq!(its, [None, Some((2, 0, filter.get()))], "{layer}");
            assert_eq!(answers, [], "{layer}");
        }
        product.close();
        machine.end();
    }
}

#[test]
fn recording_loses_what_finds_no_room_counts_it_and_goes_on_when_it_was_read() {
    let mut machine = machine("recording");
    let [_, client] = clients(50_000);
    let numbered = |number: u16| udp(&client, SERVERS[1], &number.to_be_bytes());
    let numbers = |records: &[Record]| -> Vec<u16> {
        let number = |record: &Record| {
            let end = record.bytes.last_chunk().expect("two bytes");
            u16::from_be_bytes(*end)
        };
        records.iter().map(number).collect()
    };
    for number in 0..520 {
        assert!(machine.net.passes(numbered(number)));
    }
    let (lost, records) = read(&machine, 12);
    assert_eq!((lost, numbers(&records)), (8, (0..12).collect()));
    for number in 520..540 {
        assert!(machine.net.passes(numbered(number)));
    }
    let (lost, records) = read(&machine, RECORDS);
    assert_eq!(
        (lost, numbers(&records)),
        (16, (12..512).chain(520..532).collect())
    );
    assert_eq!(read(&machine, RECORDS).1, []);
    // Who leaves no room for the number gets nothing, and loses nothing.
    assert!(machine.net.passes(numbered(540)));
    let device = machine.open(r"\\.\Recording");
    let result = alive(device.ioctl(code(1), &[], 7));
    assert_eq!(result.status, NtStatus::BUFFER_TOO_SMALL);
    alive(device.close());
    assert_eq!(numbers(&read(&machine, 1).1), [540]);
    machine.end();
}
