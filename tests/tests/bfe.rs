//! The base filtering engine may be down when the driver starts, and may stop and come back.

use ksim::Config;
use portcullis_proto::event::EventKind;
use portcullis_proto::status::CalloutStatus;
use portcullis_proto::{CALLOUTS, CalloutKind, Counter, DriverState, Family, LifecycleStep};
use portcullis_tests::control::alive;
use portcullis_tests::world::{assert_clean, is_always_filtered};
use portcullis_tests::{Tcp, World, udp};
use wfp_schema::{BfeState, NtStatus};

/// Units of 100 nanoseconds.
const MILLISECOND: u64 = 10_000;

const NO_TELNET: &str = "default = 'permit'\n[[rule]]\naction = 'block'\nremote_port = 23";

fn without_bfe() -> Config {
    let mut config = Config::default();
    config.fwp.bfe_running = false;
    config
}

fn telnet(port: u16) -> Vec<Vec<u8>> {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:23").handshake()
}

/// The states that the driver has told of, in order.
fn states(world: &World) -> Vec<DriverState> {
    let changes = world
        .events()
        .into_iter()
        .filter(|event| event.kind == EventKind::StateChanged.raw());
    changes
        .map(|event| {
            DriverState::from_raw(u32::try_from(event.value[1].get()).expect("a state"))
                .expect("a state")
        })
        .collect()
}

#[test]
fn without_the_engine_the_driver_starts_and_waits_with_its_callouts_registered() {
    let mut world = World::with_config(&without_bfe());
    assert_eq!(world.state(), DriverState::WaitingForBfe);
    let (_, callouts) = world.device().status();
    assert!(
        callouts
            .iter()
            .all(|callout| callout.flags.get() == CalloutStatus::REGISTERED)
    );
    assert_eq!(world.engine().registered_callouts().len(), CALLOUTS.len());
    world.set_policy(NO_TELNET);
    assert!(
        world.net.all_pass(&telnet(50_000)),
        "nobody asks the driver"
    );
    assert_eq!(
        world
            .callout(CalloutKind::Connect, Family::V4)
            .classify
            .get(),
        0
    );
    world.end();
}

#[test]
fn when_the_engine_comes_up_the_driver_becomes_active_and_filters() {
    let mut world = World::with_config(&without_bfe());
    world.set_policy(NO_TELNET);
    assert_eq!(states(&world), [DriverState::WaitingForBfe]);
    world.start_bfe();
    assert_eq!(world.state(), DriverState::Active);
    assert_eq!(states(&world), [DriverState::Starting, DriverState::Active]);
    assert!(world.net.none_passes(&telnet(50_000)));
    assert_eq!(world.counter(Counter::BfeStarted), 1);
    world.end();
}

#[test]
fn when_the_engine_stops_and_returns_in_mid_traffic_filtering_resumes() {
    // Whether an engine's objects outlive it does not matter: the driver takes its own away when the engine goes.
    for outlive in [false, true] {
        let mut world = World::answering(|options| options.filters_outlive_bfe = outlive);
        world.set_policy(NO_TELNET);
        let mut web = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
        assert!(world.net.all_pass(&web.handshake()));
        assert!(world.net.passes(web.client_says(b"before")));
        assert!(world.net.none_passes(&telnet(50_001)));

        world.stop_bfe();
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        assert!(world.net.passes(web.client_says(b"meanwhile")));
        assert!(
            world
                .net
                .passes(udp("192.0.2.10:50002", "198.51.100.1:9999", b"meanwhile"))
        );
        assert!(
            world.net.all_pass(&telnet(50_003)),
            "nobody asks the driver"
        );

        world.start_bfe();
        assert_eq!(world.state(), DriverState::Active);
        assert!(world.net.passes(web.client_says(b"after")));
        assert!(world.net.none_passes(&telnet(50_004)));
        assert!(world.net.all_pass(&web.close()));
        assert_eq!(world.counter(Counter::BfeStopped), 1);
        assert_eq!(world.counter(Counter::BfeStarted), 2);
        world.end();
    }
}

#[test]
fn a_flow_that_lives_through_the_engines_absence_is_followed_to_its_end() {
    let mut world = World::with_policy("default = 'permit'");
    let mut web = Tcp::new("[2001:db8::10]:50000", "[2001:db8::80]:80");
    assert!(world.net.all_pass(&web.handshake()));
    world.stop_bfe();
    world.start_bfe();
    assert_eq!(world.status().flows.get(), 1);
    assert!(world.net.passes(web.client_says(b"0123456789")));
    assert!(world.net.all_pass(&web.close()));
    assert_eq!(world.status().flows.get(), 0);
    let events = world.events();
    let end = events
        .iter()
        .find(|event| event.kind == EventKind::FlowClosed.raw())
        .expect("it has closed");
    assert_eq!(end.bytes_sent.get(), 10);
    world.end();
}

#[test]
fn a_policy_set_while_the_engine_is_down_holds_when_it_returns() {
    let mut world = World::with_policy("default = 'permit'");
    world.stop_bfe();
    world.set_policy(NO_TELNET);
    world.start_bfe();
    assert!(world.net.none_passes(&telnet(50_000)));
    world.end();
}

#[test]
fn the_engine_may_come_and_go_any_number_of_times() {
    let mut world = World::with_policy(NO_TELNET);
    for round in 0..20_u16 {
        world.stop_bfe();
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        world.start_bfe();
        assert_eq!(world.state(), DriverState::Active);
        assert!(world.net.none_passes(&telnet(50_000 + round)));
        let callouts = world.device().status().1;
        let is_right =
            |callout: &CalloutStatus| is_always_filtered(callout) == (callout.filter_id.get() != 0);
        assert!(callouts.iter().all(is_right));
    }
    assert_eq!(
        world.engine().session_count(),
        1,
        "one session, not one for each time"
    );
    world.end();
}

#[test]
fn the_engine_may_be_back_before_the_driver_has_looked() {
    let mut world = World::with_policy(NO_TELNET);
    let kernel = world.kernel.clone();
    for round in 0..8_u16 {
        // The start comes right behind the end of the stop, and before what the driver puts off then.
        kernel
            .on(0, |_| {
                kernel.bfe().stop();
                kernel
                    .time()
                    .defer("a restart", |cpu| cpu.machine().bfe().start());
            })
            .expect("the machine runs");
        assert_eq!(world.state(), DriverState::Active);
        assert!(world.net.none_passes(&telnet(50_000 + round)));
    }
    assert_eq!(world.engine().session_count(), 1);
    world.end();
}

#[test]
fn an_engine_that_was_away_between_two_looks_of_the_driver_is_noticed() {
    let mut world = World::with_policy(NO_TELNET);
    let kernel = world.kernel.clone();
    for round in 0..4_u16 {
        // For so long no thread is free for the driver's work item.
        kernel.time().set_lateness("WDFWORKITEM", MILLISECOND);
        alive(kernel.on(0, |_| kernel.bfe().stop()));
        alive(kernel.on(0, |_| kernel.bfe().start()));
        kernel.time().set_lateness("WDFWORKITEM", 0);
        assert_eq!(kernel.bfe().state(), BfeState::Running);
        world.net.pass(MILLISECOND);
        assert_eq!(world.state(), DriverState::Active);
        assert_eq!(world.engine().session_count(), 1);
        assert!(world.net.none_passes(&telnet(50_000 + round)));
        assert_eq!(world.counter(Counter::BfeStopped), u64::from(round) + 1);
    }
    world.end();
}

#[test]
fn the_driver_can_be_unloaded_while_the_engine_is_down() {
    for config in [Config::default(), without_bfe()] {
        let mut world = World::with_config(&config);
        let mut web = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
        assert!(world.net.all_pass(&web.handshake()));
        world.stop_bfe();
        let report = world.unload();
        assert_clean(&report);
        world.assert_nothing_of_ours();
        world.start_bfe();
        world.assert_nothing_of_ours();
        assert!(world.net.passes(web.client_says(b"and on it goes")));
    }
}

#[test]
fn when_the_objects_cannot_be_added_the_driver_is_degraded_says_why_and_recovers_with_the_engine() {
    for (call, step) in [
        ("FwpmEngineOpen0", LifecycleStep::OpenSession),
        ("FwpmTransactionBegin0", LifecycleStep::BeginTransaction),
        ("FwpmProviderAdd0", LifecycleStep::AddProvider),
        ("FwpmSubLayerAdd0", LifecycleStep::AddSublayer),
        ("FwpmCalloutAdd0", LifecycleStep::AddCallouts),
        ("FwpmFilterAdd0", LifecycleStep::AddFilters),
        ("FwpmTransactionCommit0", LifecycleStep::CommitTransaction),
    ] {
        let mut world = World::with_config(&without_bfe());
        world.set_policy(NO_TELNET);
        world.kernel.faults().fail_call(call, 1);
        world.start_bfe();
        assert_eq!(world.state(), DriverState::Degraded, "{call}");
        for &other in LifecycleStep::ALL {
            let failed = !NtStatus::from_i32(world.status().error(other)).is_success();
            assert_eq!(failed, other == step, "{call}: error at {}", other.name());
        }
        assert!(
            world.net.all_pass(&telnet(50_000)),
            "{call}: nobody asks the driver"
        );
        world.stop_bfe();
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        world.start_bfe();
        assert_eq!(world.state(), DriverState::Active, "{call}");
        assert!(world.net.none_passes(&telnet(50_001)));
        world.end();
    }
}
