//! Split tunnels: the sockets of an application, and of what it starts, are bound to another address.

use portcullis_proto::Counter;
use portcullis_proto::event::EventKind;
use portcullis_tests::World;
use portcullis_tests::tunnel::{
    GAME, HELPER, LAUNCHER, POLICY, Sockets, TUNNEL_V4, TUNNEL_V6, exit, first_packets, locals,
    start,
};

const EXPLORER: &str = r"C:\Windows\explorer.exe";

const TUNNEL: [&str; 4] = [TUNNEL_V4, TUNNEL_V6, TUNNEL_V4, TUNNEL_V6];
const STRAIGHT: [&str; 4] = ["192.0.2.10", "2001:db8::10", "192.0.2.10", "2001:db8::10"];

#[test]
fn an_application_its_children_and_theirs_are_bound_to_the_tunnel_and_others_not() {
    let mut world = World::with_policy(POLICY);
    let mut sockets = Sockets::from(50_000);
    // Whoever ran before the driver did is not known, nor that it was its parent.
    let explorer = start(&world.kernel, 4, EXPLORER);
    let launcher = start(&world.kernel, explorer, LAUNCHER);
    let helper = start(&world.kernel, launcher, HELPER);
    let game = start(&world.kernel, helper, GAME);
    let other = start(&world.kernel, explorer, GAME);
    let store = start(&world.kernel, launcher, r"C:\Games\store.exe");
    // The parents end first.
    exit(&world.kernel, launcher);
    exit(&world.kernel, helper);
    let late = start(&world.kernel, game, r"C:\Windows\crashpad.exe");
    for (image, process, expected) in [
        (LAUNCHER, launcher, TUNNEL),
        (HELPER, helper, TUNNEL),
        (GAME, game, TUNNEL),
        (r"C:\Windows\crashpad.exe", late, TUNNEL),
        (GAME, other, STRAIGHT),
        (EXPLORER, explorer, STRAIGHT),
        // An earlier rule is for it.
        (r"C:\Games\store.exe", store, STRAIGHT),
        // The identifier is another process's now.
        (EXPLORER, game, STRAIGHT),
    ] {
        let port = sockets.owned_by(image, process);
        world.net = sockets.net(&world.kernel, 0);
        drop(world.events());
        assert!(world.net.all_pass(&first_packets(port)));
        let events = world.events();
        assert_eq!(locals(&events), expected, "{image} as {process}");
        let bound = events
            .iter()
            .filter(|event| event.kind == EventKind::Bound.raw());
        let expected_binds = if expected == TUNNEL { 4 } else { 0 };
        assert_eq!(bound.count(), expected_binds, "{image} as {process}");
    }
    assert_eq!(world.counter(Counter::Bound), 16);
    assert_eq!(world.counter(Counter::BindFailed), 0);
    world.end();
}

#[test]
fn what_an_ended_family_leaves_behind_is_nothing() {
    let world = World::with_policy(POLICY);
    // More processes than there is room for, one after the other, and many at a time.
    for _ in 0..3 {
        let mut running = Vec::new();
        for number in 0..2_000 {
            let parent = running.last().copied().unwrap_or(4);
            let image = format!(r"C:\Many\{}.exe", number % 500);
            running.push(start(&world.kernel, parent, &image));
        }
        for process in running {
            exit(&world.kernel, process);
        }
    }
    assert_eq!(world.counter(Counter::ProcessNoRoom), 0);
    world.end();
}

#[test]
fn when_there_is_no_room_for_processes_it_is_counted_and_nobody_is_taken_for_a_child() {
    let mut world = World::with_policy(POLICY);
    let launcher = start(&world.kernel, 4, LAUNCHER);
    for _ in 0..4_095 {
        start(&world.kernel, 4, EXPLORER);
    }
    assert_eq!(world.counter(Counter::ProcessNoRoom), 0);
    let game = start(&world.kernel, launcher, GAME);
    assert_eq!(world.counter(Counter::ProcessNoRoom), 1);
    let mut sockets = Sockets::from(50_000);
    for (image, process, expected) in [(LAUNCHER, launcher, TUNNEL), (GAME, game, STRAIGHT)] {
        let port = sockets.owned_by(image, process);
        world.net = sockets.net(&world.kernel, 0);
        drop(world.events());
        assert!(world.net.all_pass(&first_packets(port)));
        assert_eq!(locals(&world.events()), expected);
    }
    world.end();
}

#[test]
fn children_count_wherever_a_rule_names_an_application() {
    let mut world = World::with_policy(
        "default = 'permit'\n[[rule]]\naction = 'block'\napplication = 'C:\\Games\\launcher.exe'\nchildren = true",
    );
    let launcher = start(&world.kernel, 4, LAUNCHER);
    let game = start(&world.kernel, launcher, GAME);
    let other = start(&world.kernel, 4, GAME);
    let mut sockets = Sockets::from(50_000);
    for (image, process, passes) in [
        (LAUNCHER, launcher, false),
        (GAME, game, false),
        (GAME, other, true),
    ] {
        let port = sockets.owned_by(image, process);
        world.net = sockets.net(&world.kernel, 0);
        for packet in first_packets(port) {
            assert_eq!(world.net.passes(packet), passes, "{image} as {process}");
        }
    }
    world.end();
}
