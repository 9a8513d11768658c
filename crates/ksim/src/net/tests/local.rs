//! Finding the local side.

use super::build::{ACK, SYN, ip, socket, tcp, udp};
use crate::net::{Discovery, Ends, LocalSide};

fn discover(packets: &[Vec<u8>]) -> Discovery {
    LocalSide::discover(packets.iter().filter_map(|packet| Ends::of(packet)))
}

fn found(discovery: &Discovery) -> Vec<String> {
    discovery
        .found
        .iter()
        .map(|found| found.address.to_string())
        .collect()
}

#[test]
fn the_private_end_of_public_traffic_is_local() {
    let client = socket("192.168.1.13:40000");
    let servers = ["1.1.1.1:443", "8.8.8.8:443", "9.9.9.9:443"];
    let packets: Vec<_> = servers
        .iter()
        .map(|server| tcp(socket(server), client, ACK, 1, 1, b"x"))
        .collect();
    let discovery = discover(&packets);
    assert_eq!(found(&discovery), ["192.168.1.13"]);
    let said = discovery.found[0].to_string();
    assert!(
        said.contains("private") && said.contains("3 flows"),
        "{said}"
    );
}

#[test]
fn the_initiator_is_local_where_nothing_else_tells() {
    let (client, server) = (socket("203.0.113.5:40000"), socket("198.51.100.7:443"));
    assert_eq!(
        found(&discover(&[tcp(client, server, SYN, 1, 0, &[])])),
        ["203.0.113.5"]
    );
    assert_eq!(
        found(&discover(&[tcp(server, client, SYN | ACK, 1, 2, &[])])),
        ["203.0.113.5"]
    );
    assert_eq!(
        found(&discover(&[tcp(server, client, ACK, 1, 2, b"midway")])),
        ["203.0.113.5"]
    );
}

#[test]
fn the_busiest_private_host_is_local_to_its_network() {
    let here = socket("192.168.1.13:40000");
    let packets = [
        udp(here, socket("192.168.1.1:53"), b"?"),
        tcp(here, socket("192.168.1.20:22"), SYN, 1, 0, &[]),
        tcp(here, socket("1.1.1.1:443"), SYN, 1, 0, &[]),
    ];
    assert_eq!(found(&discover(&packets)), ["192.168.1.13"]);
}

#[test]
fn groups_and_broadcasts_need_no_local_address() {
    let sender = socket("192.168.1.20:137");
    let packets = [
        udp(sender, socket("192.168.1.255:137"), b"x"),
        udp(sender, socket("224.0.0.251:5353"), b"x"),
        udp(socket("0.0.0.0:68"), socket("255.255.255.255:67"), b"x"),
    ];
    let discovery = discover(&packets);
    assert!(found(&discovery).is_empty());
    assert!(discovery.local.is_group(ip("192.168.1.255")));
}

#[test]
fn every_flow_gets_a_local_end() {
    let packets = [
        udp(socket("192.168.1.2:1"), socket("192.168.1.3:2"), b"x"),
        udp(socket("[2001:db8::1]:1"), socket("[2001:db8::2]:2"), b"x"),
        udp(socket("198.51.100.1:1"), socket("198.51.100.2:2"), b"x"),
    ];
    let local = discover(&packets).local;
    for ends in packets.iter().filter_map(|packet| Ends::of(packet)) {
        assert!(
            local.contains(ends.source.0) || local.contains(ends.destination.0),
            "{ends:?}"
        );
    }
    assert_eq!(local.addresses().count(), 3);
}

#[test]
fn a_prefix_covers_its_addresses_and_its_broadcast_is_a_group() {
    let mut local = LocalSide::default();
    local.insert_prefix(ip("192.168.4.0"), 22);
    local.insert_prefix(ip("fd00::"), 8);
    assert!(local.contains(ip("192.168.7.1")));
    assert!(!local.contains(ip("192.168.8.1")));
    assert!(!local.contains(ip("192.168.7.255")) && local.is_group(ip("192.168.7.255")));
    assert!(local.contains(ip("fdff::1")) && !local.contains(ip("fe80::1")));
    let mut all = LocalSide::default();
    all.insert_prefix(ip("0.0.0.0"), 0);
    assert!(all.contains(ip("8.8.8.8")) && !all.contains(ip("2001:db8::1")));
}
