//! The functions that stop, drain and purge a WDFQUEUE: each tells the driver when it is done, or waits for that.

use super::abi::QueueStateCallback;
use super::object::{Id, Kind, resolve};
use super::queue::{Ending, wind_down};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, WAIT_IN_CALLBACK};

/// Declares both functions of each way to end a queue's work.
macro_rules! endings {
    ($($later_page:literal $later:ident, $waits_page:literal $waits:ident: $ending:expr;)*) => {
        exports! {
            module "kmdf";

            $(
                #[doc = $later_page]
                fn $later(call, globals: usize, queue: usize, done: Option<QueueStateCallback>, context: usize),
                irql PASSIVE..=DISPATCH;
                {
                    begin(&call, queue, $ending, done, context);
                }

                #[doc = $waits_page]
                fn $waits(call, globals: usize, queue: usize),
                irql PASSIVE..=PASSIVE;
                {
                    finish(&call, queue, $ending);
                }
            )*
        }
    };
}

endings! {
    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuestop>"
    WdfIoQueueStop,
    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuestopsynchronously>"
    WdfIoQueueStopSynchronously: Ending::Stop;

    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuestopandpurge>"
    WdfIoQueueStopAndPurge,
    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuestopandpurgesynchronously>"
    WdfIoQueueStopAndPurgeSynchronously: Ending::StopAndPurge;

    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuedrain>"
    WdfIoQueueDrain,
    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuedrainsynchronously>"
    WdfIoQueueDrainSynchronously: Ending::Drain;

    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuepurge>"
    WdfIoQueuePurge,
    "<https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfio/nf-wdfio-wdfioqueuepurgesynchronously>"
    WdfIoQueuePurgeSynchronously: Ending::Purge;
}

/// The functions that tell the driver later.
fn begin(
    call: &Call<'_>,
    queue: usize,
    ending: Ending,
    done: Option<QueueStateCallback>,
    context: usize,
) {
    let id = resolve(call, queue, Kind::Queue);
    end(call, id, ending, done.map(|done| (done, context)));
}

/// The functions that wait.
fn finish(call: &Call<'_>, queue: usize, ending: Ending) {
    let id = resolve(call, queue, Kind::Queue);
    let machine = call.machine();
    let inside = machine
        .kmdf()
        .lock()
        .queue(id)
        .is_some_and(|queue| queue.callback_lock.is_held_by(call.cpu()));
    if inside {
        call.violation(
            &WAIT_IN_CALLBACK,
            "waits for a queue from a callback of that queue",
        );
    }
    if !end(call, id, ending, None) {
        return;
    }
    machine.wait(call.cpu(), call.name(), None, || {
        let mut state = machine.kmdf().lock();
        state.queue(id).is_none_or(|queue| {
            queue.presented.is_empty() && (ending.accepts() || queue.waiting.is_empty())
        })
    });
    if let Some(queue) = machine.kmdf().lock().queue(id) {
        queue.cancels_presented = false;
    }
}

fn end(call: &Call<'_>, id: Id, ending: Ending, done: Option<super::queue::Once>) -> bool {
    let ended = wind_down(call.cpu(), id, ending, done);
    if let Err(status) = ended {
        call.violation(
            &ARGUMENT,
            format!("the queue is being stopped or purged already: {status}"),
        );
    }
    ended.is_ok()
}
