//! Net buffer lists of several packets: what the stack hands down where the network card does not split an application's data.

use ksim::net::Setup;
use ksim::net::packet::{Packet, Transport};
use portcullis_proto::Counter;
use portcullis_tests::capture::{everything, start};
use portcullis_tests::{Net, Tcp, World};

const SEGMENT: u32 = 1_000;
/// As an application sends it: four segments.
const DATA: usize = 3_500;

const ENDS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.1:443"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:443"),
];

const POLICY: &str = "
    default = 'permit'
    [[rule]]
    name = 'web'
    action = 'permit'
    protocol = 'tcp'
    remote_port = 443
";

fn world() -> World {
    let mut world = World::with_policy(POLICY);
    let setup = Setup {
        segments: Some(SEGMENT),
        ..Setup::default()
    };
    world.net = Net::with_setup(&world.kernel, 0, setup);
    world
}

fn data() -> Vec<u8> {
    (0..=250_u8).cycle().take(DATA).collect()
}

fn connected(world: &mut World, (client, server): (&str, &str)) -> Tcp {
    let mut tcp = Tcp::new(client, server);
    for packet in tcp.handshake() {
        assert!(world.net.passes(packet));
    }
    tcp
}

/// The data of the segments among these packets.
fn segments<'p>(packets: impl Iterator<Item = &'p [u8]>) -> Vec<(u32, Vec<u8>)> {
    let parsed = packets.map(|packet| Packet::parse(packet).expect("a packet"));
    parsed
        .filter_map(|packet| match packet.transport {
            Transport::Tcp(tcp) => Some((tcp.sequence, packet.payload().to_vec())),
            _ => None,
        })
        .filter(|(_, data)| !data.is_empty())
        .collect()
}

#[test]
fn each_packet_of_a_list_is_captured() {
    for ends in ENDS {
        let mut world = world();
        let running = start(
            &world,
            everything(),
            &["web"],
            &format!("lists-{}", ends.0.len()),
        );
        let mut tcp = connected(&mut world, ends);
        assert!(world.net.passes(tcp.client_says(&data())));
        let (_, contents) = running.finish();
        for packet in &contents.packets {
            assert!(
                packet.comment.starts_with("permit by rule \"web\""),
                "{}",
                packet.comment
            );
        }
        let captured = segments(contents.packets.iter().map(|packet| packet.data.as_slice()));
        let lengths: Vec<usize> = captured.iter().map(|(_, data)| data.len()).collect();
        assert_eq!(lengths, [1_000, 1_000, 1_000, 500]);
        let first = captured[0].0;
        let starts: Vec<u32> = captured
            .iter()
            .map(|(sequence, _)| sequence - first)
            .collect();
        assert_eq!(starts, [0, 1_000, 2_000, 3_000]);
        let carried: Vec<u8> = captured.into_iter().flat_map(|(_, data)| data).collect();
        assert_eq!(carried, data());
        world.end();
    }
}

#[test]
fn each_packet_of_a_list_is_lost_by_itself() {
    for ends in ENDS {
        let mut world = world();
        let mut tcp = connected(&mut world, ends);
        world.set_policy(&format!("{POLICY}\nloss = '100 %'"));
        assert!(!world.net.passes(tcp.client_says(&data())));
        assert_eq!(world.counter(Counter::PacketsLost), 4);
        world.end();
    }
}
