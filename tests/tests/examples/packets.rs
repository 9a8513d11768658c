//! What is about packets: pacing, marking, watching.

use ksim::net::Output;
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
