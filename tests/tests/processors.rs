//! Several processors at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use ksim::Config;
use portcullis_proto::{Action, Counter, DriverState};
use portcullis_tests::control::compile;
use portcullis_tests::net::exchange;
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Net, Tcp, World, udp};
use wfp_schema::NtStatus;

const PROCESSORS: u32 = 4;
/// Datagrams that each processor sends where they are counted.
const DATAGRAMS: usize = 500;

fn four_processors() -> World {
    World::with_config(&Config {
        processors: PROCESSORS,
        ..Config::default()
    })
}

/// The ports of a processor's clients: no two processors share one.
fn ports(processor: u32) -> impl Iterator<Item = u16> {
    let first = 10_000 * u16::try_from(processor + 1).expect("few processors");
    (first..first + 10_000).cycle()
}

#[test]
fn traffic_on_four_processors_is_counted_to_the_last_flow() {
    let world = four_processors();
    world.set_policy("default = 'permit'");
    thread::scope(|scope| {
        for processor in 0..PROCESSORS {
            let kernel = &world.kernel;
            scope.spawn(move || {
                let mut net = Net::new(kernel, processor);
                for port in ports(processor).take(200) {
                    assert!(exchange(&mut net, port));
                }
                net.finish();
            });
        }
    });
    let flows = u64::from(PROCESSORS) * 200 * 2;
    assert_eq!(world.counter(Counter::FlowsCreated), flows);
    assert_eq!(world.counter(Counter::FlowsDeleted), flows);
    assert_eq!(world.counter(Counter::HostTls), flows / 2);
    assert_eq!(world.status().flows.get(), 0);
    world.end();
}

#[test]
fn a_policy_is_swapped_under_traffic_and_each_decision_is_by_one_or_the_other() {
    let world = four_processors();
    let permit = compile(
        "default = 'block'\n[[rule]]\naction = 'permit'\nremote_address = ['198.51.100.0/24', '2001:db8::/32']",
    );
    let block = compile("default = 'block'");
    assert_eq!(world.device().try_set_policy(&permit), NtStatus::SUCCESS);
    let over = AtomicBool::new(false);
    let (passed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for processor in 1..PROCESSORS {
            let (kernel, over, passed, refused) = (&world.kernel, &over, &passed, &refused);
            scope.spawn(move || {
                let mut net = Net::new(kernel, processor);
                for port in ports(processor) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let count = if exchange(&mut net, port) {
                        passed
                    } else {
                        refused
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
                net.finish();
            });
        }
        for round in 0..300 {
            let policy = if round % 2 == 0 { &block } else { &permit };
            assert_eq!(world.device().try_set_policy(policy), NtStatus::SUCCESS);
            if round % 16 == 0 {
                drop(world.events());
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{passed:?} exchanges passed, {refused:?} did not");
    assert_eq!(world.status().policy_epoch.get(), 301);
    assert_eq!(world.status().flows.get(), 0, "no flow is lost to a swap");
    world.end();
}

#[test]
fn the_driver_is_unloaded_under_traffic() {
    for round in 0..6 {
        let mut world = four_processors();
        world.set_policy("default = 'permit'");
        let exchanges = AtomicU64::new(0);
        let over = AtomicBool::new(false);
        let kernel = world.kernel.clone();
        thread::scope(|scope| {
            for processor in 1..PROCESSORS {
                let (kernel, exchanges, over) = (&kernel, &exchanges, &over);
                scope.spawn(move || {
                    let mut net = Net::new(kernel, processor);
                    for port in ports(processor) {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        assert!(
                            exchange(&mut net, port),
                            "a policy that permits, or no driver at all"
                        );
                        exchanges.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // A different moment each time.
            while exchanges.load(Ordering::Relaxed) < 5 + 20 * round {
                thread::yield_now();
            }
            let report = world.unload();
            assert_clean(&report);
            world.assert_nothing_of_ours();
            let then = exchanges.load(Ordering::Relaxed);
            while exchanges.load(Ordering::Relaxed) < then + 20 {
                thread::yield_now();
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(kernel.bugcheck().is_none());
    }
}

#[test]
fn the_engine_comes_and_goes_under_traffic() {
    let world = four_processors();
    world.set_policy("default = 'permit'");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for processor in 1..PROCESSORS {
            let (kernel, over) = (&world.kernel, &over);
            scope.spawn(move || {
                let mut net = Net::new(kernel, processor);
                for port in ports(processor) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    assert!(exchange(&mut net, port));
                }
                net.finish();
            });
        }
        for _ in 0..40 {
            world.stop_bfe();
            world.start_bfe();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.state(), DriverState::Active);
    assert_eq!(world.status().flows.get(), 0);
    world.end();
}

#[test]
fn readers_on_one_processor_get_the_events_of_all() {
    let world = four_processors();
    world.set_policy("default = 'block'");
    drop(world.events());
    let mut seen = Vec::new();
    thread::scope(|scope| {
        for processor in 1..PROCESSORS {
            let kernel = &world.kernel;
            scope.spawn(move || {
                let mut net = Net::new(kernel, processor);
                for port in ports(processor).take(DATAGRAMS) {
                    assert!(!net.passes(udp(
                        &format!("192.0.2.10:{port}"),
                        "198.51.100.1:9999",
                        b"datagram"
                    )));
                }
            });
        }
        while seen.len() < DATAGRAMS * (PROCESSORS as usize - 1) {
            seen.extend(world.events());
        }
    });
    let mut sequences: Vec<u64> = seen.iter().map(|event| event.sequence.get()).collect();
    assert!(sequences.is_sorted(), "in the order of their numbers");
    sequences.dedup();
    assert_eq!(
        sequences.len(),
        DATAGRAMS * (PROCESSORS as usize - 1),
        "each once"
    );
    assert_eq!(world.counter(Counter::EventsDropped), 0);
    world.end();
}

#[test]
fn what_is_held_on_four_processors_goes_on_once_by_its_answer() {
    let world = four_processors();
    world.set_policy(
        "default = 'permit'\n[[rule]]\naction = 'ask'\nremote_port = [443, 9999]\nask_seconds = 600",
    );
    assert!(world.device().questions().is_empty());
    let over = AtomicU64::new(0);
    let (answered, passed, refused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for processor in 1..PROCESSORS {
            let (kernel, over, passed, refused) = (&world.kernel, &over, &passed, &refused);
            scope.spawn(move || {
                let mut net = Net::new(kernel, processor);
                for port in ports(processor).take(40) {
                    let syn = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:443")
                        .handshake()
                        .remove(0);
                    let datagram = udp(
                        &format!("[2001:db8::10]:{port}"),
                        "[2001:db8::80]:9999",
                        b"datagram",
                    );
                    assert!(!net.passes(&syn));
                    assert!(!net.passes(&datagram));
                    let mut fates = Vec::new();
                    while fates.len() < 2 {
                        fates.extend(net.settle());
                        thread::yield_now();
                    }
                    assert_eq!(fates.len(), 2, "each goes on once");
                    for (_, fate) in fates {
                        let count = if fate { passed } else { refused };
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                net.finish();
                over.fetch_add(1, Ordering::Release);
            });
        }
        while over.load(Ordering::Acquire) < u64::from(PROCESSORS) - 1 {
            for question in world.device().questions() {
                // Odd ports are permitted.
                let verdict = if question.local_port.get() % 2 == 1 {
                    Action::Permit
                } else {
                    Action::Block
                };
                assert!(world.device().reply(&question, verdict));
                answered.fetch_add(1, Ordering::Relaxed);
            }
            drop(world.events());
        }
    });
    let all = (u64::from(PROCESSORS) - 1) * 40 * 2;
    assert_eq!(answered.into_inner(), all);
    assert_eq!(
        (passed.into_inner(), refused.into_inner()),
        (all / 2, all / 2)
    );
    assert_eq!(world.status().held.get(), 0);
    world.end();
}
