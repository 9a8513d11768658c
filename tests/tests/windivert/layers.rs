//! The layers besides the network's: flows, sockets, other handles, forwarded packets.

use portcullis_tests::control::alive;
use portcullis_tests::foreign::windivert::{Layer, Program, RECV_ONLY, Received, SNIFF, filter};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, udp};
use wfp_schema::NtStatus;

use super::machine;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Events, as the driver numbers them.
mod event {
    pub(super) const FLOW_ESTABLISHED: u8 = 1;
    pub(super) const FLOW_DELETED: u8 = 2;
    pub(super) const SOCKET_BIND: u8 = 3;
    pub(super) const SOCKET_CONNECT: u8 = 4;
    pub(super) const SOCKET_LISTEN: u8 = 5;
    pub(super) const SOCKET_ACCEPT: u8 = 6;
    pub(super) const SOCKET_CLOSE: u8 = 7;
    pub(super) const REFLECT_OPEN: u8 = 8;
    pub(super) const REFLECT_CLOSE: u8 = 9;
}

#[test]
fn flows_are_told_when_they_begin_and_end() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Flow, SNIFF | RECV_ONLY);
    for (local, remote, ipv6) in [
        ("192.0.2.10:50000", "198.51.100.1:80", false),
        ("[2001:db8::10]:50001", "[2001:db8::80]:80", true),
    ] {
        let mut tcp = Tcp::new(local, remote);
        assert!(world.net.all_pass(&tcp.handshake()));
        let told = program.waiting();
        let [begun] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(
            (begun.layer(), begun.event()),
            (Layer::Flow as u8, event::FLOW_ESTABLISHED)
        );
        assert_eq!(
            (begun.outbound(), begun.ipv6(), begun.protocol()),
            (true, ipv6, TCP)
        );
        assert_eq!(begun.ports().1, 80);
        assert!(begun.packet.is_empty());
        assert!(world.net.all_pass(&tcp.close()));
        let told = program.waiting();
        let [ended] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(ended.event(), event::FLOW_DELETED);
        assert_eq!(ended.ports(), begun.ports());
    }
    let mut accepted = Tcp::new("198.51.100.1:40000", "192.0.2.10:443");
    assert!(world.net.all_pass(&accepted.handshake()));
    let told = program.waiting();
    let [begun] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((begun.outbound(), begun.ports()), (false, (443, 40_000)));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50002", "198.51.100.53:53", b"query"))
    );
    let told = program.waiting();
    assert_eq!(
        told.iter().map(Received::protocol).collect::<Vec<_>>(),
        [UDP]
    );
    // Flows that live when the handle goes have contexts of the driver's.
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_flow_that_lives_when_its_handle_goes_leaves_no_context() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Flow, SNIFF | RECV_ONLY);
    let mut connections: Vec<Tcp> = (0..20)
        .map(|number| {
            Tcp::new(
                &format!("192.0.2.10:{}", 50_000 + number),
                "198.51.100.1:80",
            )
        })
        .collect();
    for tcp in &mut connections {
        assert!(world.net.all_pass(&tcp.handshake()));
    }
    assert_eq!(program.waiting().len(), 20);
    program.close();
    assert_clean(&alive(driver.unload()));
    for tcp in &mut connections {
        assert!(world.net.all_pass(&tcp.close()));
    }
}

#[test]
fn what_programs_do_with_sockets_is_told() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Socket, SNIFF | RECV_ONLY);
    for (local, remote, client, server) in [
        (
            "192.0.2.10:50000",
            "198.51.100.1:80",
            "198.51.100.1:40000",
            "192.0.2.10:443",
        ),
        (
            "[2001:db8::10]:50000",
            "[2001:db8::80]:80",
            "[2001:db8::80]:40000",
            "[2001:db8::10]:443",
        ),
    ] {
        let mut connecting = Tcp::new(local, remote);
        assert!(world.net.all_pass(&connecting.handshake()));
        let events: Vec<u8> = program.waiting().iter().map(Received::event).collect();
        assert!(events.contains(&event::SOCKET_BIND), "{events:?}");
        assert!(events.contains(&event::SOCKET_CONNECT), "{events:?}");
        let mut accepting = Tcp::new(client, server);
        assert!(world.net.all_pass(&accepting.handshake()));
        let events: Vec<u8> = program.waiting().iter().map(Received::event).collect();
        assert!(events.contains(&event::SOCKET_LISTEN), "{events:?}");
        assert!(events.contains(&event::SOCKET_ACCEPT), "{events:?}");
        assert!(world.net.all_pass(&connecting.close()));
        assert!(world.net.all_pass(&accepting.close()));
        let events: Vec<u8> = program.waiting().iter().map(Received::event).collect();
        assert!(events.contains(&event::SOCKET_CLOSE), "{events:?}");
    }
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn what_programs_do_with_sockets_is_refused() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Socket, RECV_ONLY);
    let connect = Tcp::new("192.0.2.10:50000", "198.51.100.1:80").handshake();
    assert!(world.net.none_passes(&connect));
    assert!(!program.waiting().is_empty(), "and told");
    program.close();
    let connect = Tcp::new("192.0.2.10:50001", "198.51.100.1:80").handshake();
    assert!(world.net.all_pass(&connect));
    // The driver absorbs at a layer for which FWPS_CLASSIFY_OUT0 does not name the flag, and pends nothing there.
    let report = alive(driver.unload());
    assert!(report.leaks.is_empty(), "{report:#?}");
    assert!(!report.violations.is_empty());
    for violation in &report.violations {
        assert_eq!(violation.rule, "classify-flags", "{violation}");
        assert!(
            violation.message.contains("ALE_RESOURCE_ASSIGNMENT_V4"),
            "{violation}"
        );
    }
}

#[test]
fn the_handles_of_programs_are_told_with_their_filters() {
    let Some((world, driver)) = machine() else {
        return;
    };
    let early = Program::open(&world.kernel, Layer::Network, SNIFF);
    let program = Program::open(&world.kernel, Layer::Reflect, SNIFF | RECV_ONLY);
    let told = program.waiting();
    assert!(
        told.iter().all(|told| told.event() == event::REFLECT_OPEN),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|told| told.address[28] == Layer::Network as u8),
        "a handle that was open before is told too: {told:?}"
    );
    let late = Program::open(&world.kernel, Layer::Flow, SNIFF | RECV_ONLY);
    let told = program.waiting();
    let [opened] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(
        (opened.layer(), opened.event()),
        (Layer::Reflect as u8, event::REFLECT_OPEN)
    );
    assert_eq!(opened.address[28], Layer::Flow as u8);
    assert_eq!(opened.address[32..40], (SNIFF | RECV_ONLY).to_le_bytes());
    assert!(!opened.packet.is_empty(), "its filter");
    late.close();
    early.close();
    let told = program.waiting();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|told| told.event() == event::REFLECT_CLOSE));
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_filter_that_rejects_everything_lets_everything_pass() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::new(&world.kernel);
    assert_eq!(
        program.initialize(Layer::Network as u32, 0, 0),
        NtStatus::SUCCESS
    );
    assert_eq!(program.startup(0xf0, &filter(false)), NtStatus::SUCCESS);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", b"question");
    let report = world.net.packet(&packet);
    assert!(report.passed || world.net.settle() == [(report.id, true)]);
    assert_eq!(program.waiting(), []);
    program.close();
    assert_clean(&alive(driver.unload()));
}
