//! Timers, DPCs and work items.

use wfp_schema::NtStatus;

use super::driver::{Machine, Setup, at, attributes, globals, log, out, with};
use crate::Cpu;
use crate::kmdf::abi::{DeferredConfig, ObjectAttributes, ObjectCallback, TimerConfig, status};
use crate::kmdf::deferred::{
    WdfDpcCreate, WdfDpcEnqueue, WdfWorkItemCreate, WdfWorkItemEnqueue, WdfWorkItemFlush,
};
use crate::kmdf::object_api::WdfObjectDelete;
use crate::kmdf::timer::{WdfTimerCreate, WdfTimerStart, WdfTimerStop};
use crate::time::Ticks;

const MILLISECOND: i64 = 10_000;

extern "win64" fn evt_note(_object: usize) {
    log(format!("called at {}", Cpu::current().unwrap().irql()));
}

/// Attributes with the device as parent, at an execution level (1: inherited).
fn below_device(execution_level: u32) -> ObjectAttributes {
    ObjectAttributes {
        parent: with(|state| state.device),
        execution_level,
        ..attributes()
    }
}

fn create_timer(period: u32, execution_level: u32) -> Result<usize, NtStatus> {
    let config = TimerConfig {
        size: 24,
        callback: Some(evt_note),
        period,
        automatic_serialization: 0,
    };
    let mut timer = 0;
    let attributes = below_device(execution_level);
    let status = WdfTimerCreate(globals(), at(&config), at(&attributes), out(&mut timer));
    if status.is_success() {
        Ok(timer)
    } else {
        Err(status)
    }
}

fn work_item(callback: ObjectCallback) -> usize {
    let config = DeferredConfig {
        size: 24,
        callback: Some(callback),
        automatic_serialization: 0,
    };
    let mut item = 0;
    let status = WdfWorkItemCreate(globals(), at(&config), at(&below_device(1)), out(&mut item));
    assert_eq!(status, NtStatus::SUCCESS);
    item
}

/// Lets virtual time pass.
fn pass(machine: &Machine, milliseconds: Ticks) {
    machine.kernel.time().advance(milliseconds * 10_000);
    machine.run(|| {
        Cpu::current()
            .unwrap()
            .machine()
            .run_pending(Cpu::current().unwrap());
    });
}

#[test]
fn a_timer_fires_when_it_is_due() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let timer = create_timer(0, 1).unwrap();
        assert_eq!(WdfTimerStart(globals(), timer, -10 * MILLISECOND), 0);
        assert_eq!(
            WdfTimerStart(globals(), timer, -10 * MILLISECOND),
            1,
            "it was running"
        );
    });
    pass(&machine, 9);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    pass(&machine, 1);
    assert_eq!(machine.take_log(), ["called at 2"]);
    pass(&machine, 100);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    machine.end_clean();
}

#[test]
fn a_late_timer_fires_so_much_later_and_its_stop_waits_for_it() {
    let machine = Machine::new(&Setup::default());
    machine.kernel.time().set_lateness("WDFTIMER", 5 * 10_000);
    let start = || {
        machine.run(|| {
            let timer = create_timer(0, 1).unwrap();
            WdfTimerStart(globals(), timer, -10 * MILLISECOND);
            timer
        })
    };
    start();
    pass(&machine, 14);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    pass(&machine, 1);
    assert_eq!(machine.take_log(), ["called at 2"]);
    let timer = start();
    pass(&machine, 12);
    let before = machine.kernel.time().now();
    assert_eq!(
        machine.run(|| WdfTimerStop(globals(), timer, 1)),
        0,
        "it is due"
    );
    assert_eq!(machine.take_log(), ["called at 2"]);
    assert_eq!(machine.kernel.time().now() - before, 3 * 10_000);
    // One that is stopped before it is due does not come, however late it would.
    let timer = start();
    assert_eq!(machine.run(|| WdfTimerStop(globals(), timer, 1)), 1);
    machine.kernel.time().set_lateness("WDFTIMER", 0);
    start();
    pass(&machine, 10);
    assert_eq!(machine.take_log(), ["called at 2"], "on time again");
    machine.end_clean();
}

#[test]
fn a_late_work_item_is_waited_for() {
    let machine = Machine::new(&Setup::default());
    machine
        .kernel
        .time()
        .set_lateness("WDFWORKITEM", 5 * 10_000);
    let item = machine.run(|| {
        let item = work_item(evt_note);
        WdfWorkItemEnqueue(globals(), item);
        item
    });
    pass(&machine, 4);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    pass(&machine, 1);
    assert_eq!(machine.take_log(), ["called at 0"]);
    let before = machine.kernel.time().now();
    machine.run(|| {
        WdfWorkItemEnqueue(globals(), item);
        WdfWorkItemFlush(globals(), item);
    });
    assert_eq!(machine.take_log(), ["called at 0"]);
    assert_eq!(machine.kernel.time().now() - before, 5 * 10_000);
    machine.end_clean();
}

#[test]
fn whoever_looks_at_a_drivers_calls_sees_each_before_it_does_anything() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let machine = Machine::new(&Setup::default());
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let look = move |cpu: &Cpu| {
        assert!(
            !cpu.machine().time().has_pending(),
            "it is not enqueued yet"
        );
        counted.fetch_add(1, Ordering::SeqCst);
    };
    machine.kernel.witnesses().at("WdfWorkItemEnqueue", look);
    for _ in 0..2 {
        machine.run(|| WdfWorkItemEnqueue(globals(), work_item(evt_note)));
    }
    assert_eq!(seen.load(Ordering::SeqCst), 2);
    assert_eq!(machine.take_log().len(), 2);
    machine.end_clean();
}

#[test]
fn a_periodic_timer_fires_until_it_is_stopped() {
    let machine = Machine::new(&Setup::default());
    let timer = machine.run(|| {
        let timer = create_timer(10, 1).unwrap();
        WdfTimerStart(globals(), timer, -10 * MILLISECOND);
        timer
    });
    for _ in 0..3 {
        pass(&machine, 10);
    }
    assert_eq!(machine.take_log().len(), 3);
    assert_eq!(machine.run(|| WdfTimerStop(globals(), timer, 1)), 1);
    assert_eq!(machine.run(|| WdfTimerStop(globals(), timer, 1)), 0);
    pass(&machine, 100);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    machine.end_clean();
}

#[test]
fn a_passive_timer_is_called_at_passive_level_and_not_periodic() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let timer = create_timer(0, 2).unwrap();
        WdfTimerStart(globals(), timer, -MILLISECOND);
        assert_eq!(create_timer(5, 2), Err(NtStatus::NOT_SUPPORTED));
    });
    pass(&machine, 1);
    assert_eq!(machine.take_log(), ["called at 0"]);
    machine.end_clean();
}

#[test]
fn a_deleted_timer_does_not_fire() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let timer = create_timer(0, 1).unwrap();
        WdfTimerStart(globals(), timer, -MILLISECOND);
        WdfObjectDelete(globals(), timer);
    });
    pass(&machine, 5);
    assert_eq!(machine.take_log(), Vec::<String>::new());
    machine.end_clean();
}

#[test]
fn a_timer_needs_a_parent() {
    let machine = Machine::new(&Setup::default());
    let status = machine.run(|| {
        let config = TimerConfig {
            size: 24,
            callback: Some(evt_note),
            period: 0,
            automatic_serialization: 0,
        };
        let mut timer = 0;
        WdfTimerCreate(globals(), at(&config), at(&attributes()), out(&mut timer))
    });
    assert_eq!(status, status::PARENT_NOT_SPECIFIED);
    machine.end_clean();
}

#[test]
fn serialization_without_a_scope_needs_no_lock() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        // The device is at dispatch level, but has no synchronization scope.
        let config = DeferredConfig {
            size: 24,
            callback: Some(evt_note),
            automatic_serialization: 1,
        };
        let mut item = 0;
        let status =
            WdfWorkItemCreate(globals(), at(&config), at(&below_device(1)), out(&mut item));
        assert_eq!(status, NtStatus::SUCCESS);
        let below_driver = ObjectAttributes {
            parent: with(|state| state.driver),
            ..attributes()
        };
        let status = WdfWorkItemCreate(globals(), at(&config), at(&below_driver), out(&mut item));
        assert_eq!(status, NtStatus::INVALID_DEVICE_REQUEST);
    });
    machine.end_clean();
}

#[test]
fn a_work_item_runs_once_for_many_calls_at_passive_level() {
    let machine = Machine::new(&Setup::default());
    let in_between = machine.run(|| {
        let item = work_item(evt_note);
        let cpu = Cpu::current().unwrap();
        cpu.set_irql(2);
        WdfWorkItemEnqueue(globals(), item);
        WdfWorkItemEnqueue(globals(), item);
        cpu.set_irql(0);
        with(|state| state.log.len())
    });
    assert_eq!(in_between, 0);
    assert_eq!(machine.take_log(), ["called at 0"]);
    machine.end_clean();
}

#[test]
fn flushing_a_work_item_waits_for_it() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let item = work_item(evt_note);
        WdfWorkItemEnqueue(globals(), item);
        WdfWorkItemFlush(globals(), item);
        log("flushed");
    });
    assert_eq!(machine.take_log(), ["called at 0", "flushed"]);
    machine.end_clean();
}

#[test]
fn flushing_a_work_item_above_passive_level_is_a_violation() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let item = work_item(evt_note);
        let cpu = Cpu::current().unwrap();
        cpu.set_irql(2);
        WdfWorkItemFlush(globals(), item);
        cpu.set_irql(0);
    });
    assert_eq!(machine.broken_rules(), ["irql-range"]);
}

#[test]
fn a_work_item_may_delete_itself() {
    extern "win64" fn evt_delete(item: usize) {
        log("working");
        WdfObjectDelete(globals(), item);
    }
    let machine = Machine::new(&Setup::default());
    machine.run(|| WdfWorkItemEnqueue(globals(), work_item(evt_delete)));
    assert_eq!(machine.take_log(), ["working"]);
    machine.end_clean();
}

#[test]
fn a_dpc_runs_at_dispatch_level() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let config = DeferredConfig {
            size: 24,
            callback: Some(evt_note),
            automatic_serialization: 0,
        };
        let mut dpc = 0;
        let status = WdfDpcCreate(globals(), at(&config), at(&below_device(1)), out(&mut dpc));
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(WdfDpcEnqueue(globals(), dpc), 1);
        assert_eq!(WdfDpcEnqueue(globals(), dpc), 0);
    });
    assert_eq!(machine.take_log(), ["called at 2"]);
    machine.end_clean();
}
