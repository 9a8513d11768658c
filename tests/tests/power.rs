//! Sleep, resume and shutdown under traffic, and a change of the network profile.

use ksim::SystemState;
use portcullis_proto::{CalloutKind, Counter, DriverState, Family};
use portcullis_tests::control::alive;
use portcullis_tests::world::{assert_clean, provider_key};
use portcullis_tests::{Tcp, World, udp};

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
