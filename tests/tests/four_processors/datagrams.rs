//! Datagrams that are one packet.

use std::collections::BTreeMap;

use ksim::Schedule;
use ksim::net::Setup;
use portcullis_core::packet::Layout;
use portcullis_proto::Counter;
use portcullis_tests::Net;
use portcullis_tests::bursts::{data_of, numbered, passed, receive, send};
use portcullis_tests::control::compile;
use portcullis_tests::messages::dns_query;
use portcullis_tests::net::{received, sent};
use portcullis_tests::packets::end;
use portcullis_tests::races::{four, hosts, on_each, on_each_beside, try_many, unload_beside_each};
use wfp_schema::NtStatus;

/// Rules that look at each datagram, and rules that change each, or let it wait.
const POLICY: &str = "
    default = 'permit'
    [[rule]]
    action = 'permit'
    remote_port = 444
    ttl = 9
    [[rule]]
    action = 'permit'
    remote_port = 445
    translate = ':8445'
    delay = '2 ms'
    [[rule]]
    action = 'block'
    host = ['ads.example.net', '*.ads.example.net']
    [[rule]]
    action = 'block'
    content = ['top secret']
";

const MILLISECOND: u64 = 10_000;

/// This host and another one.
const ENDS: [(&str, &str); 2] = [
    ("192.0.2.10", "198.51.100.1"),
    ("2001:db8::10", "2001:db8::80"),
];

fn with_output() -> Setup {
    Setup {
        output: true,
        ..Setup::default()
    }
}

/// Packets by the port that they come from: where they go to, how far, and their data.
type BySource = BTreeMap<u16, Vec<(u16, u8, Vec<u8>)>>;

fn by_source(packets: Vec<Vec<u8>>) -> BySource {
    let mut sorted = BySource::new();
    for packet in packets {
        let layout = Layout::new_checked(&packet).expect("a packet");
        let hops = packet[if layout.is_v6 { 7 } else { 8 }];
        let data = data_of(vec![packet]).remove(0);
        let sent = (layout.destination.port, hops, data);
        sorted.entry(layout.source.port).or_default().push(sent);
    }
    sorted
}

/// The client's port of what is done with a number on a processor.
const fn port(processor: u16, number: u16) -> u16 {
    20_000 + 1_000 * processor + number
}

/// Bursts of one processor, of both IP versions, with what becomes of each.
fn bursts(processor: u16, net: &mut Net) {
    for (version, (host, peer)) in (0..).step_by(10).zip(ENDS) {
        let local = |number: u16| end(host, port(processor, version + number));
        let burst = numbered(5, 300);
        assert!(passed(&send(net, &local(0), &end(peer, 443), &burst)));
        assert_eq!(data_of(sent(net.output())), burst);
        assert!(passed(&receive(net, &end(peer, 443), &local(0), &burst)));
        assert_eq!(received(net.output()), burst);

        let good = [dns_query("img.example.net"), dns_query("www.example.net")];
        let bad = [dns_query("img.example.net"), dns_query("ads.example.net")];
        assert!(!passed(&send(net, &local(1), &end(peer, 53), &bad)));
        assert!(passed(&send(net, &local(2), &end(peer, 53), &good)));
        assert!(!passed(&receive(
            net,
            &end(peer, 443),
            &local(3),
            &secret()
        )));
        assert_eq!(data_of(sent(net.output())), good, "and nothing else");

        // Taken, and sent one by one.
        assert!(!passed(&send(net, &local(4), &end(peer, 444), &burst)));
        let out = by_source(sent(net.output()));
        let expected = burst.iter().map(|data| (444, 9, data.clone()));
        let expected: Vec<_> = expected.collect();
        assert_eq!(out[&port(processor, version + 4)], expected);
        assert!(!passed(&send(net, &local(5), &end(peer, 445), &burst)));
    }
}

/// Datagrams of which one has what a rule looks for.
fn secret() -> Vec<Vec<u8>> {
    let mut data = vec![vec![b'x'; 40]; 3];
    data[1][7..17].copy_from_slice(b"top secret");
    data
}

/// What has waited, which leaves by whichever processor its timer runs on.
fn late(nets: &mut [Net]) -> Vec<Vec<u8>> {
    let mut late = Vec::new();
    for net in nets {
        let passing = net.pass(10 * MILLISECOND).into_iter();
        late.extend(sent(passing.map(|(_, output)| output).collect()));
    }
    late
}

fn four_processors(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let mut nets = hosts(&world, 0, &with_output());
    on_each(&world, &mut nets, bursts);
    let late = by_source(late(&mut nets));
    let each = numbered(5, 300).into_iter().map(|data| (8_445, 64, data));
    let each: Vec<_> = each.collect();
    assert_eq!(late.len(), 4 * 2);
    assert!(late.values().all(|sent| *sent == each), "{late:?}");
    let times = 4 * 2;
    assert_eq!(world.counter(Counter::DatagramsBlocked), times * 5);
    assert_eq!(world.counter(Counter::PacketsChanged), times * 5);
    assert_eq!(world.counter(Counter::PacketsDelayed), times * 5);
    assert_eq!(world.counter(Counter::PacketNotInjected), 0);
    drop(nets);
    world.end();
}

#[test]
fn datagrams_in_one_are_treated_each_on_four_processors() {
    try_many(30, four_processors);
}

/// A burst that a rule changes, and one that it looks at; whether they passed.
fn under_two_policies(processor: u16, net: &mut Net) {
    for round in 0..4 {
        let (host, peer) = ENDS[usize::from(round % 2)];
        let local = |number| end(host, port(processor, 10 * round + number));
        let burst = numbered(4, 300);
        send(net, &local(0), &end(peer, 444), &burst);
        let out = by_source(sent(net.output()));
        let out = &out[&port(processor, 10 * round)];
        let data = out.iter().map(|(.., data)| data.clone());
        assert_eq!(data.collect::<Vec<_>>(), burst, "each once, in their order");
        let hops: Vec<u8> = out.iter().map(|(_, hops, _)| *hops).collect();
        assert!(
            hops.iter().all(|hops| [64, 9, 7].contains(hops)),
            "{hops:?}"
        );
        // Both policies forbid it.
        receive(net, &end(peer, 443), &local(1), &secret());

        assert!(!passed(&receive(
            net,
            &end(peer, 443),
            &local(1),
            &secret()
        )));
        assert!(received(net.output()).is_empty());
    }
}

fn policies_change(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let other = compile(&POLICY.replace("ttl = 9", "ttl = 7"));
    let first = compile(POLICY);
    let mut nets = hosts(&world, 1, &with_output());
    on_each_beside(&world.kernel, &mut nets, under_two_policies, || {
        for policy in [&other, &first, &other] {
            assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
        }
    });
    // Without another packet, what lives is under the last one.
    for (number, net) in (0..).zip(&mut nets) {
        let (host, peer) = ENDS[0];
        send(
            net,
            &end(host, port(number, 0)),
            &end(peer, 444),
            &numbered(2, 300),
        );
        let out = by_source(sent(net.output()));
        assert!(out[&port(number, 0)].iter().all(|(_, hops, _)| *hops == 7));
    }
    assert_eq!(world.counter(Counter::PacketNotInjected), 0);
    drop(nets);
    world.end();
}

#[test]
fn datagrams_in_one_are_treated_once_each_while_the_policy_changes() {
    try_many(30, policies_change);
}

fn unload_in_mid_burst(schedule: &Schedule) {
    let world = four(schedule, POLICY);
    let mut nets = hosts(&world, 1, &with_output());
    unload_beside_each(world, &mut nets, |processor, net| {
        for (version, (host, peer)) in (0..).step_by(10).zip(ENDS) {
            let local = |number: u16| end(host, port(processor, version + number));
            let burst = numbered(4, 300);
            for (number, remote) in [(0, 443), (1, 444)] {
                send(net, &local(number), &end(peer, remote), &burst);
                assert_eq!(data_of(sent(net.output())), burst, "changed or not");
                receive(net, &end(peer, remote), &local(number), &burst);
                assert_eq!(received(net.output()), burst);
            }
            // Blocked, or nobody's.
            receive(net, &end(peer, 443), &local(2), &secret());
            net.output();
            // Taken, or nobody's. What waits when the driver goes is dropped.
            send(net, &local(3), &end(peer, 445), &burst);
            let out = data_of(sent(net.output()));
            assert!(out.is_empty() || out == burst, "{out:?}");
        }
    });
    assert!(late(&mut nets).is_empty());
}

#[test]
fn unloading_in_the_middle_of_datagrams_in_one() {
    try_many(30, unload_in_mid_burst);
}
