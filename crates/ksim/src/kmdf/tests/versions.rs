//! Every version of the framework, and what their structures looked like.

use wfp_schema::NtStatus;

use super::driver::{Machine, Setup, at, attributes, bind, globals, out, queue_config, with};
use crate::access::{In, Out};
use crate::kernel::{Config, Kernel};
use crate::kmdf::abi::{ObjectAttributes, ObjectCallback, QueueConfig, TimerConfig};
use crate::kmdf::functions_of;
use crate::kmdf::object_api::WdfObjectDelete;
use crate::kmdf::queue_api::WdfIoQueueCreate;
use crate::kmdf::table::FUNCTIONS;
use crate::kmdf::timer::WdfTimerCreate;

/// The minors of all versions from 1.9 on.
const MINORS: [u32; 13] = [9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33];

/// Source: `wdffuncenum.h` of each version.
#[test]
fn a_driver_of_any_version_gets_as_many_functions_as_it_knows() {
    for minor in MINORS {
        let kernel = Kernel::new(&Config::default()).unwrap();
        let count = functions_of(minor).unwrap();
        let (status, table) = kernel
            .on(0, |_| {
                let mut table = Vec::new();
                (bind(minor, count, &mut table).0, table)
            })
            .unwrap();
        assert_eq!(status, NtStatus::SUCCESS, "1.{minor}");
        let filled = table.iter().filter(|slot| **slot != 0).count();
        // Up to 1.13 the driver's own array is filled; later ones point at the framework's.
        assert_eq!(
            filled,
            if count <= 438 { count as usize } else { 1 },
            "1.{minor}"
        );
    }
}

#[test]
fn a_version_that_was_never_released_does_not_bind() {
    let kernel = Kernel::new(&Config::default()).unwrap();
    for minor in (9..=33).filter(|minor| !MINORS.contains(minor)) {
        assert_eq!(functions_of(minor), None);
        let status = kernel
            .on(0, |_| bind(minor, 396, &mut Vec::new()).0)
            .unwrap();
        assert_eq!(status, NtStatus::OBJECT_TYPE_MISMATCH, "1.{minor}");
    }
}

#[test]
fn a_function_that_is_not_simulated_stops_the_machine_and_says_its_name() {
    for name in [
        "WdfUsbTargetDeviceCreate",
        "WdfInterruptCreate",
        "WdfPdoInitAllocate",
    ] {
        let kernel = Kernel::new(&Config::default()).unwrap();
        let index = FUNCTIONS
            .iter()
            .position(|function| *function == name)
            .unwrap();
        let bugcheck = kernel
            .on(0, |_| {
                let mut table = Vec::new();
                bind(9, 396, &mut table);
                // SAFETY: a stub takes no arguments and does not return.
                let stub =
                    unsafe { std::mem::transmute::<usize, extern "win64" fn()>(table[index]) };
                stub();
            })
            .unwrap_err();
        assert!(bugcheck.message.starts_with(name), "{}", bugcheck.message);
    }
}

/// A `WDF_IO_QUEUE_CONFIG` with what came after 1.7.
#[repr(C)]
struct LongQueueConfig {
    first: QueueConfig,
    presented_requests: u64,
    driver: u64,
}

/// Source: `wdfio.h` of 1.7 (80 bytes), 1.9 (88) and 1.11 (96).
#[test]
fn a_queue_is_configured_as_in_any_version() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let create = |size, presented_requests| {
            let mut config = LongQueueConfig {
                first: QueueConfig {
                    size,
                    ..queue_config(3)
                },
                presented_requests,
                driver: 0,
            };
            let mut queue = 0;
            // SAFETY: the structure begins with what the shorter one is.
            let config = unsafe { Out::new((&raw mut config).cast::<QueueConfig>()) };
            let device = with(|state| state.device);
            let status = WdfIoQueueCreate(globals(), device, config, In::null(), out(&mut queue));
            if status.is_success() {
                WdfObjectDelete(globals(), queue);
            }
            status
        };
        for size in [80, 88, 96] {
            assert_eq!(create(size, 0), NtStatus::SUCCESS, "{size} bytes");
        }
        for size in [0, 72, 81, 104] {
            assert_eq!(
                create(size, 0),
                NtStatus::INFO_LENGTH_MISMATCH,
                "{size} bytes"
            );
        }
        // 1.7 has no number of presented requests; later ones refuse it for a manual queue.
        assert_eq!(create(80, 5), NtStatus::SUCCESS);
        assert_eq!(create(88, 5), NtStatus::INVALID_PARAMETER);
    });
    machine.end_clean();
}

extern "win64" fn evt_timer(_timer: usize) {}

/// Source: `wdftimer.h` of 1.9 (24 bytes), 1.11 (32) and 1.13 (40).
#[test]
fn a_timer_is_configured_as_in_any_version() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let parent = with(|state| state.device);
        let attributes = ObjectAttributes {
            parent,
            ..attributes()
        };
        for (size, expected) in [
            (24, NtStatus::SUCCESS),
            (32, NtStatus::SUCCESS),
            (40, NtStatus::SUCCESS),
            (16, NtStatus::INFO_LENGTH_MISMATCH),
            (48, NtStatus::INFO_LENGTH_MISMATCH),
        ] {
            let config = TimerConfig {
                size,
                callback: Some(evt_timer as ObjectCallback),
                period: 0,
                automatic_serialization: 0,
            };
            let mut timer = 0;
            let status = WdfTimerCreate(globals(), at(&config), at(&attributes), out(&mut timer));
            assert_eq!(status, expected, "{size} bytes");
        }
    });
    machine.end_clean();
}
