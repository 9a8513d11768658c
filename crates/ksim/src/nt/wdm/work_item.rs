//! Work items of the I/O manager.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::access::Out;
use crate::cpu::{Callback, Cpu, DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io_memory::Guarded;
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// How the verifier calls what a driver has to give back.
const KIND: &str = "work item";
/// How the verifier calls a routine that runs.
pub(crate) const ROUTINE: &str = "a work item's routine";
/// What `IoSizeofWorkItem` answers: room for an `IO_WORKITEM`, which is opaque.
const SIZE: u32 = 0x58;

/// `IO_WORKITEM_ROUTINE`: device object and context.
type Routine = extern "win64" fn(usize, usize);
/// `IO_WORKITEM_ROUTINE_EX`: device or driver object, context, and the work item.
type RoutineEx = extern "win64" fn(usize, usize, usize);

/// The work items of one machine, by address.
#[derive(Debug, Default)]
pub(crate) struct WorkItems(Mutex<HashMap<usize, Item>>);

#[derive(Debug)]
struct Item {
    /// The device or driver object that it belongs to.
    object: usize,
    /// Its memory; `None` where the driver gave it.
    memory: Option<Guarded>,
    queued: bool,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    item: usize,
    routine: usize,
    context: usize,
    extended: bool,
}

fn add(call: &Call<'_>, object: usize, address: usize, memory: Option<Guarded>) {
    if object == 0 {
        call.violation(&ARGUMENT, "a work item for no device or driver object");
    }
    let item = Item {
        object,
        memory,
        queued: false,
    };
    call.machine()
        .io()
        .work_items()
        .0
        .lock()
        .insert(address, item);
    call.machine().verifier().track(call, KIND, address, "", 0);
}

fn queue(call: &Call<'_>, job: Job) {
    let machine = call.machine();
    if job.routine == 0 {
        call.violation(&ARGUMENT, "a work item is queued without a routine");
        return;
    }
    let before = machine
        .io()
        .work_items()
        .0
        .lock()
        .get_mut(&job.item)
        .map(|item| std::mem::replace(&mut item.queued, true));
    match before {
        None => call.violation(
            &OBJECT_STALE,
            format!(
                "the work item {:#x} does not exist or was freed before",
                job.item
            ),
        ),
        Some(true) => call.violation(&ARGUMENT, "a work item is queued that is queued already"),
        Some(false) => {
            machine
                .time()
                .defer("IO_WORKITEM", move |cpu| run(cpu, job));
            machine.wake();
        }
    }
}

fn run(cpu: &Cpu, job: Job) {
    let begun = cpu
        .machine()
        .io()
        .work_items()
        .0
        .lock()
        .get_mut(&job.item)
        .map(|item| {
            item.queued = false;
            item.object
        });
    let Some(object) = begun else { return };
    cpu.enter_driver(Callback::new(ROUTINE, job.routine), PASSIVE, || {
        if job.extended {
            // SAFETY: the routine that the driver gave to IoQueueWorkItemEx.
            let routine = unsafe { std::mem::transmute::<usize, RoutineEx>(job.routine) };
            routine(object, job.context, job.item);
        } else {
            // SAFETY: the routine that the driver gave to IoQueueWorkItem.
            let routine = unsafe { std::mem::transmute::<usize, Routine>(job.routine) };
            routine(object, job.context);
        }
    });
}

/// Takes a work item away, which must not wait to run.
fn free(call: &Call<'_>, address: usize) {
    if !call.machine().verifier().untrack(call, KIND, address) {
        return;
    }
    let item = call.machine().io().work_items().0.lock().remove(&address);
    if item.as_ref().is_some_and(|item| item.queued) {
        call.violation(
            &ARGUMENT,
            "a work item is freed that is queued and has not run",
        );
    }
    // Memory of ours goes last, with no lock held.
    drop(item.and_then(|item| item.memory));
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioallocateworkitem>
    fn IoAllocateWorkItem(call, device: usize) -> usize,
    irql PASSIVE..=DISPATCH, fails 0;
    {
        let memory = Guarded::new(SIZE as usize);
        let address = memory.address();
        add(&call, device, address, Some(memory));
        address
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iosizeofworkitem>
    fn IoSizeofWorkItem(call) -> u32,
    irql PASSIVE..=HIGH;
    { SIZE }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioinitializeworkitem>
    fn IoInitializeWorkItem(call, object: usize, item: Out<u8>),
    irql PASSIVE..=HIGH;
    {
        item.copy_from(&[0; SIZE as usize]);
        add(&call, object, item.address(), None);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iouninitializeworkitem>
    fn IoUninitializeWorkItem(call, item: usize),
    irql PASSIVE..=HIGH;
    { free(&call, item); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iofreeworkitem>
    fn IoFreeWorkItem(call, item: usize),
    irql PASSIVE..=DISPATCH;
    { free(&call, item); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioqueueworkitem>
    fn IoQueueWorkItem(call, item: usize, routine: usize, queue_type: u32, context: usize),
    irql PASSIVE..=DISPATCH;
    { queue(&call, Job { item, routine, context, extended: false }); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioqueueworkitemex>
    fn IoQueueWorkItemEx(call, item: usize, routine: usize, queue_type: u32, context: usize),
    irql PASSIVE..=DISPATCH;
    { queue(&call, Job { item, routine, context, extended: true }); }
}
