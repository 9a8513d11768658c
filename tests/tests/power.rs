//! Sleep, resume and shutdown under traffic, and a change of the network profile.

use ksim::cpu::DISPATCH;
use ksim::net::{Identity, Output, Processes, Sid};
use ksim::{Config, SystemState};
use portcullis_proto::{Action, CalloutKind, Counter, DriverState, EventKind, Family};
use portcullis_tests::control::alive;
use portcullis_tests::waits::POLICY;
use portcullis_tests::world::{assert_clean, provider_key};
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::{NtStatus, StreamFlags};

const NO_TELNET: &str = "default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23";

fn web(port: u16) -> Tcp {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80")
}

fn telnet(port: u16) -> Vec<Vec<u8>> {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:23").handshake()
}

#[test]
fn a_flow_and_the_policy_outlast_sleep() {
    let mut world = World::with_policy(NO_TELNET);
    let mut before = web(50_000);
    assert!(world.net.all_pass(&before.handshake()));
    assert!(world.net.passes(before.client_says(b"before")));
    assert!(world.net.none_passes(&telnet(50_001)));

    alive(world.kernel.sleep());
    assert_eq!(world.kernel.system_state(), SystemState::Sleeping);
    alive(world.kernel.resume());
    assert_eq!(world.state(), DriverState::Active);

    assert!(
        world.net.passes(before.client_says(b"after")),
        "the old flow"
    );
    assert!(world.net.all_pass(&web(50_002).handshake()), "a new one");
    assert!(world.net.none_passes(&telnet(50_003)), "the policy");
    assert!(world.net.all_pass(&before.close()));
    world.net.finish();
    assert_eq!(
        world.counter(Counter::FlowsCreated),
        world.counter(Counter::FlowsDeleted)
    );
    world.end();
}

#[test]
fn sleep_in_mid_operation_loses_nothing_and_the_driver_unloads_after_it() {
    let mut world = World::with_policy(NO_TELNET);
    let reading = world.device().read_events(16);
    for round in 0..8u16 {
        let mut talk = web(51_000 + round);
        assert!(world.net.all_pass(&talk.handshake()));
        alive(world.kernel.sleep());
        world.net.wait(3_600);
        alive(world.kernel.resume());
        assert!(world.net.passes(talk.client_says(b"after an hour")));
        assert!(world.net.all_pass(&talk.close()));
    }
    drop(reading);
    world.net.finish();
    world.end();
}

#[test]
fn a_shutdown_under_traffic_is_clean() {
    let mut world = World::with_policy(NO_TELNET);
    let mut talk = web(52_000);
    assert!(world.net.all_pass(&talk.handshake()));
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:53000", "198.51.100.1:53", b"query"))
    );
    alive(world.kernel.shutdown());
    assert_eq!(world.kernel.system_state(), SystemState::Off);
    assert_eq!(
        world.state(),
        DriverState::WaitingForBfe,
        "the engine's service stopped, the driver stays"
    );
    assert!(
        world
            .engine()
            .committed()
            .provider(provider_key())
            .is_none(),
        "its session went with the service"
    );
    assert!(
        world.net.passes(talk.client_says(b"last words")),
        "nobody asks the driver"
    );
    // Nothing unloads a driver in a shutdown; what it did until here broke no rule.
    assert!(world.kernel.verifier().report().violations.is_empty());
    world.net.finish();
    assert_clean(&world.unload());
}

#[test]
fn a_change_of_the_network_profile_asks_the_driver_about_flows_again() {
    let mut world = World::with_policy(NO_TELNET);
    world.net.set_profile(1);
    let mut talk = web(53_000);
    assert!(world.net.all_pass(&talk.handshake()));
    let asked = |world: &World| {
        world
            .callout(CalloutKind::Connect, Family::V4)
            .classify
            .get()
    };
    let before = asked(&world);
    assert!(world.net.passes(talk.client_says(b"here")));
    assert_eq!(asked(&world), before);
    world.net.set_profile(2);
    assert!(world.net.passes(talk.client_says(b"there")));
    assert_eq!(asked(&world), before + 1, "once");
    assert!(world.net.passes(talk.client_says(b"still")));
    assert_eq!(asked(&world), before + 1);
    assert!(world.net.all_pass(&talk.close()));
    world.net.finish();
    world.end();
}

/// What the events say of the system's power, in order: true before sleep.
fn told(world: &World) -> Vec<bool> {
    let events = world.events();
    let power = events
        .iter()
        .filter(|event| event.kind == EventKind::PowerChanged.raw());
    power.map(|event| event.value[0].get() != 0).collect()
}

#[test]
fn sleep_and_resume_are_told_once_each() {
    let world = World::with_policy(NO_TELNET);
    drop(world.events());
    for _ in 0..3 {
        alive(world.kernel.sleep());
        assert_eq!(told(&world), [true]);
        alive(world.kernel.resume());
        assert_eq!(told(&world), [false]);
    }
    world.end();
}

#[test]
fn a_driver_that_is_unloaded_hears_of_no_sleep() {
    let mut world = World::with_policy(NO_TELNET);
    alive(world.kernel.sleep());
    assert_clean(&world.unload());
    world.assert_nothing_of_ours();
    alive(world.kernel.resume());
    alive(world.kernel.sleep());
    alive(world.kernel.resume());
    assert_eq!(world.start(), NtStatus::SUCCESS);
    assert!(told(&world).is_empty());
    world.end();
}

#[test]
fn an_engine_that_comes_or_goes_while_the_system_sleeps_is_found_at_its_resume() {
    let mut world = World::with_policy(NO_TELNET);
    alive(world.kernel.sleep());
    world.stop_bfe();
    alive(world.kernel.resume());
    assert_eq!(world.state(), DriverState::WaitingForBfe);
    alive(world.kernel.sleep());
    world.start_bfe();
    alive(world.kernel.resume());
    assert_eq!(world.state(), DriverState::Active);
    assert!(world.net.none_passes(&telnet(54_000)));
    world.end();
}

#[test]
fn sleep_under_traffic_on_four_processors_breaks_no_rule() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let world = World::with_config(&config);
    world.set_policy(NO_TELNET);
    let kernel = world.kernel.clone();
    std::thread::scope(|scope| {
        for processor in 1..4_u32 {
            let kernel = kernel.clone();
            scope.spawn(move || {
                let mut net = Net::new(&kernel, processor);
                for port in 30_000..30_100_u16 {
                    let mut talk = Tcp::new(
                        &format!("192.0.2.10:{port}"),
                        &format!("198.51.100.{processor}:80"),
                    );
                    assert!(net.all_pass(&talk.handshake()));
                    assert!(net.passes(talk.client_says(b"data")));
                    assert!(net.all_pass(&talk.close()));
                }
                net.finish();
            });
        }
        for _ in 0..20 {
            alive(world.kernel.sleep());
            alive(world.kernel.resume());
        }
    });
    world.end();
}

#[test]
fn users_who_take_turns_at_the_machine_keep_what_their_rules_say() {
    const FIRST: [u32; 5] = [21, 1, 2, 3, 1001];
    const SECOND: [u32; 5] = [21, 1, 2, 3, 1002];
    const USERS: [(&str, &str); 2] = [
        ("192.0.2.10", "198.51.100.1:443"),
        ("[2001:db8::10]", "[2001:db8::80]:443"),
    ];
    let mut world = World::new();
    let mut processes = Processes::default();
    let path = r"\device\harddiskvolume1\program files\browser.exe";
    for port in 55_000..55_040_u16 {
        let sid = Sid::new(5, if port % 2 == 0 { &FIRST } else { &SECOND });
        for (client, _) in USERS {
            let endpoint = format!("{client}:{port}").parse().expect("an address");
            let identity = Identity::new(path, u64::from(port), sid.clone());
            processes.assign(endpoint, identity);
        }
    }
    world.owned_by(processes);
    world
        .set_policy("default = 'permit'\n[[rule]]\naction = 'block'\nuser = 'S-1-5-21-1-2-3-1002'");
    // Both are logged on; the one whose session is not shown goes on working.
    let mut connections = Vec::new();
    for port in 55_000..55_040_u16 {
        for (client, server) in USERS {
            let mut talk = Tcp::new(&format!("{client}:{port}"), server);
            let passes = world.net.all_pass(&talk.handshake());
            assert_eq!(passes, port % 2 == 0, "{client}:{port}");
            if passes {
                connections.push(talk);
            }
        }
        if port % 10 == 9 {
            // Sleep comes between, as when a lid is closed and another user opens it.
            alive(world.kernel.sleep());
            alive(world.kernel.resume());
        }
    }
    for talk in &mut connections {
        assert!(world.net.passes(talk.client_says(b"still mine")));
        assert!(world.net.all_pass(&talk.close()));
    }
    world.net.finish();
    world.end();
}

/// The host's end, and a peer's, of both IP versions.
const ENDS: [(&str, &str); 2] = [
    ("192.0.2.10:56000", "198.51.100.1"),
    ("[2001:db8::10]:56000", "[2001:db8::80]"),
];

/// A night, in seconds.
const NIGHT: u64 = 8 * 3_600;

/// The system sleeps for so many seconds.
fn sleep(world: &mut World, seconds: u64) {
    alive(world.kernel.sleep());
    world.net.wait(seconds);
    alive(world.kernel.resume());
}

#[test]
fn what_is_held_when_the_system_sleeps_goes_on_by_its_rule_once_and_nothing_is_held_after_it() {
    for otherwise in ["block", "permit"] {
        for (local, remote) in ENDS {
            let mut world = World::with_policy(&format!(
                "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = 4433\nask_default = '{otherwise}'"
            ));
            assert!(world.device().questions().is_empty());
            let server = format!("{remote}:4433");
            let handshake = Tcp::new(local, &server).handshake();
            assert!(!world.net.passes(&handshake[0]), "it is held");
            let questions = world.device().questions();
            assert_eq!((questions.len(), world.status().held.get()), (1, 1));

            sleep(&mut world, NIGHT);
            assert_eq!(world.status().held.get(), 0, "held for ever");
            let fates: Vec<_> = world
                .net
                .settle()
                .iter()
                .map(|(_, passed)| *passed)
                .collect();
            assert_eq!(fates, [otherwise == "permit"], "{local}: once, by the rule");
            assert!(
                !world.device().reply(&questions[0], Action::Permit),
                "nobody waits for that answer any more"
            );
            assert!(world.net.settle().is_empty(), "and it comes no second time");
            if otherwise == "permit" {
                assert!(world.net.all_pass(&handshake[1..]));
            }

            // The program goes on being asked.
            let next = Tcp::new(&local.replace("56000", "56001"), &server).handshake();
            assert!(!world.net.passes(&next[0]));
            let questions = world.device().questions();
            assert_eq!(questions.len(), 1, "{local}");
            assert!(world.device().reply(&questions[0], Action::Permit));
            let fates: Vec<_> = world
                .net
                .settle()
                .iter()
                .map(|(_, passed)| *passed)
                .collect();
            assert_eq!(fates, [true]);
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn packets_that_wait_when_the_system_sleeps_are_dropped_and_those_after_it_go_on_once() {
    for (local, remote) in ENDS {
        let mut world = World::with_policy(
            "default = 'permit'\n[[rule]]\naction = 'permit'\nremote_port = 9999\ndelay = '50 ms'",
        )
        .with_output();
        let server = format!("{remote}:9999");
        let datagrams = |texts: [&str; 2]| texts.map(|text| udp(local, &server, text.as_bytes()));
        assert!(world.net.at_once(&datagrams(["old", "older"])).is_empty());
        sleep(&mut world, NIGHT);
        let late = world.net.pass(10_000_000);
        assert!(late.is_empty(), "{local}: {late:?}");
        assert!(world.net.at_once(&datagrams(["new", "newer"])).is_empty());
        let sent: Vec<_> = world.net.pass(10_000_000);
        let sent: Vec<_> = sent
            .iter()
            .map(|(_, output)| match output {
                Output::Sent(packet) => String::from_utf8_lossy(packet).into_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sent.len(), 2, "{local}: {sent:?}");
        assert!(
            sent[0].ends_with("new") && sent[1].ends_with("newer"),
            "{sent:?}"
        );
        assert_eq!(world.counter(Counter::PacketsDelayed), 4);
        world.net.finish();
        world.end();
    }
}

/// An operation that is asked about, and a packet that waits, from a port. Whether the operation goes on at once, and how many
/// packets leave within a second.
fn begins(world: &mut World, (local, remote): (&str, &str), port: u16) -> (bool, usize) {
    let local = local.replace("56000", &port.to_string());
    let asked = Tcp::new(&local, &format!("{remote}:4433")).handshake();
    let passes = world.net.passes(&asked[0]);
    world.net.output();
    world
        .net
        .packet(&udp(&local, &format!("{remote}:9999"), b"x"));
    (passes, world.net.pass(10_000_000).len())
}

#[test]
fn above_passive_level_a_work_item_does_what_sleep_and_resume_ask_for() {
    for ends in ENDS {
        let mut world = World::with_policy(POLICY).with_output();
        assert!(world.device().questions().is_empty());
        assert_eq!(begins(&mut world, ends, 56_000), (false, 1), "awake");
        world
            .net
            .packet(&udp(ends.0, &format!("{}:9999", ends.1), b"x"));
        assert_eq!(world.status().held.get(), 1);
        alive(world.kernel.sleep_at(DISPATCH));
        assert_eq!(world.status().held.get(), 0);
        assert_eq!(world.counter(Counter::AskAbandoned), 1);
        assert_eq!(world.counter(Counter::PacketsDropped), 1);
        world.net.settle();
        world.net.output();
        assert_eq!(begins(&mut world, ends, 56_001), (true, 0), "asleep");
        alive(world.kernel.resume_at(DISPATCH));
        assert_eq!(begins(&mut world, ends, 56_002), (false, 1), "back");
        let questions = world.device().questions();
        assert!(
            world
                .device()
                .reply(&questions[questions.len() - 1], Action::Permit)
        );
        world.net.settle();
        world.end();
    }
}

#[test]
fn a_work_item_that_comes_after_the_resume_undoes_nothing() {
    for ends in ENDS {
        let mut world = World::with_policy(POLICY).with_output();
        assert!(world.device().questions().is_empty());
        world.kernel.time().set_lateness("WDFWORKITEM", 10_000);
        alive(world.kernel.sleep_at(DISPATCH));
        world.kernel.time().set_lateness("WDFWORKITEM", 0);
        alive(world.kernel.resume());
        world.net.pass(10_000);
        assert_eq!(begins(&mut world, ends, 56_000), (false, 1));
        assert_eq!(world.status().held.get(), 1);
        // Nor is one late for a driver that stops.
        world.kernel.time().set_lateness("WDFWORKITEM", 10_000);
        alive(world.kernel.sleep_at(DISPATCH));
        world.end();
    }
}

#[test]
fn stream_data_out_of_band_when_the_system_sleeps_arrives_once_and_in_order() {
    // What waits for the rest of a literal for too long goes on as it is.
    for (seconds, expected) in [
        (0, "a ****** and no secreat, "),
        (NIGHT, "a secret and no secreat, "),
    ] {
        for (local, remote) in ENDS {
            stream_data_arrives(local, remote, seconds, expected);
        }
    }
}

fn stream_data_arrives(local: &str, remote: &str, seconds: u64, expected: &str) {
    let mut world = World::with_policy(
        "default = 'block'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\n\
             replace = [{ find = 'secret', with = '******' }]",
    )
    .with_output();
    let mut tcp = Tcp::new(local, &format!("{remote}:80"));
    assert!(world.net.all_pass(&tcp.handshake()));
    // What may be the beginning of a literal waits for the rest.
    for (before, after) in [("a secre", "t and "), ("no secr", "eat, ")] {
        world.net.packet(&tcp.client_says(before.as_bytes()));
        world.net.packet(&tcp.server_says(before.as_bytes()));
        sleep(&mut world, seconds);
        world.net.packet(&tcp.client_says(after.as_bytes()));
        world.net.packet(&tcp.server_says(after.as_bytes()));
    }
    world.net.fates(&tcp.close());
    world.net.settle();
    let mut data = [Vec::new(), Vec::new()];
    for output in world.net.output() {
        if let Output::Stream { flags, bytes, .. } = output {
            data[usize::from(flags.contains(StreamFlags::RECEIVE))].extend(bytes);
        }
    }
    for data in data {
        assert_eq!(
            String::from_utf8_lossy(&data),
            expected,
            "{local} {seconds}"
        );
    }
    world.net.finish();
    world.end();
}
