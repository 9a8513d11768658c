//! A rule that does several things with a connection: each is done as if it were alone, and nothing is lost.

use std::fmt::Write as _;

use ksim::net::Output;
use portcullis_core::PacketSummary;
use portcullis_proto::Action;
use portcullis_tests::packets::whole;
use portcullis_tests::random::Random;
use portcullis_tests::streams::{Arrived, Conversation, replaced};
use portcullis_tests::{Tcp, World, udp};

const MILLISECOND: u64 = 10_000;

/// This host's end, the other's, and that on the wire where a rule translates.
const ENDS: [[&str; 3]; 2] = [
    ["192.0.2.10:50000", "198.51.100.1:9999", "198.51.100.7:53"],
    [
        "[2001:db8::10]:50000",
        "[2001:db8::80]:9999",
        "[2001:db8::7]:53",
    ],
];

const REQUEST: &str =
    "GET / HTTP/1.1\r\nHost: www.example.net\r\nX-Test: a secret\r\nContent-Length: 0\r\n\r\n";
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\na secret";

/// What a rule does.
#[derive(Debug, Default)]
struct Effects {
    dscp: Option<u8>,
    ttl: Option<u8>,
    is_translated: bool,
    /// The other side begins.
    is_inbound: bool,
    /// What is put for what in what the client says, and in what the server says.
    replacements: [Option<(&'static str, &'static str)>; 2],
    policy: String,
}

impl Effects {
    fn any(random: &mut Random, wire: &str) -> Self {
        let mut effects = Self::default();
        let mut text = "default = 'block'\n".to_owned();
        match random.below(4) {
            0 => text.push_str("[[rule]]\naction = 'block'\ncontent = 'what nobody says'\n"),
            1 => text.push_str(
                "[[rule]]\naction = 'block'\ncontent = 'what nobody says'\ninspect = 'out of band'\n",
            ),
            _ => {}
        }
        if random.below(2) == 0 {
            effects.dscp = Some(random.byte() % 64);
        }
        if random.below(2) == 0 {
            effects.ttl = Some(1 + random.byte() % 200);
        }
        effects.is_inbound = random.below(3) == 0;
        effects.is_translated = !effects.is_inbound && random.below(2) == 0;
        let mut done = String::new();
        let mut add = |line: String| writeln!(done, "{line}").expect("a string");
        if let Some(dscp) = effects.dscp {
            add(format!("dscp = {dscp}"));
        }
        if let Some(ttl) = effects.ttl {
            add(format!("ttl = {ttl}"));
        }
        if effects.is_translated {
            add(format!("translate = '{wire}'"));
        }
        match random.below(4) {
            0 => add("rate = '100 kB/s'\nburst = '200 B'".to_owned()),
            1 => add("rate = '1 MB/s'\nburst = '2 kB'\nrate_per = 'flow'".to_owned()),
            _ => {}
        }
        match random.below(3) {
            0 => add("delay = '3 ms'".to_owned()),
            1 => add("delay = '1 ms'\njitter = '5 ms'".to_owned()),
            _ => {}
        }
        let secret = ("a secret", "nothing to be seen");
        match random.below(4) {
            0 => {
                add("http_header = { X-Test = 'none' }".to_owned());
                effects.replacements[0] = Some(("X-Test: a secret", "X-Test: none"));
            }
            1 => {
                add("replace = [{ find = 'a secret', with = 'nothing to be seen' }]".to_owned());
                effects.replacements = [Some(secret); 2];
            }
            2 => {
                let one = "find = 'a secret', with = 'nothing to be seen', direction = 'sent'";
                add(format!("replace = [{{ {one} }}]"));
                effects.replacements[usize::from(effects.is_inbound)] = Some(secret);
            }
            _ => {}
        }
        let asks = random.below(4) == 0;
        let action = if asks { "ask" } else { "permit" };
        let rule = format!("[[rule]]\naction = '{action}'\nremote_port = 9999\n");
        if !asks && random.below(2) == 0 {
            // Another rule decides once the host is known, and does the same.
            write!(text, "{rule}host = 'www.example.net'\n{done}").expect("a string");
        }
        write!(text, "{rule}{done}").expect("a string");
        effects.policy = text;
        effects
    }

    /// A packet that has left the machine is as the rule says, with right checksums.
    fn assert_done_to(&self, packet: &[u8], remote: &str, wire: &str) {
        let summary = PacketSummary::parse(packet).expect("a packet");
        let expected = if self.is_translated { wire } else { remote };
        let end = std::net::SocketAddr::new(
            summary.destination.address.to_canonical(),
            summary.destination.port,
        );
        assert_eq!(end.to_string(), expected);
        let (class, ttl) = match packet[0] >> 4 {
            4 => (packet[1], packet[8]),
            _ => (packet[0] << 4 | packet[1] >> 4, packet[7]),
        };
        assert_eq!(class >> 2, self.dscp.unwrap_or(0), "dscp");
        assert_eq!(ttl, self.ttl.unwrap_or(64), "ttl");
        assert!(packet == whole(packet.to_vec()), "checksums");
    }
}

/// What a packet of the other side is on the wire.
fn on_the_wire(effects: &Effects, packet: Vec<u8>, [_, remote, wire]: [&str; 3]) -> Vec<u8> {
    if !effects.is_translated {
        return packet;
    }
    let socket = |text: &str| -> std::net::SocketAddr { text.parse().expect("an end") };
    let (remote, wire) = (socket(remote), socket(wire));
    let mut packet = packet;
    let (at, header) = if remote.is_ipv4() { (12, 20) } else { (8, 40) };
    match wire.ip() {
        std::net::IpAddr::V4(address) => packet[at..at + 4].copy_from_slice(&address.octets()),
        std::net::IpAddr::V6(address) => packet[at..at + 16].copy_from_slice(&address.octets()),
    }
    packet[header..header + 2].copy_from_slice(&wire.port().to_be_bytes());
    packet
}

/// What leaves the stack of a packet, now or while it waits. Who is asked about it permits it.
fn outcome(world: &mut World, packet: Vec<u8>) -> Vec<Output> {
    let mut out = world.net.at_once(&[whole(packet)]);
    // A listener is asked about first, then who connects to it.
    while let [question] = &world.device().questions()[..] {
        assert!(world.device().reply(question, Action::Permit));
        drop(world.net.settle());
    }
    let later = world.net.pass(30 * MILLISECOND);
    out.extend(later.into_iter().map(|(_, output)| output));
    out
}

fn datagrams(world: &mut World, effects: &Effects, ends: [&str; 3]) {
    let [local, remote, wire] = ends;
    let (mut gone, mut come) = (0, 0);
    for number in 0..12_u8 {
        let data = vec![number; 40 + usize::from(number)];
        let goes = udp(local, remote, &data);
        let comes = on_the_wire(effects, udp(remote, local, &data), ends);
        let mut both = [goes, comes];
        if effects.is_inbound {
            both.reverse();
        }
        for output in both.map(|packet| outcome(world, packet)).concat() {
            match output {
                Output::Sent(packet) => {
                    effects.assert_done_to(&packet, remote, wire);
                    assert!(packet.ends_with(&data));
                    gone += 1;
                }
                Output::Datagram { bytes, .. } => {
                    assert_eq!(*bytes, data);
                    come += 1;
                }
                Output::Stream { .. } => panic!("a stream"),
            }
        }
        assert_eq!((gone, come), (number + 1, number + 1));
    }
}

fn connection(world: &mut World, random: &mut Random, effects: &Effects, ends: [&str; 3]) {
    let [local, remote, wire] = ends;
    let messages = [REQUEST.repeat(5), RESPONSE.repeat(5)];
    let (client, server) = if effects.is_inbound {
        (remote, local)
    } else {
        (local, remote)
    };
    let mut arrived = Arrived::of(client);
    let mut sent = Vec::new();
    let mut give = |world: &mut World, packet: Vec<u8>| {
        let is_sent =
            PacketSummary::parse(&packet).is_some_and(|summary| summary.source.port == 50_000);
        let packet = if is_sent {
            packet
        } else {
            on_the_wire(effects, packet, ends)
        };
        let out = outcome(world, packet);
        sent.extend(out.iter().filter_map(|output| match output {
            Output::Sent(packet) => Some(packet.clone()),
            _ => None,
        }));
        arrived.add(out);
    };
    let mut tcp = Tcp::new(client, server);
    for packet in tcp.handshake() {
        give(world, packet);
    }
    let said = [messages[0].as_bytes(), messages[1].as_bytes()];
    let mut conversation = Conversation::of(tcp, said);
    while let Some(packet) = conversation.segment(random) {
        give(world, packet);
    }
    for packet in conversation.tcp.close() {
        give(world, packet);
    }
    arrived.settle(&mut world.net);
    for (arrived, (message, replacement)) in arrived
        .data
        .iter()
        .zip(messages.iter().zip(effects.replacements))
    {
        let replacements: Vec<_> = replacement.into_iter().collect();
        let expected = replaced(message.as_bytes(), &replacements);
        assert_eq!(
            String::from_utf8_lossy(arrived),
            String::from_utf8_lossy(&expected)
        );
    }
    assert!(!sent.is_empty());
    for packet in &sent {
        effects.assert_done_to(packet, remote, wire);
    }
}

#[test]
fn whatever_a_rule_does_together_each_is_done() {
    for seed in 1..=24 {
        let mut random = Random::new(seed);
        let ends = ENDS[random.below(2)];
        let effects = Effects::any(&mut random, ends[2]);
        println!("{}", effects.policy);
        let mut world = World::with_policy(&effects.policy).with_output();
        assert!(world.device().questions().is_empty());
        if random.below(2) == 0 {
            datagrams(&mut world, &effects, ends);
        } else {
            connection(&mut world, &mut random, &effects, ends);
        }
        world.net.finish();
        world.end();
    }
}

/// Another policy for a connection that lives, which changes no text's length.
fn next_policy(random: &mut Random) -> String {
    let text = Effects::any(random, "").policy;
    let kept = text.lines().filter(|line| !line.starts_with("translate"));
    let text: String = kept.flat_map(|line| [line, "\n"]).collect();
    text.replace("nothing to be seen", "A SECRET")
        .replace("'none'", "'A SECRET'")
        .replace("'ask'", "'permit'")
}

#[test]
fn policies_that_do_other_things_in_mid_connection_lose_nothing() {
    let messages = [REQUEST.repeat(12), RESPONSE.repeat(12)];
    for seed in 1..=24 {
        let mut random = Random::new(seed);
        let [local, remote, _] = ENDS[random.below(2)];
        let (client, server) = if random.below(2) == 0 {
            (local, remote)
        } else {
            (remote, local)
        };
        let mut world = World::with_policy(&next_policy(&mut random)).with_output();
        let mut arrived = Arrived::of(client);
        let mut tcp = Tcp::new(client, server);
        for packet in tcp.handshake() {
            arrived.add(outcome(&mut world, packet));
        }
        let said = [messages[0].as_bytes(), messages[1].as_bytes()];
        let mut conversation = Conversation::of(tcp, said);
        while let Some(packet) = conversation.segment(&mut random) {
            arrived.add(world.net.at_once(&[whole(packet)]));
            match random.below(12) {
                0 => {
                    // What waits for its time could be overtaken under a policy that lets nothing wait.
                    let later = world.net.pass(30 * MILLISECOND);
                    arrived.add(later.into_iter().map(|(_, output)| output));
                    let text = next_policy(&mut random);
                    println!("{text}");
                    world.set_policy(&text);
                }
                1..=3 => {
                    let later = world.net.pass(random.below(8) as u64 * MILLISECOND);
                    arrived.add(later.into_iter().map(|(_, output)| output));
                }
                _ => {}
            }
        }
        for packet in conversation.tcp.close() {
            arrived.add(outcome(&mut world, packet));
        }
        let later = world.net.pass(20_000 * MILLISECOND);
        arrived.add(later.into_iter().map(|(_, output)| output));
        arrived.settle(&mut world.net);
        assert!(!arrived.is_reset);
        for (arrived, message) in arrived.data.iter().zip(&messages) {
            let arrived = String::from_utf8_lossy(arrived);
            assert_eq!(arrived.replace("A SECRET", "a secret"), *message);
        }
        world.net.finish();
        world.end();
    }
}

#[test]
fn datagrams_are_treated_as_each_new_policy_says() {
    let wires = [
        ["198.51.100.7:53", "198.51.100.8:99"],
        ["[2001:db8::7]:53", "[2001:db8::8]:99"],
    ];
    for seed in 1..=8 {
        let mut random = Random::new(seed);
        let version = random.below(2);
        let [local, remote, _] = ENDS[version];
        let mut world = World::new().with_output();
        for _ in 0..6 {
            let wire = wires[version][random.below(2)];
            let effects = Effects::any(&mut random, wire);
            let text = effects.policy.replace("'ask'", "'permit'");
            println!("{text}");
            world.set_policy(&text);
            datagrams(&mut world, &effects, [local, remote, wire]);
        }
        world.net.finish();
        world.end();
    }
}
