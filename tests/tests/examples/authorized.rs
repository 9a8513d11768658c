//! What authorizes connections: holding, guarding.

use ksim::Config;
use portcullis_tests::control::alive;
use portcullis_tests::examples::built;
use portcullis_tests::foreign::Machine;
use portcullis_tests::{Net, Product, Tcp};
use wfp_schema::{Action, FilterFlags, LayerId, NtStatus};

use super::{clients, code, machine};

const OWN: [&str; 2] = ["10.0.0.1:4444", "[fd00::1]:4444"];
const FOREIGN: [&str; 2] = ["198.51.100.1:4444", "[2001:db8::80]:4444"];

pub(super) fn holding(net: &mut Net, port: u16) {
    for servers in [OWN, FOREIGN, ["198.51.100.1:80", "[2001:db8::80]:80"]] {
        for (client, server) in clients(port).iter().zip(servers) {
            let mut tcp = Tcp::new(client, server);
            net.fates(&tcp.handshake());
            net.settle();
            net.fates(&[tcp.client_says(b"hello")]);
            net.fates(&tcp.close());
        }
    }
}

#[test]
fn holding_lets_connections_wait_until_it_is_decided_about_them() {
    let mut machine = machine("holding");
    for (servers, permitted) in [(OWN, true), (FOREIGN, false)] {
        for (client, server) in clients(50_000).iter().zip(servers) {
            let mut tcp = Tcp::new(client, server);
            let handshake = tcp.handshake();
            let first = machine.net.packet(&handshake[0]);
            assert!(
                first.reason.is_some_and(ksim::net::Reason::is_pending),
                "{server}: {first:?}"
            );
            assert_eq!(
                machine.net.settle(),
                [(first.id, permitted)],
                "decided about {server}"
            );
            assert_eq!(machine.net.all_pass(&handshake[1..]), permitted, "{server}");
            machine.net.fates(&tcp.close());
        }
    }
    let mut other = Tcp::new("192.0.2.10:50001", "198.51.100.1:80");
    assert!(machine.net.all_pass(&other.handshake()), "nobody waits");
    machine.end();
}

#[test]
fn holding_remembers_what_it_decided_until_the_endpoint_closes() {
    let mut machine = machine("holding");
    let mut tcp = Tcp::new("192.0.2.10:50000", OWN[0]);
    machine.net.fates(&tcp.handshake());
    machine.net.settle();
    // A change of the policy has connections authorized again.
    let other = Product::new(&machine.kernel, 0x100);
    other.add_filter(
        LayerId::ALE_AUTH_CONNECT_V4,
        Action::Permit,
        FilterFlags::NONE,
        Vec::new(),
    );
    assert!(machine.net.passes(tcp.client_says(b"still permitted")));
    other.close();
    assert!(machine.net.all_pass(&tcp.close()));
    // More connections than it has places, one after the other.
    for port in 50_001..50_201 {
        let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), OWN[0]);
        let handshake = tcp.handshake();
        machine.net.packet(&handshake[0]);
        assert!(machine.net.settle()[0].1, "the connection from {port}");
        machine.net.fates(&handshake[1..]);
        assert!(machine.net.all_pass(&tcp.close()));
    }
    machine.end();
}

/// Connections to the port of this machine, and to another.
pub(super) fn guarding(net: &mut Net, port: u16) {
    for (client, address) in visitors(port).iter().zip(["192.0.2.10", "[2001:db8::10]"]) {
        for local in [3389, 22] {
            let mut tcp = Tcp::new(client, &format!("{address}:{local}"));
            net.fates(&tcp.handshake());
            net.fates(&tcp.close());
        }
    }
}

/// Who connects to this machine.
fn visitors(port: u16) -> [String; 2] {
    [
        format!("198.51.100.1:{port}"),
        format!("[2001:db8::80]:{port}"),
    ]
}

/// Whether a connection to the port gets in, over IPv4 and over IPv6.
fn gets_in(net: &mut Net, port: u16) -> [bool; 2] {
    let [v4, v6] = visitors(port);
    [(v4, "192.0.2.10:3389"), (v6, "[2001:db8::10]:3389")]
        .map(|(client, local)| net.all_pass(&Tcp::new(&client, local).handshake()))
}

#[test]
fn guarding_keeps_its_port_closed_from_the_stacks_start_unless_it_runs() {
    let mut machine = machine("guarding");
    assert_eq!(gets_in(&mut machine.net, 50_000), [true, true], "it runs");
    assert!(machine.unload().is_clean());
    assert_eq!(
        gets_in(&mut machine.net, 50_001),
        [false, false],
        "it has stopped"
    );
    // The machine starts again, without the base filtering engine at first.
    let mut config = Config::default();
    config.fwp.boot_store = machine.kernel.filter_engine().boot_store();
    config.fwp.bfe_running = false;
    let mut machine = Machine::loaded(&config, &built("guarding"));
    assert_eq!(gets_in(&mut machine.net, 50_000), [false, false], "at boot");
    assert!(
        machine
            .net
            .all_pass(&Tcp::new("198.51.100.1:50000", "192.0.2.10:22").handshake())
    );
    alive(machine.kernel.on(0, |_| machine.kernel.bfe().start()));
    alive(machine.kernel.on(0, |_| ()));
    assert_eq!(
        gets_in(&mut machine.net, 50_001),
        [false, false],
        "before it has started"
    );
    assert_eq!(machine.start(), NtStatus::SUCCESS);
    assert_eq!(
        gets_in(&mut machine.net, 50_002),
        [true, true],
        "it runs again"
    );
    machine.end();
}

#[test]
fn guarding_is_taken_away_by_a_request() {
    let mut machine = machine("guarding");
    for _ in 0..2 {
        let device = machine.open(r"\\.\Guarding");
        let result = alive(device.ioctl(code(2), &[], 0));
        assert_eq!(result.status, NtStatus::SUCCESS);
        alive(device.close());
    }
    let engine = machine.kernel.filter_engine();
    assert_eq!(engine.committed().filters().count(), 0);
    assert!(machine.unload().is_clean());
    assert_eq!(gets_in(&mut machine.net, 50_000), [true, true]);
}
