//! The paths of packets, against a table of the plainest kind.

use parking_lot::RawMutex;
use portcullis_core::packet::{Edit, Layout, NoPath, PathBucket, Paths, Treatment};
use portcullis_core::policy::PolicyView;
use portcullis_core::shape::LimitSlot;
use portcullis_core::{Application, Connection, Direction, Endpoint, Host, Transfer};
use portcullis_policy::{Options, compile};
use portcullis_proto::effect::MAX_LIMITS;
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::Ipv4Addr;

const UDP: u8 = 17;
const SECOND: u64 = 10_000_000;

const POLICY: &str = "
    default = 'permit'
    [[rule]]
    action = 'permit'
    remote_port = 2
    translate = '203.0.113.9:9'
    [[rule]]
    action = 'permit'
    remote_port = 3
    translate = ':9'
    [[rule]]
    action = 'permit'
    remote_port = 4
    ttl = 7
";

fn end(address: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(203, 0, 113, address).into(), port)
}

const fn connection(local: Endpoint, remote: Endpoint) -> Connection<'static> {
    Connection {
        direction: Direction::Outbound,
        protocol: UDP,
        local,
        remote,
        application: Application::UNKNOWN,
        user: &[],
        process_id: 0,
        flow: 0,
        interface: 0,
    }
}

/// A datagram between these ends.
fn layout(source: Endpoint, destination: Endpoint) -> Layout {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[9] = UDP;
    let octets = |end: Endpoint| match end.address {
        std::net::IpAddr::V4(address) => address.octets(),
        std::net::IpAddr::V6(_) => panic!("these are IPv4"),
    };
    packet[12..16].copy_from_slice(&octets(source));
    packet[16..20].copy_from_slice(&octets(destination));
    packet[20..22].copy_from_slice(&source.port.to_be_bytes());
    packet[22..24].copy_from_slice(&destination.port.to_be_bytes());
    Layout::new_checked(&packet).expect("a packet")
}

type Table = Paths<Vec<PathBucket<RawMutex>>, Vec<LimitSlot<RawMutex>>>;

fn paths(buckets: usize) -> Table {
    Paths::new(
        std::iter::repeat_with(PathBucket::new)
            .take(buckets)
            .collect(),
        std::iter::repeat_with(LimitSlot::new)
            .take(MAX_LIMITS)
            .collect(),
        5,
    )
}

/// Where a remote side is on the wire by the policy; `None` if it has no effect.
fn wire(remote: Endpoint) -> Option<Endpoint> {
    match remote.port {
        2 => Some(end(9, 9)),
        3 => Some(Endpoint::new(remote.address, 9)),
        4 => Some(remote),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Decide(u16, u8, u16),
    End(u16, u8, u16),
    Send(u16, u8, u16),
    Receive(u16, u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    // The addresses 8 and 9 and the port 9 are also those on the wire.
    (
        0..4,
        1_u16..4,
        8_u8..10,
        prop::sample::select(vec![1_u16, 2, 3, 4, 9]),
    )
        .prop_map(|(kind, local, address, port)| match kind {
            0 => Step::Decide(local, address, port),
            1 => Step::End(local, address, port),
            2 => Step::Send(local, address, port),
            _ => Step::Receive(local, address, port),
        })
}

proptest! {
    #[test]
    fn packets_go_where_the_table_says_and_answers_come_back(steps in prop::collection::vec(step(), 1..120)) {
        let compiled = compile(POLICY, &Options::default()).expect("a policy");
        let policy = PolicyView::validate(&compiled.blob).expect("valid");
        let table = paths(64);
        // What each path's remote side is on the wire, by local port and remote side; and the other way.
        let mut known: HashMap<(u16, Endpoint), Endpoint> = HashMap::new();
        let mut back: HashMap<(u16, Endpoint), Endpoint> = HashMap::new();
        let mut now = 1_000 * SECOND;
        for step in steps {
            now += SECOND / 100;
            match step {
                Step::Decide(local, address, port) => {
                    let remote = end(address, port);
                    let connection = connection(end(1, local), remote);
                    let decision = policy.decide(&connection, Host::of(&connection));
                    let decided = table.decided((&policy, 1), &connection, decision, now);
                    let Some(wire) = wire(remote) else {
                        prop_assert_eq!(decided, Ok(()));
                        continue;
                    };
                    let is_taken = wire != remote
                        && (back.get(&(local, wire)).is_some_and(|&other| other != remote) || known.contains_key(&(local, wire)))
                        || back.contains_key(&(local, remote));
                    if is_taken {
                        prop_assert_eq!(decided, Err(NoPath::Taken));
                    } else {
                        prop_assert_eq!(decided, Ok(()));
                        known.insert((local, remote), wire);
                        if wire != remote {
                            back.insert((local, wire), remote);
                        }
                    }
                }
                Step::End(local, address, port) => {
                    let remote = end(address, port);
                    table.ended(&connection(end(1, local), remote));
                    if let Some(wire) = known.remove(&(local, remote)) {
                        back.remove(&(local, wire));
                    }
                }
                Step::Send(local, address, port) => {
                    let remote = end(address, port);
                    let layout = layout(end(1, local), remote);
                    let wanted = known.get(&(local, remote)).map_or(Treatment::Pass, |&wire| Treatment::Now(Edit {
                        hop_limit: (port == 4).then_some(7),
                        destination: (wire != remote).then_some(wire),
                        ..Edit::default()
                    }));
                    prop_assert_eq!(table.packet(Transfer::Sent, &[], &layout, 28, now).treatment, wanted);
                    prop_assert_eq!(table.follows(Transfer::Sent, &layout), wanted != Treatment::Pass);
                }
                Step::Receive(local, address, port) => {
                    let remote = end(address, port);
                    let layout = layout(remote, end(1, local));
                    let source = back.get(&(local, remote)).copied();
                    let is_path = source.is_some() || known.contains_key(&(local, remote));
                    let wanted = if is_path {
                        Treatment::Now(Edit { source, ..Edit::default() })
                    } else {
                        Treatment::Pass
                    };
                    prop_assert_eq!(table.packet(Transfer::Received, &[], &layout, 28, now).treatment, wanted);
                    prop_assert_eq!(table.follows(Transfer::Received, &layout), is_path);
                }
            }
            prop_assert_eq!(table.used(), known.len() + back.len());
        }
    }
}

#[test]
fn when_the_table_is_full_a_path_that_was_not_used_for_long_gives_its_place() {
    let compiled = compile(POLICY, &Options::default()).expect("a policy");
    let policy = PolicyView::validate(&compiled.blob).expect("valid");
    let table = paths(1);
    let decide = |port: u16, now: u64| {
        let connection = connection(end(1, port), end(8, 4));
        let decision = policy.decide(&connection, Host::of(&connection));
        table.decided((&policy, 1), &connection, decision, now)
    };
    for port in 1..=8 {
        assert_eq!(decide(port, 1_000 * SECOND), Ok(()));
    }
    assert_eq!(decide(9, 1_060 * SECOND), Err(NoPath::Full));
    // The first one is used again, so that the second is the oldest.
    let packet = layout(end(1, 1), end(8, 4));
    assert!(
        table
            .packet(Transfer::Sent, &[], &packet, 28, 1_100 * SECOND)
            .treatment
            != Treatment::Pass
    );
    assert_eq!(decide(9, 1_130 * SECOND), Ok(()));
    assert!(table.follows(Transfer::Sent, &packet));
}
