//! A driver without a framework: its device, its requests and how they are cancelled, its callouts of version 0.

use ksim::{Caller, Config, FileHandle, IoResult, Schedule};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::machine::{assert_found, status};
use portcullis_tests::foreign::test_drivers::built;
use portcullis_tests::foreign::{Machine, sweep};
use portcullis_tests::{Net, Product, Tcp, udp};
use wfp_engine::Condition;
use wfp_schema::{Action, FilterFlags, LayerId, NtStatus};

const DEVICE: &str = r"\\.\Gate";

/// `CTL_CODE(FILE_DEVICE_NETWORK, 0x800 + function, method, access)`.
const fn code(function: u32, method: u32, access: u32) -> u32 {
    0x12 << 16 | access << 14 | (0x800 + function) << 2 | method
}

const READ: u32 = 1;
const WRITE: u32 = 2;
const SET_PORT: u32 = code(0, 0, WRITE);
const COUNTERS: u32 = code(1, 0, READ);
const NEXT_BLOCKED: u32 = code(2, 2, READ);
const SUM: u32 = code(3, 1, WRITE);
const RESET: u32 = code(4, 3, WRITE);
const PORT_CHANGE: u32 = code(5, 0, READ);

/// Bytes of what a blocked connection is told as.
const BLOCKED: usize = 8;

fn set_port(device: &FileHandle, port: u32) {
    assert_eq!(
        status(device.ioctl(SET_PORT, &port.to_le_bytes(), 0)),
        NtStatus::SUCCESS
    );
}

#[derive(Debug, PartialEq, Eq)]
struct Counters {
    permitted: u32,
    blocked: u32,
    at_dispatch: u32,
    sum: u32,
    shut_down: u32,
}

fn counters(device: &FileHandle) -> Counters {
    let result = alive(device.ioctl(COUNTERS, &[], 20));
    assert_eq!(result.status, NtStatus::SUCCESS);
    let word = |at: usize| {
        u32::from_le_bytes(
            result.output[4 * at..4 * at + 4]
                .try_into()
                .expect("4 bytes"),
        )
    };
    Counters {
        permitted: word(0),
        blocked: word(1),
        at_dispatch: word(2),
        sum: word(3),
        shut_down: word(4),
    }
}

/// A blocked connection as the driver tells it: layer, local and remote port.
fn told(result: &IoResult) -> (u16, u16, u16) {
    assert_eq!(result.status, NtStatus::SUCCESS);
    let half = |at: usize| u16::from_le_bytes([result.output[2 * at], result.output[2 * at + 1]]);
    (half(0), half(1), half(2))
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
fn it_blocks_its_port_over_both_versions_and_permits_others() {
    let mut machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    assert!(
        machine.net.all_pass(&connect(50_000, 23)),
        "before a port is set"
    );
    set_port(&device, 23);
    assert!(machine.net.none_passes(&connect(50_001, 23)));
    assert!(machine.net.none_passes(&connect_v6(50_002, 23)));
    assert!(machine.net.all_pass(&connect(50_003, 80)));
    assert!(machine.net.all_pass(&connect_v6(50_004, 80)));
    assert!(
        !machine
            .net
            .passes(udp("192.0.2.10:50005", "198.51.100.1:23", b"datagram"))
    );
    let counters = counters(&device);
    assert_eq!(counters.permitted, 3);
    assert!(counters.blocked >= 3, "{counters:?}");
    alive(device.close());
    machine.end();
}

#[test]
fn it_reads_the_irql_from_the_processors_register() {
    let mut machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    let before = counters(&device);
    assert!(machine.net.all_pass(&connect(50_000, 80)));
    let after = counters(&device);
    assert_eq!(after.permitted, before.permitted + 1);
    assert!(after.at_dispatch <= 1, "{after:?}");
    alive(device.close());
    machine.end();
}

#[test]
fn every_transfer_method_hands_the_data_over() {
    let machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    set_port(&device, 4711);
    let read = alive(device.read(16));
    assert_eq!(
        (read.status, &*read.output),
        (NtStatus::SUCCESS, &b"4711"[..])
    );
    assert_eq!(alive(device.read(3)).status, NtStatus::BUFFER_TOO_SMALL);
    let result = device.ioctl_with_data(SUM, &[], &[1, 2, 3, 250]);
    assert_eq!(status(result), NtStatus::SUCCESS);
    assert_eq!(counters(&device).sum, 256);
    assert_eq!(status(device.ioctl(RESET, &[], 0)), NtStatus::SUCCESS);
    assert_eq!(counters(&device).sum, 0);
    alive(device.close());
    machine.end();
}

#[test]
fn bad_requests_are_refused() {
    let machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    for (request, input, output, expected) in [
        (SET_PORT, &[][..], 0, NtStatus::INVALID_PARAMETER),
        (SET_PORT, &[1, 2, 3], 0, NtStatus::INVALID_PARAMETER),
        (COUNTERS, &[], 19, NtStatus::BUFFER_TOO_SMALL),
        (NEXT_BLOCKED, &[], BLOCKED - 1, NtStatus::BUFFER_TOO_SMALL),
        (PORT_CHANGE, &[], 3, NtStatus::BUFFER_TOO_SMALL),
        (code(77, 0, 0), &[], 0, NtStatus::INVALID_DEVICE_REQUEST),
    ] {
        assert_eq!(
            status(device.ioctl(request, input, output)),
            expected,
            "{request:#x}"
        );
    }
    assert_eq!(
        status(device.write(b"nobody writes here")),
        NtStatus::INVALID_DEVICE_REQUEST,
        "what the system put into the dispatch table answers"
    );
    alive(device.close());
    machine.end();
}

#[test]
fn a_handle_has_the_access_that_its_caller_asked_for() {
    let machine = Machine::with("gate");
    let reader = machine
        .open_as(
            DEVICE,
            Caller::user().with_access(ksim::nt::io_security::GENERIC_READ),
        )
        .expect("everybody may read");
    assert_eq!(
        status(reader.ioctl(SET_PORT, &23_u32.to_le_bytes(), 0)),
        NtStatus::ACCESS_DENIED
    );
    assert_eq!(status(reader.ioctl(COUNTERS, &[], 20)), NtStatus::SUCCESS);
    alive(reader.close());
    machine.end();
}

#[test]
fn blocked_connections_wait_for_requests_and_requests_for_them() {
    let mut machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    set_port(&device, 23);
    // Requests first.
    let waiting: Vec<_> = (0..3)
        .map(|_| alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED)))
        .collect();
    assert_eq!(device.outstanding(), 3);
    for port in 50_000..50_003 {
        assert!(!machine.net.passes(&connect(port, 23)[0]));
    }
    for (waiting, port) in waiting.iter().zip(50_000..) {
        let result = waiting.poll().expect("it was told");
        assert_eq!(
            told(&result),
            (LayerId::ALE_AUTH_CONNECT_V4.get(), port, 23)
        );
    }
    // Connections first.
    for port in 50_010..50_013 {
        assert!(!machine.net.passes(&connect_v6(port, 23)[0]));
    }
    for port in 50_010..50_013 {
        let result = alive(alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED)).wait());
        assert_eq!(
            told(&result),
            (LayerId::ALE_AUTH_CONNECT_V6.get(), port, 23)
        );
    }
    alive(device.close());
    machine.end();
}

#[test]
fn requests_in_both_kinds_of_waiting_are_cancelled() {
    let mut machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    let other = machine.open(DEVICE);
    set_port(&device, 23);
    for request in [NEXT_BLOCKED, PORT_CHANGE] {
        let cancelled = alive(device.ioctl_async(request, &[], BLOCKED));
        assert!(cancelled.poll().is_none());
        alive(cancelled.cancel());
        assert_eq!(
            cancelled.poll().expect("it is over").status,
            NtStatus::CANCELLED
        );
        alive(cancelled.cancel());
    }
    let first = alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED));
    let second = alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED));
    alive(first.cancel());
    assert!(!machine.net.passes(&connect(50_000, 23)[0]));
    assert_eq!(told(&second.poll().expect("the other one")).1, 50_000);
    // The end of a handle ends what was asked through it, and nothing else.
    let own = alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED));
    let change = alive(device.ioctl_async(PORT_CHANGE, &[], 4));
    let others = alive(other.ioctl_async(NEXT_BLOCKED, &[], BLOCKED));
    alive(device.close());
    for ended in [own, change] {
        assert_eq!(
            ended.poll().expect("it is over").status,
            NtStatus::CANCELLED
        );
    }
    assert!(others.poll().is_none());
    drop(other);
    assert_eq!(
        others.poll().expect("it is over").status,
        NtStatus::CANCELLED
    );
    machine.end();
}

#[test]
fn one_program_hears_of_a_change_of_the_port() {
    let machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    let change = alive(device.ioctl_async(PORT_CHANGE, &[], 4));
    assert_eq!(
        status(device.ioctl(PORT_CHANGE, &[], 4)),
        NtStatus::DEVICE_BUSY
    );
    set_port(&device, 99);
    let result = change.poll().expect("it was told");
    assert_eq!(
        (result.status, &*result.output),
        (NtStatus::SUCCESS, &[99, 0, 0, 0][..])
    );
    alive(device.close());
    machine.end();
}

#[test]
fn it_hears_of_a_shutdown() {
    let machine = Machine::with("gate");
    let device = machine.open(DEVICE);
    alive(machine.kernel.shutdown());
    assert_eq!(counters(&device).shut_down, 1);
    alive(device.close());
    machine.end();
}

#[test]
fn traffic_goes_on_while_it_is_unloaded_and_loaded_again() {
    let mut machine = Machine::with("gate");
    let mut tcp = Tcp::new("192.0.2.10:50000", "198.51.100.1:80");
    assert!(machine.net.all_pass(&tcp.handshake()));
    for round in 0..20_u16 {
        let device = machine.open(DEVICE);
        set_port(&device, 23);
        assert!(machine.net.none_passes(&connect(51_000 + round, 23)));
        alive(device.close());
        let report = machine.unload();
        assert!(report.is_clean(), "{report:#?}");
        assert!(machine.net.all_pass(&connect(52_000 + round, 23)));
        assert!(machine.net.passes(tcp.client_says(b"still here")));
        machine.load_again(&built("gate", None));
    }
    machine.end();
}

#[test]
fn four_processors_connect_ask_and_cancel_at_once() {
    let config = Config {
        processors: 4,
        ..Config::default()
    };
    let machine = Machine::with_built(&config, &built("gate", None));
    let device = machine.open(DEVICE);
    set_port(&device, 23);
    std::thread::scope(|scope| {
        for processor in 1..4_u16 {
            let kernel = &machine.kernel;
            scope.spawn(move || {
                let mut net = Net::new(kernel, u32::from(processor));
                for round in 0..100 {
                    let port = 40_000 + processor * 1_000 + round;
                    assert!(!net.passes(&connect(port, 23)[0]));
                }
            });
        }
        let mut heard = 0;
        for round in 0..150 {
            let request = alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED));
            if round % 3 == 0 {
                alive(request.cancel());
            }
            // Cancelled or told, it is over or another connection ends it.
            heard += u32::from(
                request
                    .poll()
                    .is_some_and(|result| result.status.is_success()),
            );
            alive(request.cancel());
            let end = alive(request.wait());
            assert!(end.status == NtStatus::SUCCESS || end.status == NtStatus::CANCELLED);
        }
        println!("{heard} told at once");
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
    let mut machine = Machine::with_built(&config, &built("gate", None));
    let device = machine.open(DEVICE);
    set_port(&device, 23);
    alive(device.close());
    let report = machine.unload_under_traffic(|net, port| {
        net.packet(&connect(port, 23)[0]);
        net.fates(&connect_v6(port, 80));
    });
    assert!(report.is_clean(), "{report:#?}");
    assert!(machine.net.all_pass(&connect(50_000, 23)));
}

/// Its work item tells the unload that it has done with the device, and returns after that.
#[test]
fn a_work_item_that_has_let_the_unload_go_on_returns_to_its_driver() {
    let driver = built("gate", None);
    for seed in 0..60 {
        let config = Config {
            schedule: Schedule::seeded(seed),
            processors: 3,
            ..Config::default()
        };
        let mut machine = Machine::with_built(&config, &driver);
        let device = machine.open(DEVICE);
        set_port(&device, 23);
        alive(device.close());
        let mut net = Net::new(&machine.kernel, 1);
        let kernel = machine.kernel.clone();
        let mut report = None;
        kernel.together::<()>(vec![
            Box::new(|| report = Some(machine.unload())),
            Box::new(|| {
                net.packet(&connect(50_000, 23)[0]);
            }),
        ]);
        let report = report.expect("it was unloaded");
        assert!(report.is_clean(), "seed {seed}: {report:#?}");
    }
}

/// Everything that the driver does, in a form that goes on when something fails.
fn scenario(machine: &mut Machine) {
    let Ok(device) = machine.open_as(DEVICE, Caller::administrator()) else {
        return;
    };
    let answers = |result: Result<IoResult, ksim::Bugcheck>| drop(alive(result));
    answers(device.ioctl(SET_PORT, &23_u32.to_le_bytes(), 0));
    let waiting = alive(device.ioctl_async(NEXT_BLOCKED, &[], BLOCKED));
    let change = alive(device.ioctl_async(PORT_CHANGE, &[], 4));
    assert!(machine.net.none_passes(&connect(50_000, 23)));
    assert!(machine.net.none_passes(&connect_v6(50_001, 23)));
    assert!(machine.net.all_pass(&connect(50_002, 80)));
    answers(device.ioctl_with_data(SUM, &[], &[1, 2, 3]));
    answers(device.ioctl(SET_PORT, &80_u32.to_le_bytes(), 0));
    assert!(change.poll().is_some());
    alive(waiting.cancel());
    assert!(waiting.poll().is_some());
    alive(device.close());
}

#[test]
fn each_call_fails_in_turn_and_nothing_is_left() {
    let calls = sweep(&built("gate", None), scenario);
    assert!(calls > 15, "{calls}");
}

/// Runs `act` on a machine with the driver that makes this mistake, and returns what the verifier found.
fn report_of(bug: &str, act: impl FnOnce(&mut Machine, &FileHandle)) -> ksim::Report {
    let mut machine = Machine::with_bug("gate", bug);
    let device = machine.open(DEVICE);
    act(&mut machine, &device);
    alive(device.close());
    machine.unload()
}

/// The machine stops of it; what the verifier said.
fn stopped_by(
    bug: &str,
    act: impl FnOnce(&mut Machine, &FileHandle),
) -> (ksim::Report, ksim::Bugcheck) {
    let mut machine = Machine::with_bug("gate", bug);
    let device = machine.open(DEVICE);
    act(&mut machine, &device);
    let bugcheck = machine.kernel.bugcheck().expect("the machine has stopped");
    (machine.kernel.verifier().report(), bugcheck)
}

#[test]
fn a_callout_that_stays_is_a_leak() {
    let report = report_of("leak-callout", |_, _| ());
    assert_found(&report, "unload-left");
    assert_eq!(report.leaks.iter().map(|leak| leak.count).sum::<usize>(), 2);
    assert!(
        report
            .leaks
            .iter()
            .all(|leak| leak.kind == "callout" && leak.site.starts_with("gate.sys+"))
    );
}

#[test]
fn a_device_that_stays_is_a_leak() {
    let report = report_of("leak-device", |_, _| ());
    assert_found(&report, "unload-left");
    let [leak] = &report.leaks[..] else {
        panic!("{report:#?}")
    };
    assert_eq!((leak.kind, &*leak.name), ("device object", r"\Device\Gate"));
    assert!(leak.site.contains("DriverEntry"), "{leak}");
}

#[test]
fn pool_that_is_freed_twice_is_named() {
    let report = report_of("free-twice", |machine, device| {
        set_port(device, 23);
        assert!(!machine.net.passes(&connect(50_000, 23)[0]));
    });
    assert_found(&report, "pool-double-free");
}

#[test]
fn an_action_without_the_right_is_named() {
    let report = report_of("rights", |machine, _| {
        let other = Product::new(&machine.kernel, 0xf000);
        other.add_filter(
            LayerId::ALE_AUTH_CONNECT_V4,
            Action::Permit,
            FilterFlags::CLEAR_ACTION_RIGHT,
            Vec::<Condition>::new(),
        );
        assert!(machine.net.all_pass(&connect(50_000, 80)));
        other.close();
    });
    assert_found(&report, "classify-rights");
    let found = &report.violations[0];
    assert_eq!(found.callback, Some("classifyFn"), "{found}");
    assert_eq!(found.driver.as_deref(), Some("gate.sys"));
    let site = found.site.as_deref().expect("where the callback begins");
    assert!(
        site.contains("Classify") && site.contains("gate.c:"),
        "{site}"
    );
    assert_eq!(found.stack.last().map(|place| &**place), Some(site));
}

#[test]
fn a_block_that_keeps_the_right_is_named() {
    let report = report_of("block-keeps-right", |machine, device| {
        set_port(device, 23);
        assert!(machine.net.none_passes(&connect(50_000, 23)));
    });
    assert_found(&report, "classify-block-right");
    // It remembers the connection before it returns: what it called last is known.
    let found = &report.violations[0];
    assert_eq!(found.last_call, Some("IoQueueWorkItem"), "{found}");
}

#[test]
fn a_request_that_is_completed_twice_stops_the_machine() {
    let (report, bugcheck) = stopped_by("complete-twice", |_, device| {
        drop(device.ioctl(SET_PORT, &23_u32.to_le_bytes(), 0));
    });
    assert_found(&report, "request-completion");
    assert_eq!(bugcheck.code, 0x44, "MULTIPLE_IRP_COMPLETE_REQUESTS");
    assert!(bugcheck.message.contains("completed again"), "{bugcheck}");
    assert!(
        bugcheck.message.contains("gate.sys+"),
        "the place is named: {bugcheck}"
    );
}

#[test]
fn a_request_that_is_touched_after_its_completion_stops_the_machine() {
    let mut machine = Machine::with_bug("gate", "touch-completed");
    assert!(
        machine
            .kernel
            .open(DEVICE, Caller::administrator())
            .is_err()
    );
    let bugcheck = machine.kernel.bugcheck().expect("the machine has stopped");
    assert_found(&machine.kernel.verifier().report(), "irp-touched");
    assert!(
        bugcheck.message.contains("in the IRP of Create"),
        "{bugcheck}"
    );
    assert!(machine.try_unload().is_err());
}

#[test]
fn a_request_that_is_neither_completed_nor_pending_is_named() {
    let mut machine = Machine::with_bug("gate", "lost-request");
    let device = machine.open(DEVICE);
    let lost = alive(device.ioctl_async(SET_PORT, &23_u32.to_le_bytes(), 0));
    assert!(lost.poll().is_none());
    assert_found(&machine.kernel.verifier().report(), "request-completion");
    alive(device.close());
    let report = machine.unload();
    let left = report
        .violations
        .iter()
        .filter(|violation| violation.rule == "request-completion");
    assert_eq!(
        left.count(),
        2,
        "when it returned, and at the unload: {report:#?}"
    );
}

#[test]
fn a_request_that_waits_unmarked_is_named() {
    let report = report_of("pending-unmarked", |_, device| {
        let change = alive(device.ioctl_async(PORT_CHANGE, &[], 4));
        alive(change.cancel());
    });
    assert_found(&report, "irp-pending");
}

#[test]
fn a_completion_with_a_cancel_routine_set_is_named() {
    let report = report_of("cancel-left", |_, device| {
        let change = alive(device.ioctl_async(PORT_CHANGE, &[], 4));
        set_port(device, 23);
        assert!(change.poll().is_some());
    });
    assert_found(&report, "irp-cancel");
}

#[test]
fn a_cancel_routine_that_keeps_the_cancel_lock_is_named() {
    let report = report_of("cancel-lock", |_, device| {
        let change = alive(device.ioctl_async(PORT_CHANGE, &[], 4));
        alive(change.cancel());
        assert_eq!(
            change.poll().expect("it is over").status,
            NtStatus::CANCELLED
        );
    });
    assert_found(&report, "irp-cancel");
}
