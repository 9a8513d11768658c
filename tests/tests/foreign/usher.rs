//! A driver without a framework that redirects connections, and that has a thread of its own.

use ksim::net::{Output, Setup};
use ksim::{Caller, Config, FileHandle, Report};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::machine::assert_found;
use portcullis_tests::foreign::test_drivers::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::{Net, Tcp};
use wfp_schema::NtStatus;

const DEVICE: &str = r"\\.\Usher";
const COUNT: u32 = 0x12 << 16 | 1 << 14 | 0x860 << 2;

/// Where the driver sends connections to port 7000.
const PROXY: [u8; 6] = [203, 0, 113, 5, 0x1f, 0x90];

/// How many connections the driver's thread has counted.
fn count(device: &FileHandle) -> u32 {
    let result = alive(device.ioctl(COUNT, &[], 4));
    assert_eq!(result.status, NtStatus::SUCCESS);
    u32::from_le_bytes(result.output[..4].try_into().expect("4 bytes"))
}

/// The first packet of a connection.
fn syn(port: u16, remote: u16) -> Vec<u8> {
    let mut handshake = Tcp::new(
        &format!("192.0.2.10:{port}"),
        &format!("198.51.100.1:{remote}"),
    )
    .handshake();
    handshake.remove(0)
}

/// Where a packet without IP options goes: address and port.
fn destination(packet: &[u8]) -> [u8; 6] {
    let mut destination = [0; 6];
    destination[..4].copy_from_slice(&packet[16..20]);
    destination[4..].copy_from_slice(&packet[22..24]);
    destination
}

#[test]
fn connections_to_one_port_go_to_the_proxy_and_the_thread_counts_them() {
    let machine = Machine::with("usher");
    let setup = Setup {
        output: true,
        ..Setup::default()
    };
    let mut net = Net::with_setup(&machine.kernel, 0, setup);
    let device = machine.open(DEVICE);
    for (port, remote) in [(50_000, 7_000), (50_001, 7_001), (50_002, 7_000)] {
        let packet = syn(port, remote);
        assert!(net.passes(&packet));
        let sent: Vec<_> = net
            .output()
            .into_iter()
            .filter_map(|output| match output {
                Output::Sent(bytes) => Some(destination(&bytes)),
                _ => None,
            })
            .collect();
        let expected = if remote == 7_000 {
            PROXY
        } else {
            destination(&packet)
        };
        assert_eq!(sent, [expected]);
    }
    assert_eq!(count(&device), 2);
    alive(device.close());
    drop(net);
    machine.end();
}

#[test]
fn its_thread_works_while_three_processors_connect_and_it_is_unloaded() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let mut machine = Machine::with_built(&config, &built("usher", None));
    let report = machine.unload_under_traffic(|net, port| {
        net.packet(&syn(port, 7_000));
        net.settle();
    });
    assert!(report.is_clean(), "{report:#?}");
}

/// Everything that the driver does, in a form that goes on when something fails.
fn scenario(machine: &mut Machine) {
    machine.net.packet(&syn(50_000, 7_000));
    machine.net.settle();
    if let Ok(device) = machine.open_as(DEVICE, Caller::administrator()) {
        drop(alive(device.ioctl(COUNT, &[], 4)));
        alive(device.close());
    }
}

#[test]
fn each_call_fails_in_turn_and_nothing_is_left() {
    let calls = sweep(&built("usher", None), scenario);
    assert!(calls > 15, "{calls}");
}

fn report_of(bug: &str) -> Report {
    let mut machine = Machine::with_bug("usher", bug);
    scenario(&mut machine);
    machine.unload()
}

#[test]
fn layer_data_that_is_not_applied_is_named() {
    assert_found(&report_of("never-apply"), "layer-data");
}

#[test]
fn a_classify_handle_that_is_kept_is_a_leak() {
    let report = report_of("keep-handle");
    assert_found(&report, "unload-left");
    assert!(
        report
            .leaks
            .iter()
            .any(|leak| leak.kind == "classify handle"),
        "{report:#?}"
    );
}

#[test]
fn a_classify_that_uses_much_of_the_stack_is_named() {
    let mut machine = Machine::with_bug("usher", "deep-stack");
    machine.net.packet(&syn(50_000, 80));
    let report = machine.unload();
    assert_found(&report, "classify-stack");
    let found = &report.violations[0];
    let at = |place: &String, function| place.contains(function);
    assert!(at(&found.stack[0], "Deep"), "its last call: {found}");
    assert!(at(&found.stack[1], "Classify"), "{found}");
    assert_eq!(found.last_call, Some("PsGetCurrentProcessId"));
}

#[test]
fn an_unload_routine_that_uses_much_of_the_stack_is_named() {
    assert_found(&report_of("deep-unload"), "kernel-stack");
}

/// What the machine found by when it stopped, because the thread came back to where nothing was.
fn found_about_a_thread(bug: &str) -> Report {
    let mut machine = Machine::with_bug("usher", bug);
    scenario(&mut machine);
    let kernel = machine.kernel.clone();
    drop(machine.try_unload());
    kernel.verifier().report()
}

#[test]
fn a_thread_that_runs_while_its_driver_is_unloaded_is_named_with_its_stack() {
    for (bug, last) in [
        ("thread-left", "KeWaitForSingleObject"),
        ("thread-early", "KeDelayExecutionThread"),
    ] {
        let report = found_about_a_thread(bug);
        assert_found(&report, "unload-running");
        let running = report
            .violations
            .iter()
            .find(|found| found.rule == "unload-running")
            .expect("just found");
        assert_eq!(running.callback, Some("a system thread"));
        assert_eq!(running.driver.as_deref(), Some("usher.sys"));
        assert_eq!(running.last_call, Some(last), "{bug}: {running}");
        assert!(running.stack[0].contains("Serve"), "{bug}: {running}");
        assert!(running.stack[0].contains("usher.c:"), "{bug}: {running}");
    }
}
