//! `observing`.

use std::net::IpAddr;

use ksim::net::{Setup, Socket};
use portcullis_tests::foreign::Machine;
use portcullis_tests::{Net, Product, Tcp, packets, udp};
use wfp_schema::{Action, FilterFlags, IpVersion, Layer, LayerId, LayerKind, NtStatus};

use super::{alive, clients, code, machine, numbers};

/// A peer, a router, and two machines behind it, of each IP version.
const OTHERS: [[&str; 4]; 2] = [
    [
        "198.51.100.1",
        "198.51.100.254",
        "198.51.100.7",
        "203.0.113.9",
    ],
    [
        "2001:db8::80",
        "2001:db8::fe",
        "2001:db8:1::7",
        "2001:db8:2::9",
    ],
];

/// A router, on which the only socket for datagrams is that of port 53.
fn router() -> Setup {
    Setup {
        forwarding: true,
        sockets: Some([(17, 53)].into()),
        output: true,
        ..Setup::default()
    }
}

fn at(address: &str, port: u16) -> String {
    let address: IpAddr = address.parse().expect("an address");
    std::net::SocketAddr::new(address, port).to_string()
}

/// An ICMP error of a router's, about a datagram that the host has sent.
fn unreachable(router: &str, about: &[u8], host: &str) -> Vec<u8> {
    let address = |text: &str| text.parse().expect("an address");
    let host: std::net::SocketAddr = host.parse().expect("an address with a port");
    packets::unreachable(address(router), host.ip(), about)
}

/// A bit of everything, over one IP version: a datagram is sent and complained about, one each comes for a port that is open
/// and for one that is not, as does a connection, one is forwarded, a socket listens.
fn everything(net: &mut Net, port: u16, version: IpVersion) {
    let [peer, router, from, to] = OTHERS[version as usize];
    let host = &clients(port)[version as usize];
    let sent = udp(host, &at(peer, 4_242), b"question");
    net.packet(&sent);
    net.packet(&unreachable(router, &sent, host));
    for to in [53, 54] {
        let to = host.replace(&format!(":{port}"), &format!(":{to}"));
        net.packet(&udp(&at(peer, port), &to, b"question"));
    }
    let closed = host.replace(&format!(":{port}"), ":81");
    let mut scan = Tcp::new(&at(peer, port), &closed);
    net.packet(&scan.handshake()[0]);
    net.packet(&udp(&at(from, port), &at(to, 123), b"time"));
    net.open(&Socket {
        version,
        protocol: 6,
        address: None,
        port,
        any_port: false,
        raw: false,
        promiscuous: false,
        listens: true,
        link: ksim::net::Link::default(),
    });
}

pub(super) fn observing(net: &mut Net, port: u16) {
    net.restart(router());
    for version in [IpVersion::V4, IpVersion::V6] {
        everything(net, port, version);
    }
}

/// A line of the table: where, who, why, by which filter, how often.
type Line = (String, u16, u32, u64, u64);

const NOBODY: u16 = u16::MAX;
const LINES: usize = 64;

/// The table, in the order of its layers, and how many found no place in it.
fn table(machine: &Machine) -> (u64, Vec<Line>) {
    let numbers = numbers(machine, r"\\.\Observing", 1 + 3 * LINES);
    let (lines, _) = numbers[1..].as_chunks();
    let line = |&[ends, filter, count]: &[u64; 3]| {
        let [layer, module] = [ends, ends >> 16].map(|part| (part & 0xFFFF) as u16);
        let layer = LayerId::new(layer).to_string();
        (layer, module, (ends >> 32) as u32, filter, count)
    };
    let mut lines: Vec<Line> = lines.iter().map(line).collect();
    lines.sort_unstable();
    (numbers[0], lines)
}

#[test]
fn observing_tells_what_is_forwarded_which_errors_pass_and_what_the_stack_discards() {
    for version in [IpVersion::V4, IpVersion::V6] {
        let machine = machine("observing");
        let mut net = Net::with_setup(&machine.kernel, 0, router());
        everything(&mut net, 50_000, version);
        // Nothing is kept from what it would do without the driver: two answers and a packet that is forwarded leave, besides what is sent.
        assert_eq!(portcullis_tests::net::sent(net.output()).len(), 4);
        let unreachable = match version {
            IpVersion::V4 => 3 << 8 | 3,
            IpVersion::V6 => 1 << 8 | 4,
        };
        let line = |layer: &str, module, reason| {
            let layer = layer.replace("_V", &format!("_{version}"));
            (layer, module, reason, 0, 1)
        };
        assert_eq!(
            table(&machine),
            (
                0,
                vec![
                    line("INBOUND_ICMP_ERROR_V", NOBODY, unreachable),
                    // A datagram that no socket wants, and a segment.
                    line("INBOUND_IPPACKET_V_DISCARD", 0, 4),
                    line("INBOUND_TRANSPORT_V_DISCARD", 1, 4),
                    line("IPFORWARD_V", NOBODY, 0),
                    line("OUTBOUND_ICMP_ERROR_V", NOBODY, unreachable),
                ]
            )
        );
        drop(net);
        machine.end();
    }
}

#[test]
fn observing_tells_what_others_discard_at_each_layer_and_by_which_filter() {
    use LayerKind::{
        AleAuthConnect, AleAuthListen, AleAuthRecvAccept, AleResourceAssignment, DatagramData,
        InboundIcmpError, InboundIpPacket, InboundTransport, IpForward, OutboundIcmpError,
        OutboundIpPacket, OutboundTransport,
    };

    for kind in [
        AleAuthConnect,
        AleAuthListen,
        AleAuthRecvAccept,
        AleResourceAssignment,
        DatagramData,
        InboundIcmpError,
        InboundIpPacket,
        InboundTransport,
        IpForward,
        OutboundIcmpError,
        OutboundIpPacket,
        OutboundTransport,
    ] {
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut machine = machine("observing");
            machine.net.restart(router());
            let is_it = |layer: &&Layer| {
                layer.kind() == kind && layer.version() == Some(version) && !layer.is_discard()
            };
            let layer = Layer::all().iter().find(is_it).expect("the layer").id();
            let product = Product::new(&machine.kernel, 0x8000);
            let filter = product.add_filter(layer, Action::Block, FilterFlags::NONE, Vec::new());
            everything(&mut machine.net, 50_000, version);
            let (_, lines) = table(&machine);
            let blocked: Vec<_> = lines.iter().filter(|line| line.3 != 0).collect();
            let [(twin, 2, 0, by, count)] = blocked[..] else {
                panic!("{layer}: {lines:?}");
            };
            assert_eq!((&**twin, *by), (&*format!("{layer}_DISCARD"), filter.get()));
            // Who was asked before it was blocked has counted it too.
            let before = lines.iter().find(|line| line.0 == layer.to_string());
            assert!(
                before.is_none_or(|line| line.4 >= *count),
                "{layer}: {lines:?}"
            );
            product.close();
            machine.end();
        }
    }
}

#[test]
fn observing_counts_what_finds_no_place_in_its_table() {
    let mut machine = machine("observing");
    let product = Product::new(&machine.kernel, 0x8000);
    for port in 50_000..50_070 {
        let layer = LayerId::ALE_AUTH_CONNECT_V6;
        let filter = product.add_filter(layer, Action::Block, FilterFlags::NONE, Vec::new());
        let [_, client] = clients(port);
        assert!(
            !machine
                .net
                .passes(udp(&client, "[2001:db8::80]:53", b"query"))
        );
        product.delete_filter(filter);
    }
    let (uncounted, lines) = table(&machine);
    assert_eq!((uncounted, lines.len()), (6, LINES));
    product.close();
    machine.end();
}

#[test]
fn observing_answers_with_as_many_lines_as_there_is_room_for() {
    let mut machine = machine("observing");
    observing(&mut machine.net, 50_000);
    let device = machine.open(r"\\.\Observing");
    for (room, length) in [(8, 8), (31, 8), (32, 32), (60, 56)] {
        let result = alive(device.ioctl(code(1), &[], room));
        assert_eq!(result.status, NtStatus::SUCCESS);
        assert_eq!(result.output.len(), length, "{room}");
    }
    let result = alive(device.ioctl(code(1), &[], 7));
    assert_eq!(result.status, NtStatus::BUFFER_TOO_SMALL);
    alive(device.close());
    machine.end();
}
