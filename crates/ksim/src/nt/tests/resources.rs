//! Executive resources, and timers that the system allocates.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use wfp_schema::NtStatus;

use super::{input, kernel, rules};
use crate::access::In;
use crate::cpu::Cpu;
use crate::nt::ex_timer::{
    DeleteParameters, ExAllocateTimer, ExCancelTimer, ExDeleteTimer, ExSetTimer,
};
use crate::nt::mutex::{KeEnterCriticalRegion, KeLeaveCriticalRegion};
use crate::nt::resource::{
    ExAcquireResourceExclusiveLite, ExAcquireResourceSharedLite, ExConvertExclusiveToSharedLite,
    ExDeleteResourceLite, ExEnterCriticalRegionAndAcquireResourceExclusive,
    ExInitializeResourceLite, ExIsResourceAcquiredExclusiveLite, ExIsResourceAcquiredSharedLite,
    ExReleaseResourceAndLeaveCriticalRegion, ExReleaseResourceLite,
};
use crate::sched::{Bound, Program, explore};
use crate::{Config, Kernel, PoolMode, Schedule};

/// Memory for a resource, which nobody looks into.
fn memory() -> (Box<[u64; 13]>, usize) {
    let memory = Box::new([0; 13]);
    let address = memory.as_ptr() as usize;
    (memory, address)
}

#[test]
fn a_resource_is_acquired_again_by_its_owner_and_shared_after_that() {
    let kernel = kernel(PoolMode::Special, 1);
    let (_memory, resource) = memory();
    kernel
        .on(0, |_| {
            assert_eq!(ExInitializeResourceLite(resource), NtStatus::SUCCESS);
            ExEnterCriticalRegionAndAcquireResourceExclusive(resource);
            assert_eq!(ExAcquireResourceExclusiveLite(resource, 1), 1);
            assert_eq!(ExAcquireResourceSharedLite(resource, 1), 1);
            assert_eq!(ExIsResourceAcquiredExclusiveLite(resource), 1);
            assert_eq!(ExIsResourceAcquiredSharedLite(resource), 3);
            ExReleaseResourceLite(resource);
            ExReleaseResourceLite(resource);
            ExConvertExclusiveToSharedLite(resource);
            assert_eq!(ExIsResourceAcquiredExclusiveLite(resource), 0);
            assert_eq!(ExAcquireResourceExclusiveLite(resource, 0), 0);
            ExReleaseResourceAndLeaveCriticalRegion(resource);
            assert_eq!(ExIsResourceAcquiredSharedLite(resource), 0);
            ExDeleteResourceLite(resource);
        })
        .unwrap();
    let report = kernel.verifier().report();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn what_is_done_wrong_with_a_resource_is_found() {
    type Wrong = fn(usize);
    let wrongs: [(Wrong, &str); 4] = [
        (|resource| ExReleaseResourceLite(resource), "lock-owner"),
        (
            |resource| {
                KeLeaveCriticalRegion();
                ExAcquireResourceSharedLite(resource, 1);
                KeEnterCriticalRegion();
                ExReleaseResourceLite(resource);
            },
            "lock-protocol",
        ),
        (
            |resource| {
                ExAcquireResourceSharedLite(resource, 1);
                ExDeleteResourceLite(resource);
            },
            "lock-protocol",
        ),
        (
            |resource| {
                ExDeleteResourceLite(resource);
                ExAcquireResourceSharedLite(resource, 1);
            },
            "object-stale",
        ),
    ];
    for (wrong, rule) in wrongs {
        let kernel = kernel(PoolMode::Special, 1);
        let (_memory, resource) = memory();
        kernel
            .on(0, |_| {
                ExInitializeResourceLite(resource);
                KeEnterCriticalRegion();
                wrong(resource);
                KeLeaveCriticalRegion();
            })
            .unwrap();
        assert_eq!(rules(&kernel), [rule]);
    }
    let kernel = kernel(PoolMode::Special, 1);
    let (_memory, resource) = memory();
    let bugcheck = kernel.on(0, |_| {
        ExInitializeResourceLite(resource);
        KeEnterCriticalRegion();
        ExAcquireResourceSharedLite(resource, 1);
        ExAcquireResourceExclusiveLite(resource, 1);
    });
    assert_eq!(bugcheck.unwrap_err().code, 0xc4);
    assert_eq!(rules(&kernel), ["lock-recursion"]);
    assert_eq!(kernel.verifier().leaks()[0].kind, "executive resource");
}

#[test]
fn writers_exclude_each_other_and_readers_under_every_schedule() {
    fn scenario(schedule: &Schedule) -> Result<(), String> {
        let kernel = Kernel::new(&Config {
            processors: 3,
            schedule: schedule.clone(),
            ..Config::default()
        })
        .unwrap();
        let (_memory, resource) = memory();
        kernel
            .on(0, |_| ExInitializeResourceLite(resource))
            .unwrap();
        let inside = AtomicU32::new(0);
        let wrong = Mutex::new(None);
        let program = |index: u32| -> Program<'_, ()> {
            let (kernel, inside, wrong) = (&kernel, &inside, &wrong);
            Box::new(move || {
                let work = move |_: &Cpu| {
                    let (weight, others) = if index == 2 { (1, 1) } else { (100, 0) };
                    KeEnterCriticalRegion();
                    if index == 2 {
                        ExAcquireResourceSharedLite(resource, 1);
                    } else {
                        ExAcquireResourceExclusiveLite(resource, 1);
                    }
                    let before = inside.fetch_add(weight, Ordering::SeqCst);
                    if before > others {
                        *wrong.lock().unwrap() = Some(before);
                    }
                    ExIsResourceAcquiredSharedLite(resource);
                    inside.fetch_sub(weight, Ordering::SeqCst);
                    ExReleaseResourceLite(resource);
                    KeLeaveCriticalRegion();
                };
                kernel.on(index, work).unwrap();
            })
        };
        kernel.together((0..3).map(program).collect());
        let wrong = wrong.into_inner().unwrap();
        wrong.map_or(Ok(()), |before| Err(format!("{before} was inside")))
    }
    let bound = Bound {
        departures: 1,
        schedules: 20_000,
    };
    let explored = explore(bound, scenario).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(explored.complete && explored.schedules > 10, "{explored:?}");
}

extern "win64" fn expired(timer: usize, context: usize) {
    assert_eq!(Cpu::current().unwrap().irql(), crate::cpu::DISPATCH);
    assert_ne!(timer, 0);
    // SAFETY: the test's counter, which outlives the timer.
    let count = unsafe { &*(context as *const AtomicU32) };
    count.fetch_add(1, Ordering::SeqCst);
}

extern "win64" fn deleted(context: usize) {
    // SAFETY: as above.
    let count = unsafe { &*(context as *const AtomicU32) };
    count.fetch_add(100, Ordering::SeqCst);
}

#[test]
fn a_timer_of_the_systems_expires_until_it_is_cancelled_and_tells_of_its_deletion() {
    const MILLISECOND: i64 = 10_000;
    let kernel = kernel(PoolMode::Special, 1);
    let count = AtomicU32::new(0);
    let context = count.as_ptr() as usize;
    let pass = |milliseconds: u64| {
        kernel
            .on(0, |cpu| cpu.machine().time().advance(milliseconds * 10_000))
            .unwrap();
        count.load(Ordering::SeqCst)
    };
    let timer = kernel
        .on(0, |_| {
            let timer = ExAllocateTimer(Some(expired), context, 8);
            assert_eq!(ExSetTimer(timer, -MILLISECOND, 0, 0), 0);
            timer
        })
        .unwrap();
    assert_eq!(pass(5), 1, "once");
    kernel
        .on(0, |_| ExSetTimer(timer, -MILLISECOND, MILLISECOND, 0))
        .unwrap();
    for _ in 0..3 {
        pass(1);
    }
    assert_eq!(count.load(Ordering::SeqCst), 4);
    kernel
        .on(0, |_| assert_eq!(ExCancelTimer(timer, 0), 1))
        .unwrap();
    assert_eq!(pass(5), 4);
    let told = DeleteParameters {
        version: 0,
        reserved: 0,
        callback: Some(deleted),
        context,
    };
    kernel
        .on(0, |_| {
            ExSetTimer(timer, -MILLISECOND, 0, 0);
            assert_eq!(ExDeleteTimer(timer, 1, 1, input(&told)), 1);
        })
        .unwrap();
    assert_eq!(pass(5), 104, "deleted, and not expired");
    let report = kernel.verifier().report();
    assert!(report.is_clean(), "{report:?}");
    kernel
        .on(0, |_| assert_eq!(ExCancelTimer(timer, 0), 0))
        .unwrap();
    assert_eq!(rules(&kernel), ["object-stale"]);
}

#[test]
fn a_timer_that_is_left_is_a_leak_and_one_that_is_deleted_uncancelled_expires_first() {
    let kernel = kernel(PoolMode::Special, 1);
    let count = AtomicU32::new(0);
    let context = count.as_ptr() as usize;
    kernel
        .on(0, |_| {
            let timer = ExAllocateTimer(Some(expired), context, 0);
            ExSetTimer(timer, -10_000, 0, 0);
            assert_eq!(ExDeleteTimer(timer, 0, 0, In::null()), 0);
            ExAllocateTimer(Some(expired), context, 0);
        })
        .unwrap();
    kernel
        .on(0, |cpu| cpu.machine().time().advance(20_000))
        .unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let leaks = kernel.verifier().leaks();
    assert_eq!((leaks.len(), leaks[0].kind), (1, "EX_TIMER"));
}
