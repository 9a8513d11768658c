//! Requests that wait until there is something to read: inverted calls.
//!
//! A reader who finds nothing waits in a queue of the framework's, which sees to its cancellation.
//! Whoever adds something while somebody waits asks for a run of a work item, which answers as many
//! readers as it can.

use core::sync::atomic::{AtomicBool, Ordering};

use kmdf::{Queue, Request};
use wfp::NtStatus;

/// What is read.
pub(crate) trait Inbox {
    /// Its readers.
    fn readers(&self) -> &Readers;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool;

    /// Writes a reply with what there is to read, as much as fits, and returns its bytes. `None`: there is
    /// nothing, unless `even_nothing` is a reply too.
    ///
    /// # Errors
    /// The status that the request fails with.
    fn fill(&self, output: &mut [u8], even_nothing: bool) -> Result<Option<usize>, NtStatus>;
}

/// Those who wait for something to read.
pub(crate) struct Readers {
    /// Whether a reader may wait. The rule: a reader is in the queue only if this is set, or the
    /// work item is about to run, or the reader itself is about to set it.
    waiting: AtomicBool,
    queue: fn() -> Option<Queue>,
    /// Asks for a run of [`serve`].
    enqueue_work: fn(),
}

impl Readers {
    /// Nobody waits.
    pub(crate) const fn new(queue: fn() -> Option<Queue>, enqueue_work: fn()) -> Self {
        Self {
            waiting: AtomicBool::new(false),
            queue,
            enqueue_work,
        }
    }

    /// Asks for a run of the work item if somebody may wait.
    pub(crate) fn wake(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            (self.enqueue_work)();
        }
    }
}

/// Answers a reader: now if there is something to read or it does not want to wait, else later.
pub(crate) fn read(inbox: &impl Inbox, request: Request, no_wait: bool) {
    if no_wait || !inbox.is_empty() {
        hand_out(inbox, request, no_wait);
    } else {
        park(inbox, request);
    }
}

/// The work item: answers those who wait.
pub(crate) fn serve(inbox: &impl Inbox) {
    let readers = inbox.readers();
    let Some(queue) = (readers.queue)() else {
        return;
    };
    // Each round takes a request out of the queue, and there is something for it; so the loop ends
    // with one or the other.
    loop {
        if inbox.is_empty() {
            readers.waiting.store(true, Ordering::SeqCst);
            // What came in between found nobody waiting.
            if !inbox.is_empty() {
                readers.wake();
            }
            return;
        }
        let Some(request) = queue.next() else {
            return;
        };
        hand_out(inbox, request, false);
    }
}

/// Lets a reader wait.
fn park(inbox: &impl Inbox, request: Request) {
    let readers = inbox.readers();
    let Some(queue) = (readers.queue)() else {
        return request.complete(Err(NtStatus::DEVICE_NOT_READY));
    };
    match request.forward(queue) {
        Ok(()) => {
            // In this order: what was added before is found now, what comes later finds the reader.
            readers.waiting.store(true, Ordering::SeqCst);
            if !inbox.is_empty() {
                readers.wake();
            }
        }
        Err((request, status)) => request.complete(Err(status)),
    }
}

/// Completes a request with what there is to read. Another reader may have been faster: without
/// anything, the request waits (again), unless it does not want to.
fn hand_out(inbox: &impl Inbox, mut request: Request, no_wait: bool) {
    match inbox.fill(request.output(), no_wait) {
        Ok(Some(bytes)) => request.complete(Ok(bytes)),
        Ok(None) => park(inbox, request),
        Err(status) => request.complete(Err(status)),
    }
}
