//! A driver for KMDF 1.15: connections wait for a program's decision.

use ksim::{Caller, Config, FileHandle, IoResult, Report};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::machine::{assert_found, status};
use portcullis_tests::foreign::test_drivers::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::{Net, Tcp};
use wfp_schema::NtStatus;

const DEVICE: &str = r"\\.\Warden";

/// `CTL_CODE(FILE_DEVICE_NETWORK, 0x840 + function, METHOD_BUFFERED, access)`.
const fn code(function: u32, access: u32) -> u32 {
    0x12 << 16 | access << 14 | (0x840 + function) << 2
}

const SET_PORT: u32 = code(0, 2);
const ASK: u32 = code(1, 1);
const ANSWER: u32 = code(2, 2);

/// A connection that a program is asked about: its number and ports.
fn question(result: &IoResult) -> (u32, u16, u16) {
    assert_eq!(result.status, NtStatus::SUCCESS);
    let bytes = &result.output;
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    (
        u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes")),
        half(4),
        half(6),
    )
}

fn answer(device: &FileHandle, id: u32, permit: bool) -> NtStatus {
    let input = [id.to_le_bytes(), u32::from(permit).to_le_bytes()].concat();
    status(device.ioctl(ANSWER, &input, 0))
}

fn watch(device: &FileHandle, port: u32) {
    assert_eq!(
        status(device.ioctl(SET_PORT, &port.to_le_bytes(), 0)),
        NtStatus::SUCCESS
    );
}

fn connect(port: u16, remote: u16) -> Vec<Vec<u8>> {
    Tcp::new(
        &format!("192.0.2.10:{port}"),
        &format!("198.51.100.1:{remote}"),
    )
    .handshake()
}

fn connect_v6(port: u16, remote: u16) -> Vec<Vec<u8>> {
    Tcp::new(
        &format!("[2001:db8::10]:{port}"),
        &format!("[2001:db8::80]:{remote}"),
    )
    .handshake()
}

#[test]
fn a_connection_waits_until_a_program_permits_it() {
    let mut machine = Machine::with("warden");
    let device = machine.open(DEVICE);
    watch(&device, 443);
    for (port, packets) in [
        (50_000, connect(50_000, 443)),
        (50_001, connect_v6(50_001, 443)),
    ] {
        let asked = alive(device.ioctl_async(ASK, &[], 8));
        let first = machine.net.packet(&packets[0]);
        assert!(
            first.reason.is_some_and(ksim::net::Reason::is_pending),
            "{first:?}"
        );
        let (id, local, remote) = question(&asked.poll().expect("the program is asked"));
        assert_eq!((local, remote), (port, 443));
        assert_eq!(machine.net.settle(), [], "it waits");
        assert_eq!(answer(&device, id, true), NtStatus::SUCCESS);
        assert_eq!(machine.net.settle(), [(first.id, true)]);
        assert!(machine.net.all_pass(&packets[1..]));
        assert_eq!(
            answer(&device, id, true),
            NtStatus::NOT_FOUND,
            "it was answered"
        );
    }
    alive(device.close());
    machine.end();
}

#[test]
fn a_connection_that_a_program_refuses_is_refused() {
    let mut machine = Machine::with("warden");
    let device = machine.open(DEVICE);
    watch(&device, 443);
    let packets = connect(50_000, 443);
    let first = machine.net.packet(&packets[0]);
    assert!(!first.passed);
    let asked = alive(alive(device.ioctl_async(ASK, &[], 8)).wait());
    assert_eq!(
        answer(&device, question(&asked).0, false),
        NtStatus::SUCCESS
    );
    assert_eq!(machine.net.settle(), [(first.id, false)]);
    assert!(machine.net.none_passes(&packets[1..]));
    assert!(
        machine.net.all_pass(&connect(50_001, 80)),
        "nobody asks about these"
    );
    alive(device.close());
    machine.end();
}

#[test]
fn programs_are_asked_in_the_order_of_the_connections() {
    let mut machine = Machine::with("warden");
    let device = machine.open(DEVICE);
    watch(&device, 443);
    let first: Vec<_> = (50_000..50_008)
        .map(|port| machine.net.packet(&connect(port, 443)[0]).id)
        .collect();
    let asked: Vec<_> = (0..8)
        .map(|_| question(&alive(alive(device.ioctl_async(ASK, &[], 8)).wait())))
        .collect();
    let ports: Vec<u16> = asked.iter().map(|question| question.1).collect();
    assert_eq!(ports, (50_000..50_008).collect::<Vec<_>>());
    for (place, (id, ..)) in asked.iter().enumerate().rev() {
        assert_eq!(answer(&device, *id, place % 2 == 0), NtStatus::SUCCESS);
        assert_eq!(machine.net.settle(), [(first[place], place % 2 == 0)]);
    }
    alive(device.close());
    machine.end();
}

#[test]
fn a_request_for_a_question_is_cancelled() {
    let machine = Machine::with("warden");
    let device = machine.open(DEVICE);
    let asked = alive(device.ioctl_async(ASK, &[], 8));
    assert!(asked.poll().is_none());
    alive(asked.cancel());
    assert_eq!(
        asked.poll().expect("it is over").status,
        NtStatus::CANCELLED
    );
    alive(device.close());
    machine.end();
}

#[test]
fn connections_that_wait_at_the_unload_are_refused() {
    let mut machine = Machine::with("warden");
    let device = machine.open(DEVICE);
    watch(&device, 443);
    let waiting: Vec<_> = (50_000..50_010)
        .map(|port| machine.net.packet(&connect(port, 443)[0]).id)
        .collect();
    alive(device.close());
    let report = machine.unload();
    assert!(report.is_clean(), "{report:#?}");
    let settled = machine.net.settle();
    assert_eq!(
        settled.len(),
        waiting.len(),
        "none waits any more: {settled:?}"
    );
    assert!(machine.net.all_pass(&connect(51_000, 443)));
}

#[test]
fn three_processors_connect_while_a_program_decides() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let machine = Machine::with_built(&config, &built("warden", None));
    let device = machine.open(DEVICE);
    watch(&device, 443);
    std::thread::scope(|scope| {
        for processor in 1..4_u16 {
            let kernel = &machine.kernel;
            scope.spawn(move || {
                let mut net = Net::new(kernel, u32::from(processor));
                for round in 0..40_u16 {
                    net.packet(&connect(40_000 + processor * 1_000 + round, 443)[0]);
                }
                net.settle();
            });
        }
        for _ in 0..120 {
            let asked = alive(device.ioctl_async(ASK, &[], 8));
            if asked.poll().is_none() {
                alive(asked.cancel());
            }
            if let Some(result) = asked.poll()
                && result.status.is_success()
            {
                let (id, ..) = question(&result);
                assert_eq!(answer(&device, id, id % 2 == 0), NtStatus::SUCCESS);
            }
        }
    });
    alive(device.close());
    machine.end();
}

#[test]
fn three_processors_connect_while_it_is_unloaded_in_the_middle() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let mut machine = Machine::with_built(&config, &built("warden", None));
    let device = machine.open(DEVICE);
    watch(&device, 443);
    alive(device.close());
    let report = machine.unload_under_traffic(|net, port| {
        net.packet(&connect(port, 443)[0]);
        net.packet(&connect_v6(port, 443)[0]);
        net.settle();
    });
    assert!(report.is_clean(), "{report:#?}");
    assert!(machine.net.all_pass(&connect(50_000, 443)));
}

/// Everything that the driver does, in a form that goes on when something fails.
fn scenario(machine: &mut Machine) {
    let Ok(device) = machine.open_as(DEVICE, Caller::administrator()) else {
        return;
    };
    drop(alive(device.ioctl(SET_PORT, &443_u32.to_le_bytes(), 0)));
    for (port, permit) in [(50_000, 1_u32), (50_001, 0)] {
        machine.net.packet(&connect(port, 443)[0]);
        let asked = alive(device.ioctl_async(ASK, &[], 8));
        match asked.poll() {
            Some(result) if result.status.is_success() => {
                let input = [question(&result).0.to_le_bytes(), permit.to_le_bytes()].concat();
                drop(alive(device.ioctl(ANSWER, &input, 0)));
            }
            Some(_) => {}
            None => alive(asked.cancel()),
        }
        machine.net.settle();
    }
    machine.net.packet(&connect(50_002, 443)[0]);
    alive(device.close());
}

#[test]
fn each_call_fails_in_turn_and_nothing_is_left() {
    let calls = sweep(&built("warden", None), scenario);
    assert!(calls > 20, "{calls}");
}

fn report_of(bug: &str) -> Report {
    let mut machine = Machine::with_bug("warden", bug);
    scenario(&mut machine);
    machine.unload()
}

#[test]
fn an_operation_that_is_never_completed_is_a_leak() {
    let report = report_of("never-complete");
    assert_found(&report, "unload-left");
    assert!(
        report
            .leaks
            .iter()
            .any(|leak| leak.kind == "pended operation"),
        "{report:#?}"
    );
}

#[test]
fn an_operation_that_is_completed_twice_is_named() {
    assert_found(&report_of("complete-twice"), "pend-protocol");
}

#[test]
fn an_operation_that_is_pended_without_absorbing_is_named() {
    assert_found(&report_of("no-absorb"), "classify-flags");
}

#[test]
fn a_reauthorization_that_is_pended_is_named() {
    let mut machine = Machine::with_bug("warden", "pend-again");
    let device = machine.open(DEVICE);
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:443");
    assert!(machine.net.all_pass(&tcp.handshake()), "no port is watched");
    // A change of the policy has connections authorized again.
    let other = portcullis_tests::Product::new(&machine.kernel, 0x100);
    other.add_filter(
        wfp_schema::LayerId::ALE_AUTH_CONNECT_V4,
        wfp_schema::Action::Permit,
        wfp_schema::FilterFlags::NONE,
        Vec::new(),
    );
    machine.net.packet(&tcp.client_says(b"more"));
    machine.net.settle();
    other.close();
    alive(device.close());
    assert_found(&machine.unload(), "pend-reauthorization");
}
