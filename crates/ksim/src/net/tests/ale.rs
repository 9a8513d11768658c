//! Blocks at each layer, reauthorization, pended operations, identities.

use wfp_schema::flags::ReauthorizeReason;
use wfp_schema::{ConditionFlags, LayerId, LayerKind, MetadataFields};

use super::build::{ACK, Dialogue, SYN, ip, socket, udp};
use super::recorder::{Recorder, Shown, host, host_that};
use crate::net::{Host, Identity, LocalSide, Outcome, Reason, Setup, Sid, StreamOutcome, nt_path};

/// A whole outgoing connection with data both ways; returns how many packets passed.
fn replay(host: &mut Host<Recorder>, talk: &mut Dialogue) -> usize {
    let mut packets = talk.handshake();
    packets.push(talk.say(true, b"request"));
    packets.push(talk.say(false, b"response"));
    packets.extend(talk.close());
    packets
        .iter()
        .filter(|packet| host.packet(0, packet).passed)
        .count()
}

#[test]
fn a_connection_that_is_refused_at_an_ale_layer_has_none_of_its_packets_pass() {
    let outgoing = ("10.0.0.1:50000", "192.0.2.1:443");
    let incoming = ("192.0.2.1:50000", "10.0.0.1:80");
    for (kind, (client, server), layer) in [
        (
            LayerKind::AleResourceAssignment,
            outgoing,
            LayerId::ALE_RESOURCE_ASSIGNMENT_V4,
        ),
        (
            LayerKind::AleAuthConnect,
            outgoing,
            LayerId::ALE_AUTH_CONNECT_V4,
        ),
        (
            LayerKind::AleAuthListen,
            incoming,
            LayerId::ALE_AUTH_LISTEN_V4,
        ),
        (
            LayerKind::AleAuthRecvAccept,
            incoming,
            LayerId::ALE_AUTH_RECV_ACCEPT_V4,
        ),
    ] {
        let mut host = host_that(kind, Outcome::Block);
        let passed = replay(&mut host, &mut Dialogue::new(client, server));
        assert_eq!(passed, 0, "{layer}");
        let flow = &host.flows()[0];
        assert_eq!(flow.blocked_at, Some(layer));
        assert_eq!(flow.packets.iter().sum::<u64>(), 8);
        assert_eq!(flow.passed, [0, 0]);
        host.finish();
        assert!(host.filtering().live.is_empty());
        assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 0);
    }
}

#[test]
fn a_block_at_flow_established_ends_the_connection_after_its_handshake() {
    let mut host = host_that(LayerKind::AleFlowEstablished, Outcome::Block);
    let passed = replay(
        &mut host,
        &mut Dialogue::new("10.0.0.1:50000", "192.0.2.1:443"),
    );
    assert_eq!(passed, 1, "the SYN was gone already");
    assert_eq!(
        host.flows()[0].blocked_at,
        Some(LayerId::ALE_FLOW_ESTABLISHED_V4)
    );
    assert!(host.filtering().live.is_empty());
    assert!(host.filtering().pieces.is_empty());
}

#[test]
fn a_block_at_a_packet_layer_stops_that_packet_and_a_syn_with_all_that_follows() {
    for (kind, layer) in [
        (LayerKind::OutboundTransport, LayerId::OUTBOUND_TRANSPORT_V4),
        (LayerKind::OutboundIpPacket, LayerId::OUTBOUND_IPPACKET_V4),
    ] {
        let mut host = host_that(kind, Outcome::Block);
        let passed = replay(
            &mut host,
            &mut Dialogue::new("10.0.0.1:50000", "192.0.2.1:443"),
        );
        assert_eq!(passed, 0);
        assert_eq!(host.flows()[0].blocked_at, Some(layer));
        assert!(host.filtering().live.is_empty());
    }
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.filtering()
        .answers
        .insert(LayerKind::InboundTransport, Outcome::Block);
    let lost = talk.say(false, b"lost");
    let report = host.packet(0, &lost);
    assert_eq!(
        report.reason,
        Some(Reason::Blocked(LayerId::INBOUND_TRANSPORT_V4))
    );
    assert!(
        host.filtering().pieces.is_empty(),
        "the connection never got it"
    );
    host.filtering().answers.clear();
    assert!(host.packet(0, &lost).passed, "sent again it is new");
    assert_eq!(host.filtering().pieces.len(), 1);
}

#[test]
fn a_peer_that_repeats_its_syn_is_asked_about_again_but_a_refused_connect_is_not() {
    let mut host = host_that(LayerKind::AleAuthRecvAccept, Outcome::Block);
    let mut talk = Dialogue::new("192.0.2.1:50000", "10.0.0.1:80");
    let syn = talk.segment(true, SYN, &[]);
    assert!(!host.packet(0, &syn).passed);
    assert!(!host.packet(0, &syn).passed);
    assert_eq!(host.filtering().count("ALE_AUTH_RECV_ACCEPT"), 2);
    host.filtering().answers.clear();
    assert!(host.packet(0, &syn).passed);

    let mut host = host_that(LayerKind::AleAuthConnect, Outcome::Block);
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    let syn = talk.segment(true, SYN, &[]);
    assert!(!host.packet(0, &syn).passed);
    host.filtering().answers.clear();
    let report = host.packet(0, &syn);
    assert_eq!(
        report.reason,
        Some(Reason::FlowBlocked(LayerId::ALE_AUTH_CONNECT_V4))
    );
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 1);
    talk.next[0] = 77_000;
    assert!(
        host.packet(0, &talk.segment(true, SYN, &[])).passed,
        "another connect() may succeed"
    );
}

#[test]
fn each_refused_datagram_asks_anew_and_its_answers_never_came() {
    let mut host = host_that(LayerKind::AleAuthConnect, Outcome::Block);
    let (client, server) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    assert!(!host.packet(0, &udp(client, server, b"?")).passed);
    let answer = host.packet(0, &udp(server, client, b"!"));
    assert_eq!(
        answer.reason,
        Some(Reason::FlowBlocked(LayerId::ALE_AUTH_CONNECT_V4))
    );
    assert!(!host.packet(0, &udp(client, server, b"?")).passed);
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 2);
    assert_eq!(host.filtering().count("INBOUND_IPPACKET"), 0);
    host.filtering().answers.clear();
    assert!(host.packet(0, &udp(client, server, b"?")).passed);
    assert!(host.packet(0, &udp(server, client, b"!")).passed);
}

#[test]
fn a_block_at_datagram_data_stops_that_datagram_only() {
    let mut host = host_that(LayerKind::DatagramData, Outcome::Block);
    let (client, server) = (socket("10.0.0.1:5000"), socket("192.0.2.1:53"));
    let report = host.packet(0, &udp(client, server, b"?"));
    assert_eq!(
        report.reason,
        Some(Reason::Blocked(LayerId::DATAGRAM_DATA_V4))
    );
    assert_eq!(host.filtering().count("OUTBOUND_TRANSPORT"), 0);
    host.filtering().answers.clear();
    assert!(host.packet(0, &udp(server, client, b"!")).passed);
    assert_eq!(host.filtering().count("FLOW_CREATED"), 1);
}

/// <https://learn.microsoft.com/windows/win32/fwp/filtering-conditions-available-at-each-filtering-layer>
#[test]
fn a_change_of_the_network_profile_reauthorizes_a_flow_by_its_next_packet() {
    let mut host = host();
    host.set_profile(1);
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    let asked = host.filtering().last("ALE_AUTH_CONNECT");
    let profiles = |shown: &Shown| {
        ["ORIGINAL_PROFILE_ID", "CURRENT_PROFILE_ID"].map(|field| shown.fields[field])
    };
    assert_eq!(profiles(asked), [1, 1]);
    host.set_profile(3);
    host.filtering().take();
    assert!(host.packet(0, &talk.say(true, b"data")).passed);
    let again = host.filtering().last("ALE_AUTH_CONNECT");
    assert_eq!(profiles(again), [1, 3]);
    assert_eq!(
        again.fields["REAUTHORIZE_REASON"],
        u64::from(ReauthorizeReason::PROFILE_CROSSING.bits())
    );
    host.filtering().take();
    assert!(host.packet(0, &talk.say(true, b"more")).passed);
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 0, "asked once");
}

#[test]
fn changed_filters_reauthorize_a_flow_by_its_next_packet_in_either_direction() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    host.filtering().epoch += 1;
    host.filtering().take();
    assert!(host.packet(0, &talk.say(false, b"data")).passed);
    let again = host.filtering().last("ALE_AUTH_CONNECT");
    assert_eq!(
        again.fields["FLAGS"],
        u64::from(ConditionFlags::IS_REAUTHORIZE.bits())
    );
    assert_eq!(
        again.fields["REAUTHORIZE_REASON"],
        u64::from(ReauthorizeReason::POLICY_CHANGE.bits())
    );
    assert!(again.present.contains(MetadataFields::PACKET_DIRECTION));
    assert!(
        !again.present.contains(MetadataFields::COMPLETION_HANDLE),
        "it can't be pended"
    );
    assert_eq!(
        host.filtering().take(),
        [
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "ALE_AUTH_CONNECT",
            "STREAM"
        ]
    );
    host.packet(0, &talk.say(true, b"more"));
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 0);
    host.filtering().epoch += 1;
    host.filtering()
        .answers
        .insert(LayerKind::AleAuthConnect, Outcome::Block);
    assert!(!host.packet(0, &talk.say(true, b"refused")).passed);
    assert!(host.filtering().live.is_empty(), "the flow is torn down");
    assert!(!host.packet(0, &talk.say(false, b"late")).passed);
}

#[test]
fn a_pended_connect_is_reauthorized_on_completion_and_its_syn_goes_out() {
    for (verdict, passes) in [(Outcome::Permit, true), (Outcome::Block, false)] {
        let mut host = host_that(LayerKind::AleAuthConnect, Outcome::Pend);
        let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
        let report = host.packet(0, &talk.segment(true, SYN, &[]));
        assert_eq!(report.reason, Some(Reason::AwaitsAuthorization));
        let handle = host.filtering().last("ALE_AUTH_CONNECT").completion_handle;
        host.filtering().take();
        host.filtering()
            .answers
            .insert(LayerKind::AleAuthConnect, verdict);
        assert!(host.complete(1, handle));
        assert!(!host.complete(1, handle), "once");
        assert_eq!(host.settled(), [(report.id, passes)]);
        let asked = host.filtering().last("ALE_AUTH_CONNECT");
        assert_eq!(
            asked.fields["REAUTHORIZE_REASON"],
            u64::from(ReauthorizeReason::CLASSIFY_COMPLETION.bits())
        );
        assert_eq!(
            host.filtering().count("OUTBOUND_IPPACKET"),
            usize::from(passes)
        );
        assert_eq!(
            host.packet(1, &talk.segment(false, SYN | ACK, &[])).passed,
            passes
        );
        assert_eq!(
            host.filtering().count("ALE_FLOW_ESTABLISHED"),
            usize::from(passes)
        );
    }
}

#[test]
fn a_connection_joined_in_the_middle_is_authorized_by_its_first_packet() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    host.packet(0, &talk.say(false, b"response"));
    assert_eq!(
        host.filtering().take(),
        [
            "ALE_RESOURCE_ASSIGNMENT",
            "INBOUND_IPPACKET",
            "INBOUND_TRANSPORT",
            "FLOW_CREATED",
            "ALE_AUTH_CONNECT",
            "ALE_FLOW_ESTABLISHED",
            "STREAM"
        ]
    );
    assert_eq!(host.counters().joined_midway, 1);
    let mut talk = Dialogue::new("10.0.0.1:50001", "192.0.2.1:443");
    host.packet(0, &talk.segment(false, SYN | ACK, &[]));
    assert_eq!(
        host.filtering().count("ALE_AUTH_CONNECT"),
        1,
        "who answers was asked"
    );
}

#[test]
fn the_owner_of_an_endpoint_is_shown_as_windows_shows_it() {
    let mut setup = Setup::default();
    setup.local.insert(ip("10.0.0.1"));
    let user: Sid = "S-1-5-21-1-2-3-1001".parse().expect("a SID");
    let browser = Identity::new("C:\\Program Files\\Browser\\Browser.exe", 4711, user);
    setup.processes.assign(socket("10.0.0.1:50000"), browser);
    let mut host = Host::new(Recorder::default(), setup);
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    host.packet(0, &talk.segment(true, SYN, &[]));
    let path = "\\device\\harddiskvolume3\\program files\\browser\\browser.exe";
    assert_eq!(host.filtering().last("ALE_AUTH_CONNECT").application, path);
    let identity = host.flows()[0].identity;
    let identity = host.processes().identity(identity);
    assert_eq!(identity.process_id(), 4711);
    assert_eq!(
        identity.application_id().len(),
        2 * (path.len() + 1),
        "UTF-16 with its zero"
    );
    assert_eq!(identity.user()[..8], [1, 5, 0, 0, 0, 0, 0, 5]);
    assert_eq!(
        nt_path("d:/Tools/x.EXE"),
        "\\device\\harddiskvolume4\\tools\\x.exe"
    );
    assert_eq!(nt_path("System"), "System");
    for bad in [
        "",
        "S-1",
        "S-2-5-18",
        "S-1-5",
        "S-1-x-18",
        "S-1-5-4294967296",
    ] {
        assert!(bad.parse::<Sid>().is_err(), "{bad}");
    }
}

#[test]
fn a_port_that_is_used_again_is_a_new_data_flow_of_the_same_report() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    assert_eq!(replay(&mut host, &mut talk), 8);
    talk.next = [5_000_000, 6_000_000];
    assert_eq!(replay(&mut host, &mut talk), 8);
    assert_eq!(host.flows().len(), 1);
    assert_eq!(host.flows()[0].packets, [10, 6]);
    assert_eq!(host.flows()[0].handles.len(), 2);
    assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 2);
    assert_eq!(host.filtering().count("ALE_ENDPOINT_CLOSURE"), 2);
}

#[test]
fn a_flow_between_others_passes_unseen() {
    let mut host = host();
    let report = host.packet(0, &udp(socket("192.0.2.1:1"), socket("192.0.2.2:2"), b"x"));
    assert!(report.passed);
    assert_eq!(report.reason, Some(Reason::Foreign));
    assert!(host.flows().is_empty());
    assert!(host.filtering().shown.is_empty());
}

#[test]
fn a_multicast_group_is_a_local_end_unless_the_sender_is() {
    let mut host = host();
    let group = socket("224.0.0.251:5353");
    host.packet(0, &udp(socket("192.0.2.1:5353"), group, b"x"));
    let asked = host.filtering().last("ALE_AUTH_RECV_ACCEPT");
    assert_eq!(asked.fields["IP_LOCAL_ADDRESS"], 0xe000_00fb);
    assert_eq!(asked.fields["IP_LOCAL_ADDRESS_TYPE"], 3);
    host.packet(0, &udp(socket("10.0.0.1:5353"), group, b"x"));
    let asked = host.filtering().last("ALE_AUTH_CONNECT");
    assert_eq!(asked.fields["IP_LOCAL_ADDRESS"], 0x0a00_0001);
    assert_eq!(asked.fields["IP_DESTINATION_ADDRESS_TYPE"], 3);
}

#[test]
fn an_aborted_flow_is_over() {
    let mut host = host();
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        host.packet(0, &packet);
    }
    let handle = host.flows()[0].handles[0];
    assert!(host.abort(handle));
    assert!(!host.abort(handle));
    assert!(host.filtering().live.is_empty());
    assert!(!host.packet(0, &talk.say(false, b"late")).passed);
}

#[test]
fn two_hosts_of_one_engine_never_give_the_same_handle() {
    let endpoint = |shard| {
        let mut local = LocalSide::default();
        local.insert(ip("10.0.0.1"));
        let mut host = Host::new(
            Recorder::default(),
            Setup {
                local,
                shard,
                ..Setup::default()
            },
        );
        host.packet(
            0,
            &udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"?"),
        );
        host.filtering().last("ALE_AUTH_CONNECT").endpoint_handle
    };
    assert_ne!(endpoint(0), endpoint(1));
}

#[test]
fn a_callout_that_drops_the_connection_ends_it_with_all_later_packets() {
    let mut host = host();
    host.filtering().stream =
        Box::new(|_| StreamOutcome::action(wfp_schema::StreamAction::DropConnection));
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    for packet in talk.handshake() {
        assert!(host.packet(0, &packet).passed);
    }
    let report = host.packet(0, &talk.say(true, b"forbidden"));
    assert_eq!(report.reason, Some(Reason::Blocked(LayerId::STREAM_V4)));
    assert!(host.filtering().live.is_empty());
    let later = [
        talk.say(true, b"forbidden"),
        talk.say(false, b"x"),
        talk.segment(true, ACK, &[]),
    ];
    for packet in later {
        let report = host.packet(0, &packet);
        assert_eq!(report.reason, Some(Reason::FlowBlocked(LayerId::STREAM_V4)));
    }
    assert_eq!(host.filtering().pieces.len(), 1);
    assert_eq!(host.flows()[0].passed, [2, 1]);
}
