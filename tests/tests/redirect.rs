//! Connections are sent to a proxy, and decided by where they were to go.

use std::net::{IpAddr, SocketAddr};

use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::policy::Action;
use portcullis_proto::redirect::RedirectContext;
use portcullis_proto::{CalloutKind, Counter, Family};
use portcullis_tests::packets::SYN;
use portcullis_tests::proxy::{
    CASES, Case, POLICY, PROXY, TCP, UDP, dual_mode_world, proxy_program, with_proxy, world,
};
use portcullis_tests::{Product, Tcp, World, udp};
use wfp_engine::DualModeLayer;
use wfp_schema::{Action as FilterAction, FilterFlags, IpVersion, Layer, LayerKind, NtStatus};

fn address(family: u8, octets: [u8; 16]) -> IpAddr {
    if family == Family::V4.raw() {
        IpAddr::from(*octets.first_chunk::<4>().expect("long enough"))
    } else {
        octets.into()
    }
}

fn remote(event: &EventRecord) -> SocketAddr {
    SocketAddr::new(
        address(event.family, event.remote_address),
        event.remote_port.get(),
    )
}

fn target(event: &EventRecord) -> Option<SocketAddr> {
    let port = event.target_port.get();
    (port != 0).then(|| SocketAddr::new(address(event.family, event.target_address), port))
}

/// The only event of this kind, and for an authorization, of this operation.
fn only(events: &[EventRecord], kind: EventKind, operation: Option<Operation>) -> EventRecord {
    let found: Vec<_> = events
        .iter()
        .filter(|event| {
            event.kind == kind.raw()
                && operation.is_none_or(|operation| event.operation == operation.raw())
        })
        .collect();
    assert_eq!(found.len(), 1, "{kind}: {events:?}");
    *found[0]
}

#[test]
fn a_connection_is_sent_to_the_proxy_which_learns_where_it_was_to_go() {
    for case in CASES {
        is_sent_to_the_proxy(world(POLICY), &case, case.family());
    }
}

#[test]
fn an_ipv4_connection_of_a_dual_mode_socket_is_one_whichever_layers_show_it() {
    for (layers, redirected_at) in [
        (DualModeLayer::V4, Family::V4),
        (DualModeLayer::V6Mapped, Family::V6),
        (DualModeLayer::V6Redirect, Family::V6),
    ] {
        for case in CASES {
            let world = dual_mode_world(layers, POLICY);
            let at = match case.family() {
                Family::V4 => redirected_at,
                Family::V6 => Family::V6,
            };
            is_sent_to_the_proxy(world, &case, at);
        }
    }
}

/// The connection, whose redirection the callout of this version sees.
fn is_sent_to_the_proxy(mut world: World, case: &Case, redirected_at: Family) {
    let proxy = with_proxy(&world);
    assert!(world.net.passes(case.first(0)), "{case:?}");
    let events = world.events();
    let redirected = only(&events, EventKind::Redirected, None);
    assert_eq!(remote(&redirected), case.server());
    assert_eq!(target(&redirected), case.proxy.parse().ok());
    assert_eq!(redirected.value[0].get(), u64::from(PROXY));
    assert_eq!(redirected.process_id.get(), 600);
    // It is authorized as what it is, not as what it was made.
    let connects: Vec<_> = events
        .iter()
        .filter(|event| event.operation == Operation::Connect.raw())
        .collect();
    assert_eq!(
        connects.len(),
        2,
        "for where it was to go, then for the way there"
    );
    for event in &connects {
        assert_eq!(remote(event), case.server(), "{case:?}");
        assert_eq!(
            (event.verdict, event.rule()),
            (Action::Permit.raw(), Some(0))
        );
    }
    assert_eq!(target(connects[0]), None);
    assert_eq!(target(connects[1]), case.proxy.parse().ok());
    // The proxy accepts it, and asks its socket.
    let accept = only(&events, EventKind::Authorize, Some(Operation::Accept));
    let records = world.net.redirection(accept.flow.get()).expect("records");
    let told = world.kernel.redirect_context(&records).expect("a context");
    let told = RedirectContext::read(&told).expect("one of ours");
    assert_eq!(told.remote(), case.server());
    assert_eq!(told.local(), case.client.parse().expect("an address"));
    assert_eq!((told.protocol, told.process_id.get()), (case.protocol, 600));
    assert_eq!((told.rule.get(), told.epoch.get()), (0, 1));
    // It goes on by itself, and is not sent to itself.
    let own = match case.family() {
        Family::V4 => "192.0.2.10:60000",
        Family::V6 => "[2001:db8::10]:60000",
    };
    world.net.serve(
        case.protocol,
        own.parse().expect("an address"),
        records.clone(),
    );
    let onward = if case.protocol == TCP {
        Tcp::new(own, case.server).segment(true, SYN, &[])
    } else {
        udp(own, case.server, b"question")
    };
    assert!(world.net.passes(onward));
    let onward = only(&world.events(), EventKind::Authorize, None);
    assert_eq!((target(&onward), onward.rule()), (None, Some(1)));
    assert_eq!(world.counter(Counter::Redirected), 1);
    assert_eq!(world.counter(Counter::ProxyMissing), 0);
    assert_eq!(
        world
            .callout(CalloutKind::ConnectRedirect, redirected_at)
            .permit
            .get(),
        1
    );
    // What the proxy was told is the system's, and goes with the connection.
    world.net.finish();
    assert_eq!(world.kernel.redirect_context(&records), None);
    proxy.close();
    world.end();
}

#[test]
fn a_flow_that_was_redirected_is_followed_by_where_it_was_to_go() {
    for case in CASES.into_iter().filter(|case| case.protocol == TCP) {
        let mut world = world(POLICY);
        let proxy = with_proxy(&world);
        let mut talk = Tcp::new(case.client, case.server);
        assert!(world.net.passes(talk.segment(true, SYN, &[])));
        // The proxy answers: its packets come from where it listens.
        let mut there = talk.at(case.proxy);
        let answer = there.handshake_rest();
        assert!(world.net.all_pass(&answer), "{case:?}");
        assert!(world.net.passes(there.client_says(b"hello")));
        drop(world.events());
        // The policy changes: where it was to go is not allowed any more, the proxy is.
        world.set_policy(&format!(
            "default = 'permit'\n[[rule]]\naction = 'block'\nremote_address = '{}'",
            case.server().ip()
        ));
        assert!(!world.net.passes(there.client_says(b"more")), "{case:?}");
        world.net.finish();
        let closed: Vec<_> = world
            .events()
            .into_iter()
            .filter(|event| event.kind == EventKind::FlowClosed.raw())
            .collect();
        assert!(
            closed.iter().any(|event| remote(event) == case.server()),
            "{case:?}"
        );
        proxy.close();
        world.end();
    }
}

/// The ways to show a dual-mode socket's IPv4 traffic to ALE.
const LAYERS: [DualModeLayer; 3] = [
    DualModeLayer::V4,
    DualModeLayer::V6Mapped,
    DualModeLayer::V6Redirect,
];

#[test]
fn the_data_of_a_dual_mode_sockets_connection_are_seen_and_decided() {
    for layers in LAYERS {
        // Without a proxy in between, so that what is sent is looked at.
        let mut world = dual_mode_world(
            layers,
            "default = 'permit'\n[[rule]]\naction = 'block'\nremote_address = '198.51.100.0/24'\ncontent = ['secret']",
        );
        let mut talk = Tcp::new(CASES[0].client, CASES[0].server);
        assert!(world.net.all_pass(&talk.handshake()), "{layers:?}");
        assert!(world.net.passes(talk.client_says(b"hello")), "{layers:?}");
        assert!(!world.net.passes(talk.client_says(b"secret")), "{layers:?}");
        assert!(
            !world
                .net
                .passes(udp(CASES[2].client, CASES[2].server, b"secret")),
            "{layers:?}"
        );
        world.net.finish();
        let events = world.events();
        let closed: Vec<_> = events
            .iter()
            .filter(|event| event.kind == EventKind::FlowClosed.raw())
            .collect();
        assert_eq!(closed.len(), 2, "{layers:?}: {events:?}");
        for event in closed {
            assert!(remote(event).is_ipv4(), "{layers:?}: {event:?}");
            assert_ne!(event.bytes_sent.get(), 0, "{layers:?}: {event:?}");
        }
        assert_eq!(world.counter(Counter::StreamsDropped), 1, "{layers:?}");
        assert_eq!(world.counter(Counter::DatagramsBlocked), 1, "{layers:?}");
        world.end();
    }
}

#[test]
fn a_dual_mode_sockets_connection_is_authorized_again_when_the_policy_changes() {
    for layers in LAYERS {
        for case in CASES {
            let mut world = dual_mode_world(layers, POLICY);
            let proxy = with_proxy(&world);
            let mut talk = Tcp::new(case.client, case.server);
            let next = if case.protocol == TCP {
                assert!(world.net.passes(talk.segment(true, SYN, &[])));
                let mut there = talk.at(case.proxy);
                assert!(world.net.all_pass(&there.handshake_rest()));
                there.client_says(b"data")
            } else {
                assert!(world.net.passes(case.first(0)));
                case.first(0)
            };
            drop(world.events());
            world.set_policy(&format!(
                "default = 'permit'\n[[rule]]\naction = 'block'\nremote_address = '{}'",
                case.server().ip()
            ));
            assert!(!world.net.passes(next), "{layers:?} {case:?}");
            proxy.close();
            world.end();
        }
    }
}

#[test]
fn a_dual_mode_sockets_first_datagram_waits_and_is_sent_as_what_it_is() {
    for layers in LAYERS {
        let mut world = dual_mode_world(
            layers,
            "default = 'permit'\n[[rule]]\naction = 'ask'\nprotocol = 'udp'",
        );
        assert!(world.device().questions().is_empty());
        let packet = udp(CASES[2].client, CASES[2].server, b"question");
        assert!(!world.net.passes(&packet), "{layers:?}");
        let mut questions = world.device().questions();
        let question = questions.pop().expect("a question");
        assert!(remote(&question).is_ipv4(), "{layers:?}: {question:?}");
        assert!(world.device().reply(&question, Action::Permit));
        let settled = world.net.settle();
        assert!(settled.iter().any(|(_, passed)| *passed), "{layers:?}");
        assert_eq!(world.counter(Counter::HeldPacketLost), 0, "{layers:?}");
        // What follows finds the answer.
        assert!(world.net.passes(&packet), "{layers:?}");
        world.net.finish();
        world.end();
    }
}

#[test]
fn a_dual_mode_socket_that_is_bound_to_an_ipv4_address_gets_the_rules_ipv4_address() {
    for layers in LAYERS {
        let mut world = dual_mode_world(
            layers,
            "default = 'permit'\n[[rule]]\naction = 'permit'\nbind = ['192.0.2.99', '2001:db8::99']",
        );
        for case in CASES {
            assert!(world.net.passes(case.first(0)), "{layers:?} {case:?}");
            let bound = only(&world.events(), EventKind::Bound, None);
            let target = target(&bound).map(|target| target.ip().to_string());
            let wanted = match case.family() {
                Family::V4 => "192.0.2.99",
                Family::V6 => "2001:db8::99",
            };
            assert_eq!(target.as_deref(), Some(wanted), "{layers:?} {case:?}");
        }
        world.end();
    }
}

#[test]
fn without_a_proxy_connections_are_blocked_or_go_straight_as_the_rule_says() {
    for case in CASES {
        let mut world = world(POLICY);
        assert!(!world.net.passes(case.first(0)), "{case:?}");
        let event = only(&world.events(), EventKind::Authorize, None);
        assert_eq!(
            (event.verdict, event.rule()),
            (Action::Block.raw(), Some(0))
        );
        assert_eq!(world.counter(Counter::ProxyMissing), 1);
        world.set_policy(&POLICY.replace(
            "redirect = ",
            "redirect_default = \"permit\"\n    redirect = ",
        ));
        assert!(world.net.passes(case.first(1)), "{case:?}");
        let event = only(&world.events(), EventKind::Authorize, None);
        assert_eq!(
            (event.verdict, target(&event)),
            (Action::Permit.raw(), None)
        );
        assert_eq!(world.counter(Counter::Redirected), 0);
        world.end();
    }
}

#[test]
fn a_proxy_is_gone_when_its_program_closes_its_handle_or_ends() {
    for dies in [false, true] {
        for case in CASES {
            let mut world = world(POLICY);
            let proxy = with_proxy(&world);
            assert!(world.net.passes(case.first(0)));
            if dies {
                drop(proxy);
            } else {
                proxy.close();
            }
            assert_eq!(world.counter(Counter::ProxiesGone), 2);
            assert!(!world.net.passes(case.first(1)), "{case:?}");
            // Another one takes its place.
            let proxy = with_proxy(&world);
            assert!(world.net.passes(case.first(2)), "{case:?}");
            assert_eq!(world.counter(Counter::Redirected), 2);
            proxy.close();
            world.end();
        }
    }
}

#[test]
fn a_proxy_serves_what_it_registered_for() {
    let mut world = world(POLICY);
    let program = proxy_program(&world.kernel);
    assert_eq!(
        program.register_proxy("127.0.0.1:8080", TCP),
        NtStatus::SUCCESS
    );
    assert!(world.net.passes(CASES[0].first(0)));
    for other in &CASES[1..] {
        assert!(!world.net.passes(other.first(0)), "{other:?}");
    }
    // Nobody else may listen there, and nobody listens nowhere.
    let other = proxy_program(&world.kernel);
    assert_eq!(
        other.register_proxy("127.0.0.1:8080", 0),
        NtStatus::OBJECT_NAME_COLLISION
    );
    assert_eq!(
        other.register_proxy("127.0.0.1:8080", UDP),
        NtStatus::SUCCESS
    );
    assert_eq!(
        other.register_proxy("0.0.0.0:8080", TCP),
        NtStatus::INVALID_PARAMETER
    );
    for port in 1..=14 {
        let listens = format!("127.0.0.1:{port}");
        assert_eq!(other.register_proxy(&listens, 0), NtStatus::SUCCESS);
    }
    assert_eq!(
        other.register_proxy("127.0.0.1:99", 0),
        NtStatus::INSUFFICIENT_RESOURCES
    );
    assert_eq!(world.counter(Counter::ProxyRefused), 2);
    other.close();
    program.close();
    world.end();
}

#[test]
fn the_proxys_own_connections_go_straight_without_records_too() {
    for case in CASES {
        // Even where the rule is for everybody.
        let mut world = world(&POLICY.replace("application = 'C:\\browser.exe'", ""));
        let proxy = with_proxy(&world);
        let own = match case.family() {
            Family::V4 => "192.0.2.10:60000",
            Family::V6 => "[2001:db8::10]:60000",
        };
        let onward = if case.protocol == TCP {
            Tcp::new(own, case.server).segment(true, SYN, &[])
        } else {
            udp(own, case.server, b"question")
        };
        assert!(world.net.passes(onward), "{case:?}");
        assert_eq!(world.counter(Counter::Redirected), 0);
        assert_eq!(world.counter(Counter::RedirectedBefore), 1);
        assert_eq!(world.counter(Counter::ProxyMissing), 0);
        proxy.close();
        world.end();
    }
}

#[test]
fn a_redirected_connection_that_is_authorized_again_is_still_what_it_was() {
    for case in CASES {
        let mut world = world(POLICY);
        let proxy = with_proxy(&world);
        let mut talk = Tcp::new(case.client, case.server);
        let first = if case.protocol == TCP {
            talk.segment(true, SYN, &[])
        } else {
            case.first(0)
        };
        assert!(world.net.passes(first));
        if case.protocol == TCP {
            assert!(world.net.all_pass(&talk.at(case.proxy).handshake_rest()));
        }
        drop(world.events());
        // Another product's filter at the layer makes the system ask again.
        let product = Product::new(&world.kernel, 1);
        let version = match case.family() {
            Family::V4 => IpVersion::V4,
            Family::V6 => IpVersion::V6,
        };
        let layer = Layer::all()
            .iter()
            .find(|layer| {
                layer.kind() == LayerKind::AleAuthConnect
                    && layer.version() == Some(version)
                    && !layer.is_discard()
            })
            .expect("the layer");
        product.add_filter(
            layer.id(),
            FilterAction::Permit,
            FilterFlags::NONE,
            Vec::new(),
        );
        let again = if case.protocol == TCP {
            talk.at(case.proxy).client_says(b"data")
        } else {
            case.first(0)
        };
        assert!(world.net.passes(again), "{case:?}");
        let event = only(
            &world.events(),
            EventKind::Authorize,
            Some(Operation::Connect),
        );
        assert_ne!(event.flags.get() & EventRecord::REAUTHORIZATION, 0);
        assert_eq!(remote(&event), case.server());
        assert_eq!(target(&event), case.proxy.parse().ok());
        assert_eq!(event.rule(), Some(0));
        product.close();
        proxy.close();
        world.end();
    }
}

#[test]
fn the_redirect_layers_cost_nothing_while_no_rule_needs_them() {
    let mut world = world("default = 'permit'");
    let filters = |world: &World| {
        [Family::V4, Family::V6].map(|family| {
            let redirect = world.callout(CalloutKind::ConnectRedirect, family);
            let bind = world.callout(CalloutKind::BindRedirect, family);
            (redirect.filter_id.get() != 0, bind.filter_id.get() != 0)
        })
    };
    assert_eq!(filters(&world), [(false, false); 2]);
    world.set_policy(POLICY);
    assert_eq!(filters(&world), [(true, false); 2]);
    world.set_policy("default = 'permit'\n[[rule]]\naction = 'permit'\nbind = '192.0.2.10'");
    assert_eq!(filters(&world), [(false, true); 2]);
    world.set_policy("default = 'permit'");
    assert_eq!(filters(&world), [(false, false); 2]);
    assert!(world.net.passes(CASES[0].first(0)));
    world.end();
}
