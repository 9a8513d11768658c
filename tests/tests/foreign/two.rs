//! Two drivers in one machine: each finding, leak and object is the right one's.

use ksim::{Driver, FileHandle, Report};
use portcullis_tests::control::alive;
use portcullis_tests::foreign::Machine;
use portcullis_tests::foreign::machine::status;
use portcullis_tests::foreign::test_drivers::{Built, built};
use portcullis_tests::world::assert_clean;
use portcullis_tests::{Tcp, udp};
use wfp_schema::NtStatus;

/// The editor's request that makes it replace packets by clones.
const SET_CLONING: u32 = 0x12 << 16 | 2 << 14 | (0x820 + 1) << 2;

fn clone_packets(device: &FileHandle) {
    assert_eq!(
        status(device.ioctl(SET_CLONING, &[1], 0)),
        NtStatus::SUCCESS
    );
}

/// The editor that forgets its clones, under a name of its own.
fn second() -> Built {
    Built {
        name: "second.sys".to_owned(),
        ..built("editor", Some("second"))
    }
}

/// Whose code the leaks are of.
fn owners(report: &Report) -> Vec<&str> {
    report
        .leaks
        .iter()
        .map(|leak| leak.site.split('+').next().unwrap_or_default())
        .collect()
}

/// Both are there, and replace the packet one after the other: what the first one injects, the second one absorbs, so
/// that the first one's list comes back while a clone of it is the second one's.
fn both(first: &Built) -> (Machine, Driver) {
    let mut machine = Machine::with_built(&ksim::Config::default(), first);
    let second = machine.beside(&second());
    let devices = [
        machine.open(r"\\.\Editor"),
        machine.open(r"\\.\SecondEditor"),
    ];
    devices.iter().for_each(clone_packets);
    for port in [50_000, 50_001] {
        let datagram = udp(
            &format!("192.0.2.10:{port}"),
            "198.51.100.1:9999",
            b"datagram",
        );
        machine.net.packet(&datagram);
        machine.net.settle();
    }
    for device in devices {
        alive(device.close());
    }
    (machine, second)
}

#[test]
fn a_clone_of_anothers_list_that_is_left_is_its_own_drivers_leak() {
    let (mut machine, second) = both(&built("editor", None));
    let report = alive(second.unload());
    assert!(!report.leaks.is_empty());
    let sites: Vec<_> = report.leaks.iter().map(ToString::to_string).collect();
    assert!(
        owners(&report).iter().all(|owner| *owner == "second.sys"),
        "{sites:#?}"
    );
    assert!(report.leaks[0].site.contains("Packet"), "{sites:#?}");
    assert!(
        report
            .violations
            .iter()
            .all(|found| found.driver.as_deref() == Some("second.sys")),
        "{report:#?}"
    );
    let report = machine.unload();
    assert_eq!(report.leaks, [], "the other one gave everything back");
}

#[test]
fn the_first_one_goes_while_the_second_one_has_clones_of_its_lists() {
    let (mut machine, second) = both(&built("editor", None));
    assert_clean(&machine.unload());
    let report = alive(second.unload());
    assert!(!report.leaks.is_empty());
    assert!(
        owners(&report).iter().all(|owner| *owner == "second.sys"),
        "{report:#?}"
    );
}

#[test]
fn both_leave_something_and_each_is_charged_with_its_own() {
    let (mut machine, second) = both(&built("editor", Some("forget-handle")));
    let of_second = alive(second.unload());
    assert!(
        owners(&of_second)
            .iter()
            .all(|owner| *owner == "second.sys"),
        "{of_second:#?}"
    );
    let of_first = machine.unload();
    assert_eq!(owners(&of_first), ["editor.sys"], "{of_first:#?}");
    assert_eq!(of_first.leaks[0].kind, "injection handle");
    let left: Vec<_> = of_first
        .violations
        .iter()
        .filter(|found| found.rule == "unload-left")
        .filter_map(|found| found.driver.as_deref())
        .collect();
    assert_eq!(left, ["second.sys", "editor.sys"]);
}

#[test]
fn what_a_callback_does_wrong_is_its_drivers() {
    let mut machine = Machine::with("editor");
    let other = machine.beside(&built("gate", Some("block-keeps-right")));
    let device = machine.open(r"\\.\Gate");
    let set_port = 0x12 << 16 | 2 << 14 | 0x800 << 2;
    assert_eq!(
        status(device.ioctl(set_port, &23_u32.to_le_bytes(), 0)),
        NtStatus::SUCCESS
    );
    let handshake = |remote: &str| Tcp::new("192.0.2.10:50000", remote).handshake();
    assert!(machine.net.none_passes(&handshake("198.51.100.1:23")));
    assert!(machine.net.all_pass(&handshake("198.51.100.1:80")));
    alive(device.close());
    let report = alive(other.unload());
    let rules: Vec<_> = report
        .violations
        .iter()
        .map(|found| (found.rule, found.driver.as_deref()))
        .collect();
    assert!(!rules.is_empty());
    assert!(
        rules
            .iter()
            .all(|found| *found == ("classify-block-right", Some("gate.sys"))),
        "{rules:?}"
    );
    assert_eq!(machine.unload().leaks, []);
}
