//! A driver for KMDF 1.9: streams are edited, connections have contexts, packets are replaced by clones.

use ksim::{Caller, Config, FileHandle, Report};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::machine::{assert_found, status};
use portcullis_tests::foreign::test_drivers::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::{Tcp, udp};
use wfp_engine::InjectionCompletion;
use wfp_schema::NtStatus;

const DEVICE: &str = r"\\.\Editor";

/// `CTL_CODE(FILE_DEVICE_NETWORK, 0x820 + function, METHOD_BUFFERED, access)`.
const fn code(function: u32, access: u32) -> u32 {
    0x12 << 16 | access << 14 | (0x820 + function) << 2
}

const SET_WORD: u32 = code(0, 2);
const SET_CLONING: u32 = code(1, 2);
const COUNTERS: u32 = code(2, 1);

#[derive(Debug, PartialEq, Eq)]
struct Counters {
    flows: u32,
    masked: u32,
    deferred: u32,
    cloned: u32,
}

fn counters(device: &FileHandle) -> Counters {
    let result = alive(device.ioctl(COUNTERS, &[], 16));
    assert_eq!(result.status, NtStatus::SUCCESS);
    let word =
        |at: usize| u32::from_le_bytes(result.output[4 * at..][..4].try_into().expect("4 bytes"));
    Counters {
        flows: word(0),
        masked: word(1),
        deferred: word(2),
        cloned: word(3),
    }
}

fn mask(device: &FileHandle, word: &[u8]) {
    assert_eq!(status(device.ioctl(SET_WORD, word, 0)), NtStatus::SUCCESS);
}

fn clone_packets(device: &FileHandle) {
    assert_eq!(
        status(device.ioctl(SET_CLONING, &[1], 0)),
        NtStatus::SUCCESS
    );
}

fn connected(machine: &mut Machine, port: u16) -> Tcp {
    let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80");
    assert!(machine.net.all_pass(&tcp.handshake()));
    tcp
}

#[test]
fn only_administrators_open_it() {
    let machine = Machine::with("editor");
    let refused = machine.open_as(DEVICE, Caller::user()).map(drop);
    assert_eq!(refused, Err(NtStatus::ACCESS_DENIED));
    machine.end();
}

#[test]
fn a_word_is_masked_in_both_directions_of_both_versions() {
    let mut machine = Machine::with("editor");
    let device = machine.open(DEVICE);
    mask(&device, b"secret");
    let mut masked = 0;
    for (client, server) in [
        ("192.0.2.10:50000", "198.51.100.1:80"),
        ("[2001:db8::10]:50000", "[2001:db8::80]:80"),
        ("198.51.100.1:50000", "192.0.2.10:80"),
    ] {
        let mut tcp = Tcp::new(client, server);
        assert!(machine.net.all_pass(&tcp.handshake()));
        for packet in [
            tcp.client_says(b"a secret question"),
            tcp.server_says(b"secret, secret"),
        ] {
            machine.net.packet(&packet);
            machine.net.settle();
            masked += 1;
            assert_eq!(counters(&device).masked, masked);
        }
        assert!(machine.net.passes(tcp.client_says(b"nothing to hide")));
        machine.net.fates(&tcp.close());
        machine.net.settle();
        assert_eq!(counters(&device).masked, masked);
    }
    alive(device.close());
    machine.end();
}

#[test]
fn a_word_that_comes_in_two_parts_is_waited_for() {
    let mut machine = Machine::with("editor");
    let device = machine.open(DEVICE);
    mask(&device, b"secret");
    let mut tcp = connected(&mut machine, 50_000);
    machine.net.packet(&tcp.client_says(b"this is sec"));
    assert_eq!(
        (counters(&device).deferred, counters(&device).masked),
        (1, 0)
    );
    machine.net.packet(&tcp.client_says(b"ret."));
    machine.net.settle();
    assert_eq!(
        (counters(&device).deferred, counters(&device).masked),
        (1, 1)
    );
    machine.net.packet(&tcp.client_says(b"this is sec"));
    machine.net.fates(&tcp.close());
    machine.net.settle();
    assert_eq!(
        counters(&device).masked,
        1,
        "the end of a stream is waited for no longer"
    );
    alive(device.close());
    machine.end();
}

#[test]
fn every_connection_has_a_context_until_it_ends() {
    let mut machine = Machine::with("editor");
    let device = machine.open(DEVICE);
    let mut connections: Vec<Tcp> = (0..10)
        .map(|number| connected(&mut machine, 50_000 + number))
        .collect();
    assert_eq!(counters(&device).flows, 10);
    for tcp in connections.iter_mut().take(4) {
        assert!(machine.net.all_pass(&tcp.close()));
    }
    assert_eq!(counters(&device).flows, 6);
    alive(device.close());
    let report = machine.unload();
    assert!(report.is_clean(), "{report:#?}");
    for tcp in connections.iter_mut().skip(4) {
        assert!(
            machine.net.passes(tcp.server_says(b"still here")),
            "the connections live on"
        );
    }
}

#[test]
fn packets_are_replaced_by_clones_once() {
    let mut machine = Machine::with("editor");
    let device = machine.open(DEVICE);
    clone_packets(&device);
    for port in 50_000..50_010 {
        let packet = udp(&format!("192.0.2.10:{port}"), "198.51.100.53:53", b"query");
        let report = machine.net.packet(&packet);
        let settled = machine.net.settle();
        assert!(
            report.passed || settled == [(report.id, true)],
            "{report:?} {settled:?}"
        );
    }
    assert_eq!(counters(&device).cloned, 10);
    assert!(
        machine
            .net
            .passes(udp("198.51.100.53:53", "192.0.2.10:50000", b"answer"))
    );
    alive(device.close());
    machine.end();
}

#[test]
fn three_processors_edit_while_it_is_unloaded_in_the_middle() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let mut machine = Machine::with_built(&config, &built("editor", None));
    let device = machine.open(DEVICE);
    mask(&device, b"secret");
    clone_packets(&device);
    alive(device.close());
    let report = machine.unload_under_traffic(|net, port| {
        let mut tcp = Tcp::new(&format!("192.0.2.10:{port}"), "198.51.100.1:80");
        net.fates(&tcp.handshake());
        net.packet(&tcp.client_says(b"a secret and a secr"));
        net.packet(&tcp.server_says(b"no secret"));
        if port % 2 == 0 {
            net.fates(&tcp.close());
        }
        net.settle();
    });
    assert!(report.is_clean(), "{report:#?}");
}

/// Everything that the driver does, in a form that goes on when something fails.
fn scenario(machine: &mut Machine) {
    let Ok(device) = machine.open_as(DEVICE, Caller::administrator()) else {
        return;
    };
    drop(alive(device.ioctl(SET_WORD, b"secret", 0)));
    drop(alive(device.ioctl(SET_CLONING, &[1], 0)));
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    for packet in tcp.handshake() {
        machine.net.packet(&packet);
    }
    machine
        .net
        .packet(&tcp.client_says(b"a secret question, sec"));
    machine.net.packet(&tcp.server_says(b"a secret answer"));
    machine.net.settle();
    drop(alive(device.ioctl(COUNTERS, &[], 16)));
    alive(device.close());
}

#[test]
fn each_call_fails_in_turn_and_nothing_is_left() {
    let calls = sweep(&built("editor", None), scenario);
    assert!(calls > 30, "{calls}");
}

/// Runs the driver that makes this mistake through everything, and returns what the verifier found.
fn report_of(bug: &str) -> Report {
    let mut machine = Machine::with_bug("editor", bug);
    scenario(&mut machine);
    machine.unload()
}

#[test]
fn a_context_that_its_flow_leaves_behind_is_a_leak() {
    let report = report_of("leak-flow");
    assert_found(&report, "unload-left");
    assert!(
        report
            .leaks
            .iter()
            .any(|leak| leak.kind == "pool" && leak.name == "Edit"),
        "{report:#?}"
    );
}

#[test]
fn contexts_that_are_kept_keep_the_callout() {
    let report = report_of("keep-contexts");
    assert_found(&report, "unload-left");
    assert!(
        report.leaks.iter().any(|leak| leak.kind == "callout"),
        "{report:#?}"
    );
}

#[test]
fn a_clone_that_is_never_freed_is_a_leak() {
    let report = report_of("leak-clone");
    assert_found(&report, "unload-left");
}

#[test]
fn an_injection_handle_that_is_forgotten_is_a_leak() {
    let report = report_of("forget-handle");
    assert_found(&report, "unload-left");
    assert!(
        report
            .leaks
            .iter()
            .any(|leak| leak.kind == "injection handle"),
        "{report:#?}"
    );
}

#[test]
fn a_clone_that_is_freed_while_it_is_injected_is_named() {
    // Once its completion has freed the clone, the driver's own free is its second.
    for (completion, rule) in [
        (InjectionCompletion::Deferred, "nbl-state"),
        (InjectionCompletion::DeferredPassive, "nbl-state"),
        (InjectionCompletion::Inline, "object-stale"),
    ] {
        let driver = built("editor", Some("free-injected"));
        let mut machine = Machine::answering(&driver, |options| {
            options.injection_completion = completion;
        });
        scenario(&mut machine);
        assert_found(&machine.unload(), rule);
    }
}
