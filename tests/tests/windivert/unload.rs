//! Starting and unloading, also in the middle of everything.

use ksim::Config;
use portcullis_tests::control::alive;
use portcullis_tests::foreign::windivert::{self, Layer, Program, RECV_ONLY, SNIFF};
use portcullis_tests::world::{assert_clean, load};
use portcullis_tests::{Net, Tcp, udp};
use wfp_schema::NtStatus;

use super::machine;

#[test]
fn it_loads_starts_and_unloads() {
    let Some((world, driver)) = machine() else {
        return;
    };
    assert!(
        world
            .kernel
            .io()
            .names()
            .iter()
            .any(|name| name.contains("windivert"))
    );
    assert_clean(&alive(driver.unload()));
    assert!(
        world
            .kernel
            .io()
            .names()
            .iter()
            .all(|name| !name.contains("windivert"))
    );
    assert!(world.engine().registered_callouts().is_empty());
}

#[test]
fn the_end_of_a_program_ends_its_reads_and_the_driver_can_go() {
    let Some((mut world, driver)) = machine() else {
        return;
    };
    let programs: Vec<Program> = [
        (Layer::Network, 0),
        (Layer::Network, SNIFF),
        (Layer::Forward, 0),
        (Layer::Flow, SNIFF | RECV_ONLY),
        (Layer::Socket, RECV_ONLY | SNIFF),
        (Layer::Reflect, SNIFF | RECV_ONLY),
    ]
    .into_iter()
    .map(|(layer, flags)| Program::open(&world.kernel, layer, flags))
    .collect();
    let reads: Vec<_> = programs
        .iter()
        .flat_map(|program| (0..4).map(|_| program.recv()))
        .collect();
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    for packet in tcp.handshake() {
        world.net.packet(&packet);
    }
    drop(programs);
    for read in &reads {
        assert!(read.pending.poll().is_some(), "every read is over");
    }
    let report = alive(driver.unload());
    assert_clean(&report);
    assert!(world.engine().registered_callouts().is_empty());
    world.net.settle();
    assert!(
        world
            .net
            .passes(udp("192.0.2.10:50001", "198.51.100.1:9999", b"after it"))
    );
}

#[test]
fn it_is_unloaded_and_loaded_again_while_connections_go_on() {
    let Some((mut world, mut driver)) = machine() else {
        return;
    };
    let image = windivert::image(env!("CARGO_TARGET_TMPDIR")).expect("it is here");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(world.net.all_pass(&tcp.handshake()));
    for _ in 0..10 {
        let program = Program::open(&world.kernel, Layer::Network, SNIFF);
        world.net.packet(&tcp.client_says(b"while it runs"));
        world.net.settle();
        assert!(!program.waiting().is_empty());
        program.close();
        assert_clean(&alive(driver.unload()));
        assert!(world.net.passes(tcp.server_says(b"without it")));
        driver = load(&world.kernel, windivert::NAME, image);
        assert_eq!(alive(driver.start()), NtStatus::SUCCESS);
    }
    assert_clean(&alive(driver.unload()));
}

#[test]
fn four_processors_send_and_receive_until_it_goes() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let Some((world, driver)) = windivert::machine(env!("CARGO_TARGET_TMPDIR"), &config) else {
        return;
    };
    let program = Program::open(&world.kernel, Layer::Network, 0);
    std::thread::scope(|scope| {
        for processor in 1..4_u16 {
            let kernel = &world.kernel;
            scope.spawn(move || {
                let mut net = Net::new(kernel, u32::from(processor));
                for round in 0..50 {
                    let port = 40_000 + processor * 1_000 + round;
                    net.packet(&udp(
                        &format!("192.0.2.10:{port}"),
                        "198.51.100.1:9999",
                        b"question",
                    ));
                }
            });
        }
        for _ in 0..150 {
            let read = program.recv();
            if read.pending.poll().is_none() {
                alive(read.pending.cancel());
            }
            if let Some(result) = read.pending.poll()
                && result.status.is_success()
            {
                let received = read.take().expect("it is over");
                assert_eq!(program.send(&received), NtStatus::SUCCESS);
            }
        }
    });
    program.close();
    assert_clean(&alive(driver.unload()));
}
