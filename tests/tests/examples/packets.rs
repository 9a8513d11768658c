//! What is about packets: pacing, marking, mapping, watching.

use std::net::SocketAddr;

use ksim::net::{Output, Setup};
use portcullis_tests::net::sent;
use portcullis_tests::packets::whole;
use portcullis_tests::{Net, Tcp, udp};

use super::{clients, machine, numbers, with_output};

pub(super) fn pacing(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:7777", "[2001:db8::80]:7777"])
    {
        for _ in 0..3 {
            net.packet(&udp(client, server, b"datagram"));
        }
    }
    net.pass(10 * MILLISECOND);
}

/// 100-nanosecond units.
const MILLISECOND: u64 = 10_000;

#[test]
fn pacing_lets_a_datagram_leave_every_ten_milliseconds_and_drops_what_finds_no_place() {
    for (client, server) in clients(50_000)
        .iter()
        .zip(["198.51.100.1:7777", "[2001:db8::80]:7777"])
    {
        let (machine, mut net) = with_output("pacing");
        let datagrams: Vec<_> = (0..40)
            .map(|number| udp(client, server, &[number]))
            .collect();
        let start = net.now();
        assert_eq!(net.at_once(&datagrams).len(), 0, "none leaves at once");
        let left: Vec<(u64, Option<u8>)> = net
            .pass(1_000 * MILLISECOND)
            .into_iter()
            .filter_map(|(time, output)| match output {
                Output::Sent(packet) => {
                    Some(((time - start) / MILLISECOND, packet.last().copied()))
                }
                _ => None,
            })
            .collect();
        let expected: Vec<_> = (0..32)
            .map(|number| (10 * u64::from(number) + 10, Some(number)))
            .collect();
        assert_eq!(left, expected, "{server}");
        let other = server.replace("7777", "53");
        assert_eq!(
            net.at_once(&[udp(client, &other, b"query")]).len(),
            1,
            "others do not wait"
        );
        drop(net);
        machine.end();
    }
}

pub(super) fn marking(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:5060", "[2001:db8::80]:5060"])
    {
        net.packet(&udp(client, server, b"call"));
    }
}

#[test]
fn marking_marks_datagrams_to_its_port_and_no_others() {
    let (machine, mut net) = with_output("marking");
    for (port, mark) in [(5060, 46), (53, 0)] {
        for (client, server) in clients(50_000)
            .iter()
            .zip(["198.51.100.1", "[2001:db8::80]"])
        {
            net.packet(&udp(client, &format!("{server}:{port}"), b"call"));
            let classes: Vec<u8> = net
                .output()
                .into_iter()
                .filter_map(|output| match output {
                    Output::Sent(packet) if packet[0] >> 4 == 4 => Some(packet[1] >> 2),
                    Output::Sent(packet) => Some((packet[0] << 4 | packet[1] >> 4) >> 2),
                    _ => None,
                })
                .collect();
            assert_eq!(classes, [mark], "{server}, port {port}");
        }
    }
    drop(net);
    machine.end();
}

pub(super) fn mapping(net: &mut Net, port: u16) {
    for (client, server) in clients(port).iter().zip(["198.51.100.1", "[2001:db8::80]"]) {
        net.packet(&udp(client, &format!("{server}:5000"), b"question"));
        net.packet(&udp(&format!("{server}:5001"), client, b"answer"));
    }
}

/// A packet from its transport header on.
fn transport(packet: &[u8]) -> &[u8] {
    &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..]
}

/// What sockets have got, and from where.
fn heard(net: &mut Net) -> Vec<(String, Vec<u8>)> {
    let output = net.output();
    let from = |flow: u64| {
        let mut flows = net.flows().iter();
        let flow = flows.find(|report| report.handles.contains(&flow));
        let remote = flow.expect("a flow").remote;
        SocketAddr::new(remote.address, remote.port).to_string()
    };
    let heard = output.into_iter().filter_map(|output| match output {
        Output::Datagram { flow_handle, bytes } => Some((from(flow_handle), bytes)),
        _ => None,
    });
    heard.collect()
}

/// Packets that came out of the stack, from their transport headers on.
fn transports(packets: &[Vec<u8>]) -> Vec<&[u8]> {
    packets.iter().map(|packet| transport(packet)).collect()
}

#[test]
fn mapping_gives_datagrams_the_other_port_on_the_wire_and_answers_the_known_one() {
    for card in [None, Some(1_460)] {
        let machine = machine("mapping");
        let setup = Setup {
            output: true,
            card,
            ..Setup::default()
        };
        let mut net = Net::with_setup(&machine.kernel, 0, setup);
        for (client, server) in clients(50_000)
            .iter()
            .zip(["198.51.100.1", "[2001:db8::80]"])
        {
            let between = |from: &str, to: &str, data: &[u8]| whole(udp(from, to, data));
            let [known, mapped, other] = [5000, 5001, 53].map(|port| format!("{server}:{port}"));
            for data in [b"odd".as_slice(), b"even", b"last"] {
                net.packet(&between(client, &known, data));
                let expected = between(client, &mapped, data);
                assert_eq!(
                    transports(&sent(net.output())),
                    [transport(&expected)],
                    "{server}, card {card:?}"
                );
                net.packet(&between(&mapped, client, data));
                let expected = [(known.clone(), data.to_vec())];
                assert_eq!(heard(&mut net), expected, "{server}");
            }
            let query = between(client, &other, b"query");
            net.packet(&query);
            assert_eq!(transports(&sent(net.output())).len(), 1, "{other}");
            net.packet(&between(&other, client, b"answer"));
            assert_eq!(heard(&mut net), [(other, b"answer".to_vec())]);
        }
        drop(net);
        machine.end();
    }
}

#[test]
fn mapping_leaves_a_checksum_out_where_its_sender_does_and_what_nobody_asked_for_alone() {
    let (machine, mut net) = with_output("mapping");
    net.packet(&udp("192.0.2.10:50000", "198.51.100.1:5000", b"question"));
    let expected = udp("192.0.2.10:50000", "198.51.100.1:5001", b"question");
    assert_eq!(transports(&sent(net.output())), [transport(&expected)]);
    for (client, server) in clients(50_001)
        .iter()
        .zip(["198.51.100.1:5001", "[2001:db8::80]:5001"])
    {
        net.packet(&udp(server, client, b"unasked"));
        assert_eq!(
            heard(&mut net),
            [((*server).to_owned(), b"unasked".to_vec())]
        );
    }
    drop(net);
    machine.end();
}

pub(super) fn watching(net: &mut Net, port: u16) {
    for (client, server) in clients(port)
        .iter()
        .zip(["198.51.100.1:53", "[2001:db8::80]:53"])
    {
        net.packet(&udp(client, server, b"query"));
        net.packet(&udp(server, client, b"answer"));
    }
}

#[test]
fn watching_counts_what_comes_in_by_protocol() {
    let mut machine = machine("watching");
    watching(&mut machine.net, 50_000);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(machine.net.all_pass(&tcp.handshake()));
    let numbers = numbers(&machine, r"\\.\Watching", 256);
    assert_eq!((numbers[17], numbers[6]), (2, 1));
    assert_eq!(numbers.iter().sum::<u64>(), 3);
    machine.end();
}
