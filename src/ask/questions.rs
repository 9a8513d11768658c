//! Requests for questions, and answers.

use kmdf::{Queue, Request};
use portcullis_core::Ticket;
use portcullis_proto::{Action, Counter, EventRecord, event::EventsReply};
use wfp::{NtStatus, Result, irql::Passive, time};
use zerocopy::IntoBytes;

use super::{HOLDING, Holding};
use crate::{device, state::Core};

/// Answers a reader: now if there is a question or it does not want to wait, else later.
pub(crate) fn read(core: &Core, mut request: Request, no_wait: bool) {
    let Some((holding, queue)) = HOLDING.get().zip(device::question_queue()) else {
        return request.complete(Err(NtStatus::DEVICE_NOT_READY));
    };
    if request.output().len() < EventsReply::size_with(1) {
        core.statistics().count(Counter::OutputTooSmall);
        return request.complete(Err(NtStatus::BUFFER_TOO_SMALL));
    }
    let Some(file) = request.file() else {
        return request.complete(Err(NtStatus::INVALID_DEVICE_REQUEST));
    };
    if let Err(status) = holding.admit(file) {
        return request.complete(Err(status));
    }
    if no_wait || holding.table.has_question() {
        hand_out(holding, queue, request, no_wait);
    } else {
        park(queue, request);
    }
}

/// Hands questions to those who wait.
pub(super) fn serve(_core: &Core, holding: &Holding) {
    let Some(queue) = device::question_queue() else {
        return;
    };
    // Each round takes a request out of the queue, and there is a question for it; so the loop
    // ends with one or the other.
    while holding.table.has_question()
        && let Some(request) = queue.next()
    {
        hand_out(holding, queue, request, false);
    }
}

/// Lets a reader wait for questions.
fn park(queue: Queue, request: Request) {
    match request.forward(queue) {
        // A question that came meanwhile has found nobody.
        Ok(()) => device::enqueue_ask_work(),
        Err((request, status)) => request.complete(Err(status)),
    }
}

/// Completes a request with the questions that wait, as many as fit. Another reader may have been
/// faster: without any, the request waits (again), unless it does not want to.
fn hand_out(holding: &Holding, queue: Queue, mut request: Request, no_wait: bool) {
    let output = request.output();
    let Some((fixed, records)) = output.split_at_mut_checked(size_of::<EventsReply>()) else {
        return request.complete(Err(NtStatus::BUFFER_TOO_SMALL));
    };
    let mut count = 0;
    for record in records.chunks_exact_mut(size_of::<EventRecord>()) {
        let Some(question) = holding.table.next_question() else {
            break;
        };
        // `record` has a record's size.
        let _ = question.write_to(record);
        count += 1;
    }
    if count == 0 && !no_wait {
        return park(queue, request);
    }
    let number = u32::try_from(count).unwrap_or(u32::MAX);
    let reply = EventsReply::new(number, holding.table.has_question().into());
    // `fixed` has the reply's size.
    let _ = reply.write_to(fixed);
    request.complete(Ok(EventsReply::size_with(count)));
}

/// Answers a question.
///
/// # Errors
/// `STATUS_INVALID_DEVICE_STATE` if the request is not of the program that reads questions,
/// `STATUS_NOT_FOUND` if there is no such question (any more).
pub(crate) fn answer(
    core: &Core,
    request: &Request,
    question: u64,
    action: Action,
    passive: Passive,
) -> Result {
    let holding = HOLDING.get().ok_or(NtStatus::DEVICE_NOT_READY)?;
    let file = request.file();
    if file.is_none() || *holding.asker.lock() != file {
        return Err(NtStatus::INVALID_DEVICE_STATE);
    }
    let ticket = Ticket::from_raw(question).ok_or(NtStatus::NOT_FOUND)?;
    let answered = holding
        .table
        .answer(ticket, action, time::system_time(), |released| {
            holding.go_on(core, released, passive);
        });
    if answered {
        Ok(())
    } else {
        Err(NtStatus::NOT_FOUND)
    }
}
