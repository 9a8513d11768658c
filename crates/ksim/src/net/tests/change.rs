//! Pended binds, listens and closures; changes of interfaces and power.

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, LayerKind};

use super::build::{Dialogue, SYN, ip, socket, udp};
use super::recorder::{Recorder, SECOND, host, host_that, host_with};
use crate::net::{Arrival, Completion, Host, Interface, Outcome, Reason};

#[test]
fn a_pended_bind_or_listen_is_classified_again_and_lets_its_packet_go_on() {
    for (kind, (client, server), next) in [
        (
            LayerKind::AleResourceAssignment,
            ("10.0.0.1:50000", "192.0.2.1:443"),
            "ALE_AUTH_CONNECT",
        ),
        (
            LayerKind::AleResourceAssignment,
            ("192.0.2.1:50000", "10.0.0.1:80"),
            "ALE_AUTH_RECV_ACCEPT",
        ),
        (
            LayerKind::AleAuthListen,
            ("192.0.2.1:50000", "10.0.0.1:80"),
            "ALE_AUTH_RECV_ACCEPT",
        ),
    ] {
        for permitted in [true, false] {
            let mut host = host_that(kind, Outcome::Pend);
            let mut talk = Dialogue::new(client, server);
            let report = host.packet(0, &talk.segment(true, SYN, &[]));
            assert_eq!(report.reason, Some(Reason::AwaitsAuthorization));
            assert_eq!(host.filtering().count(next), 0);
            let pended = host.filtering().last(kind.name()).clone();
            assert_eq!(pended.fields["FLAGS"], 0);
            host.filtering().answers.clear();
            if !permitted {
                host.filtering().answers.insert(kind, Outcome::Block);
            }
            assert!(host.complete(0, pended.completion_handle));
            let again = host.filtering().last(kind.name()).clone();
            let flag = u64::from(ConditionFlags::IS_RECLASSIFY.bits());
            assert_eq!(again.fields["FLAGS"], flag);
            assert_eq!(again.endpoint_handle, pended.endpoint_handle);
            assert_eq!(again.completion_handle, 0, "not twice");
            assert_eq!(host.filtering().count(kind.name()), 2);
            assert_eq!(host.filtering().count(next), usize::from(permitted));
            assert_eq!(host.settled(), [(report.id, permitted)]);
            host.finish();
            assert!(host.filtering().live.is_empty());
            assert_eq!(host.filtering().count("ALE_RESOURCE_RELEASE"), 1);
        }
    }
}

#[test]
fn the_flag_of_a_completed_bind_is_an_option() {
    let mut recorder = Recorder::default();
    recorder.options.completed_bind_flag = ConditionFlags::IS_REAUTHORIZE;
    recorder
        .answers
        .insert(LayerKind::AleResourceAssignment, Outcome::Pend);
    let mut host = host_with(recorder);
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    host.packet(0, &talk.segment(true, SYN, &[]));
    let pended = host
        .filtering()
        .last("ALE_RESOURCE_ASSIGNMENT")
        .completion_handle;
    host.complete(0, pended);
    let again = host.filtering().last("ALE_RESOURCE_ASSIGNMENT");
    let flag = u64::from(ConditionFlags::IS_REAUTHORIZE.bits());
    assert_eq!(again.fields["FLAGS"], flag);
}

#[test]
fn a_pended_closure_keeps_the_flow_until_it_is_completed() {
    for completion in [Completion::Permit, Completion::Again] {
        let mut host = host_that(LayerKind::AleEndpointClosure, Outcome::Pend);
        let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
        let packets = [talk.handshake(), talk.close()].concat();
        for packet in packets {
            assert!(host.packet(0, &packet).passed);
        }
        assert_eq!(host.filtering().live.len(), 1);
        assert_eq!(host.filtering().count("ALE_RESOURCE_RELEASE"), 0);
        let handle = host.filtering().last("ALE_ENDPOINT_CLOSURE").pend_handle;
        assert!(host.complete_classify(0, handle, completion, &[]));
        assert!(host.filtering().live.is_empty());
        assert_eq!(host.filtering().count("ALE_RESOURCE_RELEASE"), 1);
    }
}

fn connected() -> (Host<Recorder>, Dialogue) {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.filtering().shown.clear();
    (host, talk)
}

/// Why the connection was authorized again, if it was.
fn reason(host: &mut Host<Recorder>) -> Option<ReauthorizeReason> {
    let shown = &host.filtering().shown;
    let asked = shown.iter().find(|shown| shown.what == "ALE_AUTH_CONNECT");
    asked.map(|asked| {
        let bits = u32::try_from(asked.fields["REAUTHORIZE_REASON"]).expect("32 bits");
        ReauthorizeReason::from_bits(bits)
    })
}

#[test]
fn a_packet_on_another_interface_reauthorizes_with_that_interface() {
    let (mut host, mut talk) = connected();
    let arrival = Arrival {
        interface: Some(4),
        ..Arrival::default()
    };
    assert!(host.packet_from(0, arrival, &talk.say(false, b"x")).passed);
    assert_eq!(
        reason(&mut host),
        Some(ReauthorizeReason::NEW_ARRIVAL_INTERFACE)
    );
    let asked = host.filtering().last("ALE_AUTH_CONNECT");
    let index = u64::from(Interface::ethernet(4).index);
    assert_eq!(asked.fields["ARRIVAL_INTERFACE_INDEX"], index);
    assert!(
        !asked.fields.contains_key("NEXTHOP_INTERFACE_INDEX"),
        "unknown"
    );
    host.filtering().shown.clear();
    assert!(host.packet_from(0, arrival, &talk.say(false, b"y")).passed);
    assert_eq!(reason(&mut host), None, "it is known now");
}

#[test]
fn another_route_reauthorizes_with_the_next_hop() {
    let (mut host, mut talk) = connected();
    host.reroute(0, ip("192.0.2.1"), 6);
    host.packet(0, &talk.say(true, b"x"));
    assert_eq!(
        reason(&mut host),
        Some(ReauthorizeReason::NEW_NEXTHOP_INTERFACE)
    );
    let asked = host.filtering().last("ALE_AUTH_CONNECT");
    let index = u64::from(Interface::ethernet(6).index);
    assert_eq!(asked.fields["NEXTHOP_INTERFACE_INDEX"], index);
    assert!(
        !asked.fields.contains_key("ARRIVAL_INTERFACE_INDEX"),
        "unknown"
    );
}

#[test]
fn an_interface_in_another_profile_reauthorizes_its_flows_only() {
    let (mut host, mut talk) = connected();
    let profile = |link, profile| Interface {
        profile: Some(profile),
        ..Interface::ethernet(link)
    };
    host.set_interface(0, 9, profile(9, 2));
    host.packet(0, &talk.say(true, b"x"));
    assert_eq!(reason(&mut host), None);
    host.set_interface(0, 0, profile(0, 2));
    host.packet(0, &talk.say(true, b"y"));
    assert_eq!(reason(&mut host), Some(ReauthorizeReason::PROFILE_CROSSING));
    assert_eq!(
        host.filtering().last("ALE_AUTH_CONNECT").fields["CURRENT_PROFILE_ID"],
        2
    );
}

#[test]
fn ipsec_is_a_flag_and_its_change_a_reason() {
    let (mut host, mut talk) = connected();
    let secured = Arrival {
        ipsec: true,
        ..Arrival::default()
    };
    host.packet_from(0, secured, &talk.say(false, b"x"));
    assert_eq!(
        reason(&mut host),
        Some(ReauthorizeReason::IPSEC_PROPERTIES_CHANGED)
    );
    let flag = u64::from(ConditionFlags::IS_IPSEC_SECURED.bits());
    for layer in ["INBOUND_IPPACKET", "INBOUND_TRANSPORT", "ALE_AUTH_CONNECT"] {
        let flags = host.filtering().last(layer).fields["FLAGS"];
        assert_eq!(flags & flag, flag, "{layer}");
    }
}

#[test]
fn several_causes_are_one_reauthorization() {
    let (mut host, mut talk) = connected();
    host.reauthorize(0, ReauthorizeReason::SOCKET_PROPERTY_CHANGED);
    host.filtering().epoch += 1;
    host.packet(0, &talk.say(true, b"x"));
    let both = ReauthorizeReason::SOCKET_PROPERTY_CHANGED | ReauthorizeReason::POLICY_CHANGE;
    assert_eq!(reason(&mut host), Some(both));
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 1);
    let handle = host.flows()[0].handles[0];
    assert!(host.reauthorize_flow(handle, ReauthorizeReason::EDP_POLICY_CHANGED));
    assert!(!host.reauthorize_flow(handle + 1, ReauthorizeReason::EDP_POLICY_CHANGED));
}

#[test]
fn nothing_passes_by_an_interface_that_is_down_and_flows_outlast_it() {
    let (mut host, mut talk) = connected();
    let down = Interface {
        up: false,
        ..Interface::ethernet(0)
    };
    host.set_interface(0, 0, down);
    let data = talk.say(true, b"x");
    let report = host.packet(0, &data);
    assert_eq!(report.reason, Some(Reason::NoInterface));
    assert!(host.filtering().shown.is_empty());
    host.set_interface(0, 0, Interface::ethernet(0));
    assert!(host.packet(0, &data).passed);
    assert_eq!(host.filtering().count("FLOW_ENDED"), 0);
}

#[test]
fn a_sleeping_host_sees_nothing_and_idle_flows_end_when_it_wakes() {
    let (mut host, mut talk) = connected();
    let (here, there) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    host.packet(0, &udp(here, there, b"?"));
    host.filtering().shown.clear();
    host.sleep(SECOND);
    assert_eq!(
        host.packet(2 * SECOND, &talk.say(true, b"x")).reason,
        Some(Reason::NoInterface)
    );
    host.resume(3600 * SECOND);
    assert_eq!(
        host.filtering().count("FLOW_ENDED"),
        1,
        "the datagrams' flow"
    );
    talk.next[0] = talk.next[0].wrapping_sub(1);
    assert!(host.packet(3600 * SECOND, &talk.say(true, b"x")).passed);
    assert_eq!(host.filtering().count("STREAM"), 1);
}
