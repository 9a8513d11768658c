//! INJ-06 and INJ-07, and drivers that inject each other's packets.

use wfp_schema::LayerKind;

use super::super::build::{socket, udp};
use super::super::recorder::{Recorder, host_that, setup};
use crate::net::{
    Host, Injection, InjectionMark, InjectionPoint, Outcome, Output, PacketReport, Reason, Setup,
};

fn injection(point: InjectionPoint, bytes: &[u8]) -> Injection<'_> {
    Injection {
        point,
        bytes,
        mark: InjectionMark(1),
        origin: None,
        link: 0,
        hops: 0,
    }
}

#[test]
fn inj_06_a_packet_of_the_wire_has_no_mark() {
    let mut host = host_that(LayerKind::OutboundIpPacket, Outcome::Permit);
    let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    host.packet(0, &packet);
    assert_eq!(host.filtering().last("OUTBOUND_IPPACKET").mark, None);
    host.inject(&injection(InjectionPoint::NetworkSend, &packet));
    let mark = host.filtering().last("OUTBOUND_IPPACKET").mark;
    assert_eq!(mark, Some(InjectionMark(1)));
}

#[test]
fn inj_07_a_forwarded_packet_that_is_injected_is_shown_to_no_layer() {
    let mut host = Host::new(
        Recorder::of_everything(),
        Setup {
            forwarding: true,
            output: true,
            ..setup()
        },
    );
    host.filtering()
        .answers
        .insert(LayerKind::IpForward, Outcome::Absorb);
    let packet = udp(socket("192.0.2.1:5000"), socket("198.51.100.1:53"), b"?");
    let report = host.packet(0, &packet);
    assert!(matches!(report.reason, Some(Reason::Absorbed(_))));
    assert_eq!(host.filtering().take(), ["IPFORWARD"]);
    assert!(host.output().is_empty());
    assert!(
        host.inject(&injection(InjectionPoint::Forward, &packet))
            .passed
    );
    assert!(host.filtering().take().is_empty());
    assert_eq!(host.output(), [Output::Sent(packet)]);
    assert_eq!(host.settled(), [(report.id, true)]);
}

/// Two drivers each absorb what the other has injected, and inject it again; what became of it in the end.
fn exchange(
    point: InjectionPoint,
    change: impl Fn(&mut Vec<u8>),
) -> (Host<Recorder>, PacketReport) {
    let mut host = host_that(LayerKind::OutboundIpPacket, Outcome::Absorb);
    let mut packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?");
    let mut report = host.packet(0, &packet);
    let mut hops = 0;
    while matches!(report.reason, Some(Reason::Absorbed(_))) {
        assert!(hops < 1000, "the loop ends");
        change(&mut packet);
        report = host.inject(&Injection {
            mark: InjectionMark(hops),
            hops: u32::try_from(hops).expect("few"),
            ..injection(point, &packet)
        });
        hops += 1;
    }
    (host, report)
}

#[test]
fn a_packet_that_two_drivers_inject_in_turn_is_dropped_and_counted() {
    let (mut host, report) = exchange(InjectionPoint::NetworkSend, |_| {});
    assert_eq!(report.reason, Some(Reason::InjectionLoop));
    assert_eq!(host.counters().injection_loops, 1);
    assert_eq!(host.settled(), [(report.id, false)]);
}

#[test]
fn a_loop_is_found_even_if_each_driver_changes_the_packet() {
    // The identification: the stack does not know it again.
    let (host, report) = exchange(InjectionPoint::NetworkSend, |packet| {
        packet[5] = packet[5].wrapping_add(1);
    });
    assert_eq!(report.reason, Some(Reason::InjectionLoop));
    assert_eq!(host.counters().injection_loops, 1);
}
