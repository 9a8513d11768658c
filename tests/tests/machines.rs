//! Two machines side by side in one process know nothing of each other.

use std::thread;

use portcullis_proto::{CalloutKind, DriverState, Family};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, World};

fn web(port: u16) -> Vec<Vec<u8>> {
    Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80").handshake()
}

#[test]
fn two_machines_have_two_policies() {
    let mut strict = World::with_policy("default = 'block'");
    let mut lenient = World::with_policy("default = 'permit'");
    for port in 50_000..50_020 {
        assert!(strict.net.none_passes(&web(port)));
        assert!(lenient.net.all_pass(&web(port)));
    }
    assert_eq!(strict.status().flows.get(), 0);
    assert_eq!(lenient.status().flows.get(), 20);
    assert_eq!(
        strict.callout(CalloutKind::Connect, Family::V4).block.get(),
        20
    );
    assert_eq!(
        lenient
            .callout(CalloutKind::Connect, Family::V4)
            .block
            .get(),
        0
    );
    strict.end();
    assert!(
        lenient.net.all_pass(&web(51_000)),
        "the other's unload is not this one's"
    );
    assert_eq!(lenient.state(), DriverState::Active);
    lenient.end();
}

#[test]
fn one_machines_engine_stops_and_the_others_does_not() {
    let first = World::new();
    let second = World::new();
    first.stop_bfe();
    assert_eq!(first.state(), DriverState::WaitingForBfe);
    assert_eq!(second.state(), DriverState::Active);
    first.end();
    second.end();
}

#[test]
fn machines_live_whole_lives_in_parallel() {
    thread::scope(|scope| {
        for number in 0..4_u16 {
            scope.spawn(move || {
                for round in 0..3 {
                    let block = (number + round) % 2 == 0;
                    let default = if block { "block" } else { "permit" };
                    let mut world = World::with_policy(&format!("default = '{default}'"));
                    for port in 50_000..50_010 {
                        assert_eq!(world.net.none_passes(&web(port)), block);
                    }
                    assert_clean(&world.unload());
                    world.assert_nothing_of_ours();
                }
            });
        }
    });
}

#[test]
fn time_belongs_to_a_machine() {
    let mut first = World::new();
    let second = World::new();
    let before = second.kernel.time().now();
    first.net.wait(1000);
    assert_eq!(second.kernel.time().now(), before);
    first.end();
    second.end();
}
