//! Redirected connections and binds.

use wfp_schema::codes::ConnectionRedirectState as State;
use wfp_schema::{ConditionFlags, LayerKind, MetadataFields};

use super::build::{ACK, Dialogue, SYN, socket, udp};
use super::recorder::{Recorder, setup};
use crate::net::{
    Completion, End, Host, Outcome, Output, Packet, Reason, Redirection, Request, Setup,
};

fn end(text: &str) -> End {
    let socket = socket(text);
    End {
        address: socket.ip(),
        port: socket.port(),
    }
}

/// A host one of whose redirect layers answers so.
fn redirecting(
    at: LayerKind,
    mut change: impl FnMut(&mut Redirection) -> Outcome + 'static,
) -> Host<Recorder> {
    let mut host = Host::new(
        Recorder::of_everything(),
        Setup {
            output: true,
            ..setup()
        },
    );
    host.filtering().redirector = Some(Box::new(move |kind, redirection| {
        if kind == at {
            change(redirection)
        } else {
            Outcome::Permit
        }
    }));
    host
}

fn to(redirection: &mut Redirection, remote: &str, handle: u64, target_process: u32) {
    redirection.apply(Request {
        remote: end(remote),
        redirect_handle: handle,
        target_process,
        context: handle * 10,
        modifier_filter: 5,
        ..*redirection.current()
    });
}

/// Packets that went out, by their destinations.
fn sent(host: &mut Host<Recorder>) -> Vec<String> {
    host.output()
        .iter()
        .filter_map(|output| match output {
            Output::Sent(bytes) => Some(Packet::parse(bytes).expect("a packet").destination_port),
            _ => None,
        })
        .map(|port| port.to_string())
        .collect()
}

#[test]
fn a_redirected_connection_goes_to_its_new_destination() {
    for (client, server, proxy) in [
        ("10.0.0.1:50000", "192.0.2.1:443", "192.0.2.9:8443"),
        ("[fd00::1]:50000", "[2001:db8::1]:443", "[2001:db8::9]:8443"),
    ] {
        let mut host = redirecting(LayerKind::AleConnectRedirect, move |redirection| {
            to(redirection, proxy, 1, 0);
            Outcome::Permit
        });
        // The application knows the server only.
        let mut talk = Dialogue::new(client, server);
        assert!(host.packet(0, &talk.segment(true, SYN, &[])).passed);
        assert_eq!(sent(&mut host), ["8443"]);
        let asked = host.filtering().last("ALE_AUTH_CONNECT").clone();
        assert_eq!(asked.fields["IP_REMOTE_PORT"], 8443);
        let redirected = u64::from(ConditionFlags::IS_CONNECTION_REDIRECTED.bits());
        assert_eq!(asked.fields["FLAGS"], redirected);
        assert!(asked.present.contains(MetadataFields::ORIGINAL_DESTINATION));
        let redirection = asked.redirection.expect("records");
        assert_eq!(redirection.original().remote, end(server));
        // The wire knows the proxy.
        let mut wire = Dialogue::new(client, proxy);
        wire.next = talk.next;
        assert!(host.packet(0, &wire.segment(false, SYN | ACK, &[])).passed);
        assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
        wire.next[0] = talk.next[0];
        assert!(host.packet(0, &wire.segment(true, ACK, &[])).passed);
        assert!(host.packet(0, &wire.say(false, b"data")).passed);
        assert_eq!(
            host.filtering().last("STREAM").fields["IP_REMOTE_PORT"],
            8443
        );
        assert_eq!(host.flows().len(), 1);
        for packet in wire.close() {
            host.packet(0, &packet);
        }
        assert!(host.filtering().live.is_empty());
        assert_eq!(
            host.filtering().last("ALE_ENDPOINT_CLOSURE").fields["IP_REMOTE_PORT"],
            8443
        );
    }
}

#[test]
fn a_dual_mode_sockets_connection_is_redirected_by_its_mapped_address() {
    use wfp_engine::DualModeLayer::{V4, V6Mapped, V6Redirect};

    for (layers, shown, to_v4, to_v6) in [
        (V4, "192.0.2.1:443", "192.0.2.9:8443", None),
        (
            V6Mapped,
            "[::ffff:192.0.2.1]:443",
            "[::ffff:192.0.2.9]:8443",
            Some("[2001:db8::9]:8443"),
        ),
        (
            V6Redirect,
            "[::ffff:192.0.2.1]:443",
            "[::ffff:192.0.2.9]:8443",
            Some("[2001:db8::9]:8443"),
        ),
    ] {
        for (proxy, port) in [(Some(to_v4), "8443"), (to_v6, "443")] {
            let Some(proxy) = proxy else { continue };
            let mut recorder = Recorder::of_everything();
            recorder.options.dual_mode_layer = layers;
            recorder.redirector = Some(Box::new(move |kind, redirection| {
                if kind == LayerKind::AleConnectRedirect {
                    assert_eq!(redirection.original().remote, end(shown), "{layers:?}");
                    to(redirection, proxy, 1, 0);
                }
                Outcome::Permit
            }));
            let dual = Setup {
                output: true,
                dual_mode: true,
                ..setup()
            };
            let mut host = Host::new(recorder, dual);
            let packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:443"), b"?");
            assert!(host.packet(0, &packet).passed);
            // What is asked to go to another IP version goes where it was to go.
            assert_eq!(sent(&mut host), [port], "{layers:?} {proxy}");
        }
    }
}

#[test]
fn the_checksums_of_a_rewritten_packet_are_right() {
    let mut host = redirecting(LayerKind::AleConnectRedirect, |redirection| {
        to(redirection, "192.0.2.99:5353", 1, 0);
        Outcome::Permit
    });
    let mut packet = udp(socket("10.0.0.1:5000"), socket("192.0.2.1:53"), b"question");
    let sum = |bytes: &[u8], start: u32| {
        let mut sum: u32 = start
            + bytes
                .chunks(2)
                .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)))
                .sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    };
    let pseudo = |packet: &[u8]| {
        let ends = u32::from(!sum(&packet[12..20], 0));
        let length = u32::try_from(packet.len() - 20).expect("short");
        ends + 17 + length
    };
    let header = sum(&packet[..20], 0).to_be_bytes();
    packet[10..12].copy_from_slice(&header);
    let body = sum(&packet[20..], pseudo(&packet)).to_be_bytes();
    packet[26..28].copy_from_slice(&body);
    host.packet(0, &packet);
    let output = host.output();
    let [Output::Sent(sent)] = &output[..] else {
        panic!("{output:?}");
    };
    assert_ne!(sent, &packet);
    assert_eq!(sum(&sent[..20], 0), 0);
    assert_eq!(sum(&sent[20..], pseudo(sent)), 0);
}

#[test]
fn a_local_proxy_accepts_what_was_redirected_to_it_and_reads_the_records() {
    let mut host = redirecting(LayerKind::AleConnectRedirect, |redirection| {
        if redirection.is_proxied() {
            return Outcome::Permit;
        }
        to(redirection, "127.0.0.1:8443", 77, 4711);
        Outcome::Permit
    });
    let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
    assert!(host.packet(0, &talk.segment(true, SYN, &[])).passed);
    let honoring = u64::from(ConditionFlags::IS_HONORING_POLICY_AUTHORIZE.bits());
    let asked: Vec<_> = host
        .filtering()
        .shown
        .iter()
        .filter(|shown| shown.what == "ALE_AUTH_CONNECT")
        .cloned()
        .collect();
    assert_eq!(
        asked.len(),
        2,
        "for where it was to go, and for where it goes"
    );
    assert_eq!(asked[0].fields["IP_REMOTE_PORT"], 443);
    assert_eq!(asked[0].fields["FLAGS"], honoring);
    assert_eq!(asked[1].fields["IP_REMOTE_PORT"], 8443);
    assert!(
        asked[1]
            .present
            .contains(MetadataFields::LOCAL_REDIRECT_TARGET_PID)
    );
    let accept = host.filtering().last("ALE_AUTH_RECV_ACCEPT").clone();
    assert_eq!(accept.fields["IP_LOCAL_PORT"], 8443);
    assert_eq!(accept.fields["IP_REMOTE_PORT"], 50000);
    assert!(sent(&mut host).is_empty(), "nothing leaves the host");
    // The proxy answers.
    let mut proxy = Dialogue::new("10.0.0.1:50000", "127.0.0.1:8443");
    proxy.next = talk.next;
    assert!(host.packet(0, &proxy.segment(false, SYN | ACK, &[])).passed);
    assert_eq!(host.filtering().count("ALE_FLOW_ESTABLISHED"), 1);
    // It connects on behalf of the client.
    let records = host
        .redirect_records(accept.flow_handle)
        .expect("records")
        .clone();
    assert_eq!(records.original().remote, end("192.0.2.1:443"));
    let own = "10.0.0.1:60000";
    host.set_redirect_records(6, end(own), records);
    let mut onward = Dialogue::new(own, "192.0.2.1:443");
    assert!(host.packet(0, &onward.segment(true, SYN, &[])).passed);
    let shown = host.filtering().last("ALE_CONNECT_REDIRECT").clone();
    let records = shown
        .redirection
        .expect("records of the client's connection");
    assert_eq!(records.state(77), (State::RedirectedBySelf, Some(770)));
    assert_eq!(records.state(78), (State::RedirectedByOther, None));
    let proxied = u64::from(ConditionFlags::IS_PROXY_CONNECTION.bits());
    let asked = host.filtering().last("ALE_AUTH_CONNECT");
    assert_eq!(asked.fields["FLAGS"] & proxied, proxied);
    assert_eq!(sent(&mut host), ["443"]);
}

#[test]
fn each_of_several_redirectors_is_known_by_its_handle() {
    let mut redirection = Redirection::new(Request::of(end("10.0.0.1:1"), end("192.0.2.1:2")));
    assert_eq!(redirection.state(1), (State::NotRedirected, None));
    to(&mut redirection, "192.0.2.8:8", 1, 0);
    assert_eq!(redirection.state(1), (State::RedirectedBySelf, Some(10)));
    to(&mut redirection, "192.0.2.9:9", 2, 0);
    assert_eq!(
        redirection.state(1),
        (State::PreviouslyRedirectedBySelf, Some(10))
    );
    assert_eq!(redirection.state(2), (State::RedirectedBySelf, Some(20)));
    assert_eq!(redirection.state(3), (State::RedirectedByOther, None));
    let mut onward = Redirection::on_behalf(*redirection.original(), &redirection);
    assert_eq!(onward.state(2), (State::RedirectedBySelf, Some(20)));
    assert!(!onward.is_redirected());
    to(&mut onward, "192.0.2.7:7", 3, 0);
    assert_eq!(
        onward.state(2),
        (State::PreviouslyRedirectedBySelf, Some(20))
    );
}

#[test]
fn a_redirected_bind_moves_the_socket_for_its_life() {
    for protocol in [6, 17] {
        let mut host = redirecting(LayerKind::AleBindRedirect, |redirection| {
            redirection.apply(Request {
                local: end("10.0.0.1:7000"),
                ..*redirection.current()
            });
            Outcome::Permit
        });
        let packet = if protocol == 6 {
            Dialogue::new("10.0.0.1:50000", "192.0.2.1:443").segment(true, SYN, &[])
        } else {
            udp(socket("10.0.0.1:50000"), socket("192.0.2.1:443"), b"?")
        };
        assert!(host.packet(0, &packet).passed);
        let bind = host.filtering().last("ALE_RESOURCE_ASSIGNMENT");
        assert_eq!(bind.fields["IP_LOCAL_PORT"], 7000);
        let asked = host.filtering().last("ALE_AUTH_CONNECT");
        assert_eq!(asked.fields["IP_LOCAL_PORT"], 7000);
        let output = host.output();
        let [Output::Sent(sent)] = &output[..] else {
            panic!("{output:?}");
        };
        assert_eq!(Packet::parse(sent).expect("a packet").source_port, 7000);
    }
}

#[test]
fn a_pended_redirect_goes_on_as_it_is_completed() {
    for (completion, port) in [
        (Completion::Permit, Some("8443")),
        (Completion::Again, Some("443")),
        (Completion::Block, None),
    ] {
        let mut pend = true;
        let mut host = redirecting(LayerKind::AleConnectRedirect, move |_| {
            if std::mem::take(&mut pend) {
                Outcome::Pend
            } else {
                Outcome::Permit
            }
        });
        let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
        let report = host.packet(0, &talk.segment(true, SYN, &[]));
        assert_eq!(report.reason, Some(Reason::AwaitsAuthorization));
        assert_eq!(host.filtering().count("ALE_AUTH_CONNECT"), 0);
        let handle = host.filtering().last("ALE_CONNECT_REDIRECT").pend_handle;
        let elsewhere = Request {
            remote: end("192.0.2.9:8443"),
            ..Request::of(end("10.0.0.1:50000"), end("192.0.2.1:443"))
        };
        let changes = if completion == Completion::Permit {
            vec![elsewhere]
        } else {
            Vec::new()
        };
        assert!(host.complete_classify(0, handle, completion, &changes));
        assert!(!host.complete_classify(0, handle, completion, &[]), "once");
        assert_eq!(host.settled(), [(report.id, port.is_some())]);
        assert_eq!(sent(&mut host), Vec::from_iter(port));
        let asked = host.filtering().count("ALE_CONNECT_REDIRECT");
        assert_eq!(
            asked,
            if completion == Completion::Again {
                2
            } else {
                1
            }
        );
        host.finish();
        assert!(host.filtering().live.is_empty());
    }
}
