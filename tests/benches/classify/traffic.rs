//! A capture of a busy host: many flows at a time, the same for the same seed.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use portcullis_tests::messages::{client_hello, dns_answer, dns_query, http_request};
use portcullis_tests::{HOST_V4, HOST_V6, Tcp, udp};

use crate::policies::Random;

/// What the capture is made from.
pub(crate) const SEED: u64 = 0x7472_6166;
/// The host's addresses.
pub(crate) const LOCAL: [&str; 2] = [HOST_V4, HOST_V6];

/// Flows under way at a time.
const CONCURRENT: usize = 64;
/// Payload of a full segment.
const FULL: usize = 1_460;
const ETHERTYPE_OFFSET: usize = 12;

/// Writes a pcap file of `packets` packets; its size in bytes.
///
/// Per hundred flows: 55 of TLS and 15 of HTTP with 4 to 60 segments of data, 25 DNS queries with replies, 5 of UDP
/// with 20 to 100 datagrams. Three in ten are of IPv6.
pub(crate) fn write(file: &Path, packets: usize) -> io::Result<u64> {
    let mut output = BufWriter::with_capacity(1 << 20, std::fs::File::create(file)?);
    // Magic of microseconds, version 2.4, no zone, largest packet, Ethernet.
    for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        output.write_all(&word.to_le_bytes())?;
    }
    let mut random = Random::new(SEED);
    let mut flows: Vec<VecDeque<Vec<u8>>> = Vec::new();
    let mut number = 0;
    let (mut time, mut size) = (1_767_225_600_000_000_u64, 24);
    for _ in 0..packets {
        while flows.len() < CONCURRENT {
            flows.push(flow(number, &mut random));
            number += 1;
        }
        let index = usize::try_from(random.below(flows.len() as u64)).expect("an index");
        let packet = flows[index]
            .pop_front()
            .expect("a flow that has ended is taken out");
        if flows[index].is_empty() {
            flows.swap_remove(index);
        }
        time += 2 + random.below(40);
        size += write_packet(&mut output, time, &packet)?;
    }
    output.flush()?;
    Ok(size)
}

fn write_packet(output: &mut impl Write, time: u64, packet: &[u8]) -> io::Result<u64> {
    let mut ethernet = [2; ETHERTYPE_OFFSET + 2];
    ethernet[ETHERTYPE_OFFSET..].copy_from_slice(if packet[0] >> 4 == 4 {
        &[0x08, 0x00]
    } else {
        &[0x86, 0xdd]
    });
    let length = u32::try_from(ethernet.len() + packet.len()).expect("a packet");
    let [seconds, fraction] =
        [time / 1_000_000, time % 1_000_000].map(|part| u32::try_from(part).expect("a time"));
    for word in [seconds, fraction, length, length] {
        output.write_all(&word.to_le_bytes())?;
    }
    output.write_all(&ethernet)?;
    output.write_all(packet)?;
    Ok(16 + u64::from(length))
}

/// All packets of flow `number`.
fn flow(number: u64, random: &mut Random) -> VecDeque<Vec<u8>> {
    let (local, remote): (IpAddr, String) = if random.below(10) < 3 {
        (
            LOCAL[1].parse().expect("an address"),
            format!("2001:db8:1::{:x}", 1 + random.below(500)),
        )
    } else {
        (
            LOCAL[0].parse().expect("an address"),
            format!("203.0.113.{}", 1 + random.below(250)),
        )
    };
    let remote: IpAddr = remote.parse().expect("an address");
    let local_port = u16::try_from(20_000 + number % 40_000).expect("a port");
    let host = format!("host{}.example.net", random.below(300));
    let client = SocketAddr::new(local, local_port).to_string();
    let server = |port| SocketAddr::new(remote, port).to_string();
    match random.below(100) {
        0..55 => connection(
            Tcp::new(&client, &server(443)),
            &client_hello(Some(&host)),
            random,
        ),
        55..70 => connection(Tcp::new(&client, &server(80)), &http_request(&host), random),
        70..95 => {
            let server = server(53);
            [
                udp(&client, &server, &dns_query(&host)),
                udp(&server, &client, &dns_answer(&host)),
            ]
            .into()
        }
        _ => {
            let server = server(443);
            let datagrams = 20 + random.below(81);
            (0..datagrams)
                .map(|_| match random.below(3) {
                    0 => udp(&client, &server, &[0x40; 80]),
                    _ => udp(&server, &client, &[0x40; 1_200]),
                })
                .collect()
        }
    }
}

/// A connection: greeting, an answer with an acknowledgment for each two segments, orderly end.
fn connection(mut tcp: Tcp, greeting: &[u8], random: &mut Random) -> VecDeque<Vec<u8>> {
    let mut packets = VecDeque::from(tcp.handshake());
    packets.push_back(tcp.client_says(greeting));
    packets.push_back(tcp.server_says(&[]));
    let segments = 4 + random.below(57);
    for segment in 0..segments {
        let last = segment + 1 == segments;
        let length = if last {
            1 + usize::try_from(random.below(FULL as u64)).expect("a length")
        } else {
            FULL
        };
        packets.push_back(tcp.server_says(&[0x17; FULL][..length]));
        if segment % 2 == 1 {
            packets.push_back(tcp.client_says(&[]));
        }
        if random.below(12) == 0 {
            packets.push_back(tcp.client_says(&[0x17; 300]));
        }
    }
    packets.extend(tcp.close());
    packets
}
