//! What is held when the driver, the engine or the machine stops.

use portcullis_proto::{Action as Verdict, Counter, DriverState};
use portcullis_tests::control::alive;
use portcullis_tests::packets::SYN;
use portcullis_tests::world::assert_unloaded_while_open;
use portcullis_tests::{Tcp, World, udp};

use super::{ASK, ASK_OR_PERMIT, TCP_ACCEPTS, TCP_CONNECTS, answer, asked, settled, waits};

#[test]
fn unloading_lets_what_is_held_go() {
    // By the default, or, of the connects, because the driver's filters are gone with it.
    for (policy, goes_on) in [(ASK, 2), (ASK_OR_PERMIT, 6)] {
        let mut world = asked(policy);
        for (client, server) in TCP_CONNECTS.into_iter().chain(TCP_ACCEPTS) {
            assert!(waits(
                &world.net.packet(&Tcp::new(client, server).handshake()[0])
            ));
        }
        assert!(waits(&world.net.packet(&udp(
            "192.0.2.10:50000",
            "198.51.100.1:4433",
            b"x"
        ))));
        assert!(waits(&world.net.packet(&udp(
            "198.51.100.1:4433",
            "192.0.2.10:9999",
            b"x"
        ))));
        let report = world.unload_with_open_device();
        assert_unloaded_while_open(&report);
        assert_eq!(settled(&mut world), vec![true; goes_on]);
        world.assert_nothing_of_ours();
    }
}

#[test]
fn the_engines_stop_lets_what_is_held_go_and_asking_goes_on_when_it_is_back() {
    let mut world = asked(ASK);
    for (client, server) in TCP_CONNECTS.into_iter().chain(TCP_ACCEPTS) {
        assert!(waits(
            &world.net.packet(&Tcp::new(client, server).handshake()[0])
        ));
    }
    world.stop_bfe();
    assert_eq!(world.status().held.get(), 0);
    assert_eq!(world.counter(Counter::AskAbandoned), 4);
    drop(settled(&mut world));
    drop(world.device().questions());
    world.start_bfe();
    assert_eq!(world.state(), DriverState::Active);
    let syn = Tcp::new("192.0.2.10:50009", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    assert!(waits(&world.net.packet(&syn)));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    world.end();
}

#[test]
fn nothing_is_held_while_the_engine_is_down_though_its_filters_outlive_it() {
    for (policy, passes) in [(ASK, false), (ASK_OR_PERMIT, true)] {
        let mut world = World::answering(|options| options.filters_outlive_bfe = true);
        world.set_policy(policy);
        assert!(world.device().questions().is_empty());
        let syn = |client: usize, port: u16| {
            let (client, server) = TCP_CONNECTS[client];
            let client = client.replace("50000", &port.to_string());
            Tcp::new(&client, server).segment(true, SYN, &[])
        };
        assert!(waits(&world.net.packet(&syn(0, 50_000))));
        assert!(waits(&world.net.packet(&syn(1, 50_000))));
        // It is gone before the driver has taken its filters away.
        let time = world.kernel.time();
        time.set_lateness("WDFWORKITEM", 10_000);
        alive(world.kernel.on(0, |_| world.kernel.bfe().stop()));
        time.set_lateness("WDFWORKITEM", 0);
        world.net.wait(1);
        assert_eq!(world.state(), DriverState::WaitingForBfe);
        assert_eq!(settled(&mut world), [passes; 2]);
        for client in 0..2 {
            assert_eq!(world.net.passes(syn(client, 50_001)), passes, "{policy}");
        }
        assert_eq!(world.status().held.get(), 0);
        assert_eq!(world.counter(Counter::AskNobody), 2);
        world.start_bfe();
        assert!(waits(&world.net.packet(&syn(0, 50_002))));
        assert!(waits(&world.net.packet(&syn(1, 50_002))));
        for question in world.device().questions() {
            assert!(world.device().reply(&question, Verdict::Permit));
        }
        assert_eq!(settled(&mut world), [true; 2]);
        world.end();
    }
}

#[test]
fn sleep_with_operations_held_loses_nothing() {
    let mut world = asked(ASK);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:4433");
    let handshake = tcp.handshake();
    assert!(waits(&world.net.packet(&handshake[0])));
    alive(world.kernel.sleep());
    world.net.wait(3_600);
    alive(world.kernel.resume());
    drop(settled(&mut world));
    assert_eq!(world.status().held.get(), 0, "its time was over");
    assert!(world.net.none_passes(&handshake[1..]));
    let syn = Tcp::new("192.0.2.10:50001", "198.51.100.1:4433")
        .handshake()
        .remove(0);
    drop(world.device().questions());
    assert!(waits(&world.net.packet(&syn)));
    assert_eq!(answer(&mut world, Verdict::Permit), [true]);
    world.end();
}
