//! Packets from and to this host.

use ksim::net::PacketReport;
use portcullis_tests::control::alive;
use portcullis_tests::foreign::windivert::{DROP, Layer, Program, SNIFF};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, World, icmp_echo, udp};
use wfp_schema::NtStatus;

use super::machine;

/// Sends a packet through the program, which puts it back: it is what was sent, and it passes.
pub(crate) fn goes_through(world: &mut World, program: &Program, packet: &[u8], outbound: bool) {
    let read = program.recv();
    let PacketReport {
        id, passed, reason, ..
    } = world.net.packet(packet);
    assert!(
        !passed && reason.is_some_and(ksim::net::Reason::is_pending),
        "the packet is held: {reason:?}"
    );
    let received = read.take().expect("the program has received it");
    assert_eq!(received.packet, packet);
    assert_eq!(received.outbound(), outbound);
    assert_eq!(program.send(&received), NtStatus::SUCCESS, "SEND");
    assert_eq!(world.net.settle(), [(id, true)], "the packet passes now");
}

#[test]
fn it_captures_packets_and_puts_them_back() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    for (local, remote) in [
        ("192.0.2.10:50000", "198.51.100.1:9999"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:9999"),
    ] {
        goes_through(&mut world, &program, &udp(local, remote, b"question"), true);
        goes_through(&mut world, &program, &udp(remote, local, b"answer"), false);
    }
    goes_through(
        &mut world,
        &program,
        &icmp_echo("192.0.2.10", "198.51.100.1", 8),
        true,
    );
    goes_through(
        &mut world,
        &program,
        &icmp_echo("198.51.100.1", "192.0.2.10", 0),
        false,
    );
    program.close();
    assert!(world.net.passes(udp(
        "192.0.2.10:50000",
        "198.51.100.1:9999",
        b"nobody holds this"
    )));
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_whole_connection_goes_through_it() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    let mut packets = tcp.handshake();
    packets.push(tcp.client_says(b"GET / HTTP/1.1\r\nHost: www.example.net\r\n\r\n"));
    packets.push(tcp.server_says(b"HTTP/1.1 204 No Content\r\n\r\n"));
    packets.extend(tcp.close());
    for packet in &packets {
        let outbound = packet[12..16] == [192, 0, 2, 10];
        goes_through(&mut world, &program, packet, outbound);
    }
    assert_eq!(
        world.net.flows()[0].passed.iter().sum::<u64>(),
        packets.len() as u64
    );
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn packets_wait_in_it_until_they_are_read() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let packets: Vec<Vec<u8>> = (0..20_u8)
        .map(|number| udp("192.0.2.10:50000", "198.51.100.1:9999", &[number; 30]))
        .collect();
    for packet in &packets {
        assert!(!world.net.passes(packet));
    }
    for packet in &packets {
        let received = program.recv().take().expect("it waits");
        assert_eq!(&received.packet, packet);
        assert_eq!(program.send(&received), NtStatus::SUCCESS);
    }
    let settled = world.net.settle();
    assert_eq!(settled.len(), packets.len());
    assert!(settled.iter().all(|(_, passed)| *passed));
    program.close();
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_packet_that_is_read_and_not_put_back_never_passes_and_one_that_is_not_read_passes_at_the_close()
 {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    let read = program.recv();
    assert!(
        !world
            .net
            .passes(udp("192.0.2.10:50000", "198.51.100.1:9999", b"lost"))
    );
    assert!(read.take().is_some());
    let unread = world.net.packet(&udp(
        "192.0.2.10:50000",
        "198.51.100.1:9999",
        b"not even read",
    ));
    assert!(!unread.passed);
    assert_eq!(world.net.settle(), []);
    program.close();
    assert_eq!(
        world.net.settle(),
        [(unread.id, true)],
        "the driver lets go of what waits in its queue"
    );
    assert_clean(&alive(driver.unload()));
}

#[test]
fn a_sniffer_sees_what_passes_and_a_dropper_lets_nothing_pass() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let sniffer = Program::open(&world.kernel, Layer::Network, SNIFF);
    let packet = udp("192.0.2.10:50000", "198.51.100.1:9999", b"seen");
    let read = sniffer.recv();
    let report = world.net.packet(&packet);
    let passed = report.passed || world.net.settle() == [(report.id, true)];
    assert!(passed, "{report:?}");
    assert_eq!(read.take().expect("a copy").packet, packet);
    sniffer.close();
    let dropper = Program::open(&world.kernel, Layer::Network, DROP);
    assert!(!world.net.passes(&packet));
    assert!(world.net.settle().is_empty());
    dropper.close();
    assert!(world.net.passes(&packet));
    assert_clean(&alive(driver.unload()));
}

#[test]
fn it_and_portcullis_filter_on_one_machine() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    assert_eq!(world.start(), NtStatus::SUCCESS);
    world.set_policy("default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23");
    let program = Program::open(&world.kernel, Layer::Network, 0);
    goes_through(
        &mut world,
        &program,
        &udp("192.0.2.10:50000", "198.51.100.1:9999", b"question"),
        true,
    );
    let refused = world
        .net
        .packet(&udp("192.0.2.10:50000", "198.51.100.1:23", b"refused"));
    assert!(!refused.passed && refused.reason.is_some_and(|reason| !reason.is_pending()));
    program.close();
    assert_clean(&alive(driver.unload()));
    world.end();
}
