//! Schedules of small drivers: what they find, and that they repeat it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::{Bound, Explored, Preemptions, Program, Schedule, explore, explore_preemptions, sweep};
use crate::access::{In, Out};
use crate::cpu::{Cpu, PASSIVE};
use crate::kernel::{Bugcheck, Config, Kernel};
use crate::nt::calls::*;

fn machine(schedule: &Schedule, processors: u32) -> Kernel {
    let config = Config {
        processors,
        schedule: schedule.clone(),
        ..Config::default()
    };
    Kernel::new(&config).unwrap()
}

const fn bound(departures: usize) -> Bound {
    Bound {
        departures,
        schedules: 50_000,
    }
}

/// A program for each of the first processors that does `work` there.
fn on_each<T: Send>(
    kernel: &Kernel,
    processors: u32,
    work: &(dyn Fn(&Cpu) -> T + Sync),
) -> Vec<Result<T, Bugcheck>> {
    let programs =
        (0..processors).map(|index| -> Program<'_, _> { Box::new(move || kernel.on(index, work)) });
    kernel.together(programs.collect())
}

/// Two processors add one each to a counter without a lock, with a call in between.
fn racy_counter(schedule: &Schedule) -> Result<(), String> {
    let kernel = machine(schedule, 2);
    let counter = AtomicU32::new(0);
    on_each(&kernel, 2, &|_| {
        let value = counter.load(Ordering::Relaxed);
        KeQueryInterruptTime();
        counter.store(value + 1, Ordering::Relaxed);
    });
    match counter.into_inner() {
        2 => Ok(()),
        other => Err(format!("counted {other}")),
    }
}

#[test]
fn a_race_is_found_by_departing_from_the_plain_order_and_not_without() {
    let none = explore(bound(0), racy_counter).unwrap();
    assert!(none.complete, "{none:?}");
    let failure = explore(bound(2), racy_counter).unwrap_err();
    assert_eq!(failure.error, "counted 1");
    let again = Schedule::replay(failure.trace.to_string().parse().unwrap());
    assert_eq!(racy_counter(&again), Err("counted 1".to_owned()));
    assert_eq!(again.run(), failure.schedule.run());
}

/// All orders in which two threads make `steps` steps each with at most so many interruptions.
fn interleavings(steps: usize, preemptions: usize) -> HashSet<Vec<usize>> {
    let mut all = HashSet::new();
    let mut begun = vec![(Vec::new(), [steps, steps], preemptions)];
    while let Some((order, left, budget)) = begun.pop() {
        if left == [0, 0] {
            all.insert(order);
            continue;
        }
        for next in (0..2).filter(|next| left[*next] > 0) {
            let interrupts = order
                .last()
                .is_some_and(|last| *last != next && left[*last] > 0);
            let Some(budget) = budget.checked_sub(usize::from(interrupts)) else {
                continue;
            };
            let (mut order, mut left) = (order.clone(), left);
            order.push(next);
            left[next] -= 1;
            begun.push((order, left, budget));
        }
    }
    all
}

#[test]
fn every_interleaving_with_so_many_preemptions_is_tried_and_no_other() {
    const STEPS: usize = 3;
    for preemptions in 0..3 {
        let mut seen = HashSet::new();
        let bound = Preemptions {
            preemptions,
            schedules: 50_000,
        };
        let explored = explore_preemptions(bound, |schedule| -> Result<(), String> {
            let kernel = machine(schedule, 2);
            let order = std::sync::Mutex::new(Vec::new());
            on_each(&kernel, 2, &|cpu| {
                for _ in 0..STEPS {
                    order.lock().unwrap().push(cpu.index() as usize);
                    KeQueryInterruptTime();
                }
            });
            seen.insert(order.into_inner().unwrap());
            Ok(())
        });
        let explored = explored.unwrap();
        println!(
            "{preemptions} preemptions: {explored:?}, {} orders",
            seen.len()
        );
        assert!(explored.complete, "{explored:?}");
        assert_eq!(seen, interleavings(STEPS, preemptions));
    }
}

#[test]
fn a_race_takes_one_preemption() {
    let bound = |preemptions| Preemptions {
        preemptions,
        schedules: 50_000,
    };
    assert!(
        explore_preemptions(bound(0), racy_counter)
            .unwrap()
            .complete
    );
    let failure = explore_preemptions(bound(1), racy_counter).unwrap_err();
    assert!(racy_counter(&Schedule::replay(failure.trace)).is_err());
    let explored = explore_preemptions(bound(2), locked_counter).unwrap();
    assert!(explored.complete && explored.schedules > 50, "{explored:?}");
}

/// One processor acts on what a call told it, without another call; meanwhile that became untrue.
fn stale_answer(schedule: &Schedule) -> Result<(), String> {
    let kernel = machine(schedule, 2);
    let mut event = [0u64; 3];
    // SAFETY: the event outlives the machine's use of it.
    let object = unsafe { Out::new(event.as_mut_ptr().cast::<u8>()) };
    kernel
        .on(0, |_| KeInitializeEvent(object, 0, 0))
        .map_err(|bugcheck| bugcheck.to_string())?;
    let (set, stale) = (AtomicU32::new(0), AtomicU32::new(0));
    on_each(&kernel, 2, &|cpu| {
        if cpu.index() == 1 {
            KeSetEvent(object, 0, 0);
            set.store(1, Ordering::Relaxed);
        } else if KeReadStateEvent(object) == 0 {
            stale.store(set.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    });
    match stale.into_inner() {
        0 => Ok(()),
        _ => Err("the event was set meanwhile".to_owned()),
    }
}

#[test]
fn another_thread_may_go_on_right_after_a_call_has_returned() {
    explore(bound(0), stale_answer).unwrap();
    let failure = explore(bound(2), stale_answer).unwrap_err();
    assert!(stale_answer(&Schedule::replay(failure.trace)).is_err());
}

#[test]
fn a_seed_that_finds_a_race_finds_it_again() {
    let failure = sweep(0..100, racy_counter).unwrap_err();
    println!("{failure}");
    assert_eq!(racy_counter(&failure.schedule), Err(failure.error));
    let trace = Schedule::replay(failure.trace);
    assert!(racy_counter(&trace).is_err());
}

/// The same with a spin lock.
fn locked_counter(schedule: &Schedule) -> Result<(), String> {
    let kernel = machine(schedule, 2);
    let (lock, counter) = (AtomicUsize::new(0), AtomicU32::new(0));
    let results = on_each(&kernel, 2, &|_| {
        let irql = KeAcquireSpinLockRaiseToDpc(lock.as_ptr() as usize);
        let value = counter.load(Ordering::Relaxed);
        KeQueryInterruptTime();
        counter.store(value + 1, Ordering::Relaxed);
        KeReleaseSpinLock(lock.as_ptr() as usize, irql);
    });
    match (counter.into_inner(), &*results) {
        (2, [Ok(()), Ok(())]) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn with_a_lock_no_schedule_loses_a_count() {
    let explored = explore(bound(3), locked_counter).unwrap();
    println!("{explored:?}");
    assert!(explored.complete && explored.schedules > 50, "{explored:?}");
    sweep(0..200, locked_counter).unwrap();
}

#[test]
fn different_seeds_make_different_runs_and_equal_ones_the_same() {
    let run = |seed| {
        let schedule = Schedule::seeded(seed);
        locked_counter(&schedule).unwrap();
        schedule.run()
    };
    let runs: HashSet<u64> = (0..50)
        .map(|seed| {
            assert_eq!(run(seed), run(seed), "seed {seed}");
            run(seed).hash
        })
        .collect();
    assert!(runs.len() > 5, "{}", runs.len());
}

/// Each processor takes two locks, in its own order.
fn crossed_locks(schedule: &Schedule) -> Result<(), Bugcheck> {
    let kernel = machine(schedule, 2);
    let locks = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let results = on_each(&kernel, 2, &|cpu| {
        let first = cpu.index() as usize;
        let order = [first, 1 - first].map(|index| locks[index].as_ptr() as usize);
        let irql = KeAcquireSpinLockRaiseToDpc(order[0]);
        KeAcquireSpinLockAtDpcLevel(order[1]);
        KeReleaseSpinLockFromDpcLevel(order[1]);
        KeReleaseSpinLock(order[0], irql);
    });
    results.into_iter().collect()
}

#[test]
fn a_deadlock_of_two_locks_is_found_by_exploring() {
    let failure = explore(bound(2), crossed_locks).unwrap_err();
    assert_eq!(failure.error.code, 0xc4, "{failure}");
    assert!(crossed_locks(&Schedule::replay(failure.trace)).is_err());
}

/// One processor looks whether an event is set and, if not, clears it to wait; the other one sets it meanwhile.
fn lost_wake_up(schedule: &Schedule) -> Result<(), Bugcheck> {
    let kernel = machine(schedule, 2);
    let mut event = [0u64; 3];
    // SAFETY: the event outlives the machine's use of it.
    let object = unsafe { Out::new(event.as_mut_ptr().cast::<u8>()) };
    kernel.on(0, |_| KeInitializeEvent(object, 0, 0))?;
    let results = on_each(&kernel, 2, &|cpu| {
        if cpu.index() == 1 {
            KeSetEvent(object, 0, 0);
        } else if KeReadStateEvent(object) == 0 {
            KeClearEvent(object);
            KeWaitForSingleObject(object, 0, 0, 0, In::null());
        }
    });
    results.into_iter().collect()
}

#[test]
fn a_lost_wake_up_is_found_as_a_wait_that_nothing_can_end() {
    let failure = explore(bound(2), lost_wake_up).unwrap_err();
    assert!(
        failure
            .error
            .message
            .contains("nothing that is pending or running"),
        "{failure}"
    );
}

#[test]
fn deferred_work_runs_on_an_idle_processor_while_others_are_at_work() {
    /// What a work item's driver forgets: the item uses what the queueing thread changes afterwards.
    fn scenario(schedule: &Schedule) -> Result<(), String> {
        let kernel = machine(schedule, 2);
        let value = std::sync::Arc::new(AtomicU32::new(0));
        kernel.together(vec![Box::new(|| {
            kernel
                .on(0, |cpu| {
                    let seen = std::sync::Arc::clone(&value);
                    cpu.machine().time().defer("a work item", move |_| {
                        KeQueryInterruptTime();
                        seen.fetch_max(10, Ordering::Relaxed);
                    });
                    KeQueryInterruptTime();
                    value.store(1, Ordering::Relaxed);
                    KeQueryInterruptTime();
                })
                .unwrap();
        }) as Program<'_, ()>]);
        match value.load(Ordering::Relaxed) {
            10 => Ok(()),
            other => Err(format!("the value is {other}")),
        }
    }
    let plain = scenario(&Schedule::replay("plain".parse().unwrap()));
    assert_eq!(plain, Ok(()));
    let failure = explore(bound(2), scenario).unwrap_err();
    assert_eq!(failure.error, "the value is 1");
}

#[test]
fn a_waiting_thread_gives_its_processor_to_another_one() {
    for schedule in [Schedule::free(), Schedule::seeded(1)] {
        let kernel = machine(&schedule, 1);
        let mut event = [0u64; 3];
        // SAFETY: the event outlives the machine's use of it.
        let object = unsafe { Out::new(event.as_mut_ptr().cast::<u8>()) };
        kernel
            .on(0, |cpu| {
                KeInitializeEvent(object, 0, 0);
                let waiter = KeGetCurrentThread();
                cpu.set_irql(crate::cpu::APC);
                cpu.machine().time().defer("a work item", move |cpu| {
                    assert_ne!(KeGetCurrentThread(), waiter, "a thread of its own");
                    assert_eq!((cpu.index(), cpu.irql()), (0, PASSIVE));
                    // It waits itself: its processor goes on with what comes next.
                    cpu.machine().time().defer("another work item", move |_| {
                        KeSetEvent(object, 0, 0);
                    });
                    KeWaitForSingleObject(object, 0, 0, 0, In::null());
                });
                assert_eq!(KeWaitForSingleObject(object, 0, 0, 0, In::null()), 0);
                assert_eq!(KeGetCurrentThread(), waiter);
                assert_eq!(cpu.irql(), crate::cpu::APC);
                cpu.set_irql(PASSIVE);
            })
            .unwrap();
    }
}

extern "win64" fn note_processor(_dpc: usize, context: usize, _: usize, _: usize) {
    // SAFETY: the test's number, which outlives the DPC.
    let ran = unsafe { &*(context as *const AtomicU32) };
    ran.store(Cpu::current().unwrap().index(), Ordering::Relaxed);
}

#[test]
fn a_dpc_runs_on_the_processor_it_is_meant_for() {
    for schedule in [Schedule::free(), Schedule::seeded(3)] {
        let kernel = machine(&schedule, 3);
        let ran = AtomicU32::new(u32::MAX);
        let mut dpc = [0u64; 8];
        // SAFETY: the DPC outlives the machine's use of it.
        let object = unsafe { Out::new(dpc.as_mut_ptr().cast::<u8>()) };
        kernel
            .on(0, |_| {
                let routine = note_processor as *const () as usize;
                KeInitializeDpc(object, routine, ran.as_ptr() as usize);
                KeSetTargetProcessorDpc(object, 2);
                assert_eq!(KeInsertQueueDpc(object, 0, 0), 1);
            })
            .unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), 2);
        kernel
            .on(0, |_| KeSetTargetProcessorDpc(object, 3))
            .unwrap();
        assert_eq!(kernel.verifier().report().violations.len(), 1);
    }
}

#[test]
fn a_machine_that_crashes_under_a_schedule_lets_every_program_go() {
    let schedule = Schedule::seeded(5);
    let kernel = machine(&schedule, 3);
    let lock = AtomicUsize::new(0);
    let results = on_each(&kernel, 3, &|cpu| {
        for _ in 0..10 {
            KeQueryInterruptTime();
        }
        if cpu.index() == 1 {
            KeReleaseSpinLock(lock.as_ptr() as usize, PASSIVE);
        }
        for _ in 0..10 {
            KeQueryInterruptTime();
        }
    });
    assert_eq!(results[1].as_ref().unwrap_err().code, 0x10);
    assert!(kernel.crashed());
}

#[test]
fn a_machine_that_crashes_while_it_is_left_does_not_keep_who_leaves_it() {
    for schedule in [Schedule::free(), Schedule::seeded(6)] {
        let kernel = machine(&schedule, 2);
        let lock = AtomicUsize::new(0);
        let release = |_: &Cpu| KeReleaseSpinLock(lock.as_ptr() as usize, PASSIVE);
        kernel.on(0, release).unwrap_err();
        // As if the crash came after the last user had looked whether there was one.
        let (closed, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || closed.send(kernel.scheduler().close()));
        let all = told.recv_timeout(std::time::Duration::from_mins(1));
        assert_eq!(
            all,
            Ok(false),
            "threads that stopped for ever are not awaited"
        );
    }
}

#[test]
fn the_number_of_schedules_is_bounded() {
    let few = Bound {
        departures: 3,
        schedules: 10,
    };
    let explored = explore(few, locked_counter).unwrap();
    assert_eq!(
        explored,
        Explored {
            schedules: 10,
            complete: false,
            ..explored
        }
    );
}

/// What a test's system thread is given.
#[derive(Default)]
struct Service {
    stop: [u64; 3],
    thread: AtomicUsize,
    id: AtomicUsize,
    returns: bool,
}

extern "win64" fn serve(context: usize) {
    // SAFETY: the test's service, which outlives the thread.
    let service = unsafe { &*(context as *const Service) };
    service.thread.store(KeGetCurrentThread(), Ordering::SeqCst);
    service.id.store(PsGetCurrentThreadId(), Ordering::SeqCst);
    // SAFETY: the event is the service's.
    let stop = unsafe { Out::new((&raw const service.stop).cast_mut().cast::<u8>()) };
    KeWaitForSingleObject(stop, 0, 0, 0, In::null());
    if !service.returns {
        PsTerminateSystemThread(0);
        unreachable!("it has ended");
    }
}

#[test]
fn a_system_thread_serves_until_it_is_stopped_and_its_object_tells_when_it_has_ended() {
    for (schedule, processors) in [
        (Schedule::free(), 1),
        (Schedule::free(), 4),
        (Schedule::seeded(7), 2),
    ] {
        for returns in [false, true] {
            let kernel = machine(&schedule, processors);
            let mut service = Service {
                returns,
                ..Service::default()
            };
            let context = (&raw mut service) as usize;
            // SAFETY: the event is the service's, which outlives the machine.
            let stop = unsafe { Out::new((context as *mut Service).cast::<u8>()) };
            assert_eq!(std::mem::offset_of!(Service, stop), 0);
            let object = kernel
                .on(0, |_| {
                    KeInitializeEvent(stop, 0, 0);
                    let (mut handle, mut object, mut client) = (0usize, 0usize, [0usize; 2]);
                    // SAFETY: a place on this stack, for the calls below only.
                    let to_handle = unsafe { Out::new(&raw mut handle) };
                    // SAFETY: as above.
                    let to_object = unsafe { Out::new(&raw mut object) };
                    // SAFETY: as above.
                    let to_client = unsafe { Out::new(&raw mut client) };
                    let start = serve as *const () as usize;
                    assert_eq!(
                        PsCreateSystemThread(to_handle, 0, 0, 0, to_client, start, context),
                        0
                    );
                    assert_eq!(
                        ObReferenceObjectByHandle(handle, 0, 0, 0, to_object, Out::null()),
                        0
                    );
                    assert_eq!(ZwClose(handle), 0);
                    (object, client[1])
                })
                .unwrap();
            // SAFETY: the thread's object, which is referenced.
            let thread = unsafe { Out::new(object.0 as *mut u8) };
            kernel
                .on(0, |_| {
                    let at_once = 0i64;
                    // SAFETY: a place on this stack.
                    let timeout = unsafe { In::new(&raw const at_once) };
                    assert_eq!(KeWaitForSingleObject(thread, 0, 0, 0, timeout), 0x102);
                    KeSetEvent(stop, 0, 0);
                    assert_eq!(KeWaitForSingleObject(thread, 0, 0, 0, In::null()), 0);
                    ObfDereferenceObject(object.0);
                })
                .unwrap();
            assert_eq!(service.thread.load(Ordering::SeqCst), object.0);
            assert_eq!(service.id.load(Ordering::SeqCst), object.1);
            let report = kernel.verifier().report();
            assert!(report.is_clean(), "{report:?}");
        }
    }
}

#[test]
fn thousands_of_system_threads_come_and_go() {
    extern "win64" fn nothing(_: usize) {}
    let kernel = machine(&Schedule::free(), 2);
    for _ in 0..2_000 {
        kernel
            .on(0, |_| {
                let mut handle = 0usize;
                // SAFETY: a place on this stack.
                let place = unsafe { Out::new(&raw mut handle) };
                let start = nothing as *const () as usize;
                assert_eq!(
                    PsCreateSystemThread(place, 0, 0, 0, Out::null(), start, 0),
                    0
                );
                assert_eq!(ZwClose(handle), 0);
            })
            .unwrap();
    }
    assert!(kernel.verifier().report().is_clean());
}
