//! The functions of WDFREQUEST that concern the request as a whole.

use wfp_schema::NtStatus;

use super::abi::{ObjectCallback, RequestParameters};
use super::object::{Id, Kind, not_null, resolve};
use super::request::{
    complete_by_driver, forward, mark_cancelable, owned, requeue, unmark_cancelable,
};
use crate::access::Out;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};

/// `UserMode`.
const USER_MODE: u8 = 1;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestcomplete>
    fn WdfRequestComplete(call, globals: usize, request: usize, status: NtStatus),
    irql PASSIVE..=DISPATCH;
    {
        complete_by_driver(&call, request, status, None);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestcompletewithinformation>
    fn WdfRequestCompleteWithInformation(call, globals: usize, request: usize, status: NtStatus, information: usize),
    irql PASSIVE..=DISPATCH;
    {
        complete_by_driver(&call, request, status, Some(information));
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestcompletewithpriorityboost>
    fn WdfRequestCompleteWithPriorityBoost(call, globals: usize, request: usize, status: NtStatus, boost: i8),
    irql PASSIVE..=DISPATCH;
    {
        complete_by_driver(&call, request, status, None);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetstatus>
    fn WdfRequestGetStatus(call, globals: usize, request: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve(&call, request, Kind::Request);
        let mut state = call.machine().kmdf().lock();
        let sending = state.request(id).and_then(|request| request.sending.as_ref());
        sending.map_or(NtStatus::SUCCESS, |sending| sending.status())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetparameters>
    fn WdfRequestGetParameters(call, globals: usize, request: usize, parameters: Out<RequestParameters>),
    irql PASSIVE..=DISPATCH;
    {
        let (id, _) = owned(&call, request);
        not_null(&call, parameters.address(), "Parameters");
        let known = call.machine().kmdf().lock().request(id).map(|request| request.parameters());
        parameters.set(known.unwrap_or_default());
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestsetinformation>
    fn WdfRequestSetInformation(call, globals: usize, request: usize, information: usize),
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request).1.set_information(information);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetinformation>
    fn WdfRequestGetInformation(call, globals: usize, request: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request).1.information()
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetfileobject>
    fn WdfRequestGetFileObject(call, globals: usize, request: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let (id, irp) = owned(&call, request);
        let mut state = call.machine().kmdf().lock();
        let device = state.request(id).map(|request| request.device);
        let file = device.and_then(|device| state.device(device)).and_then(|device| device.files.get(&irp.file.address()));
        file.map_or(0, |file| file.handle())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetrequestormode>
    fn WdfRequestGetRequestorMode(call, globals: usize, request: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request);
        USER_MODE
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetrequestorprocessid>
    fn WdfRequestGetRequestorProcessId(call, globals: usize, request: usize) -> u32,
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request).1.file.caller().process
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestisfrom32bitprocess>
    fn WdfRequestIsFrom32BitProcess(call, globals: usize, request: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request);
        0
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestisreserved>
    fn WdfRequestIsReserved(call, globals: usize, request: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request);
        0
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestgetioqueue>
    fn WdfRequestGetIoQueue(call, globals: usize, request: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let (id, _) = owned(&call, request);
        call.machine().kmdf().lock().request(id).and_then(|request| request.queue).map_or(0, Id::handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestforwardtoioqueue>
    fn WdfRequestForwardToIoQueue(call, globals: usize, request: usize, queue: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails super::abi::status::BUSY;
    {
        let queue = resolve(&call, queue, Kind::Queue);
        status(forward(&call, request, queue))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestrequeue>
    fn WdfRequestRequeue(call, globals: usize, request: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INVALID_DEVICE_REQUEST;
    {
        status(requeue(&call, request))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestmarkcancelable>
    fn WdfRequestMarkCancelable(call, globals: usize, request: usize, callback: Option<ObjectCallback>),
    irql PASSIVE..=DISPATCH;
    {
        // A cancelled request's routine is called at once, and completes it: there is nothing to return.
        mark(&call, request, callback, true);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestmarkcancelableex>
    fn WdfRequestMarkCancelableEx(call, globals: usize, request: usize, callback: Option<ObjectCallback>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::CANCELLED;
    {
        mark(&call, request, callback, false)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestunmarkcancelable>
    fn WdfRequestUnmarkCancelable(call, globals: usize, request: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        status(unmark_cancelable(&call, request))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestiscanceled>
    fn WdfRequestIsCanceled(call, globals: usize, request: usize) -> u8,
    irql PASSIVE..=DISPATCH;
    {
        let (id, irp) = owned(&call, request);
        let cancelled = call.machine().kmdf().lock().request(id).is_some_and(|request| request.cancelled);
        u8::from(cancelled || irp.is_cancelled())
    }

    /// A control device's queues are not power-managed, so no request is ever to be stopped.
    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequeststopacknowledge>
    fn WdfRequestStopAcknowledge(call, globals: usize, request: usize, requeue: u8),
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestwdmgetirp>
    fn WdfRequestWdmGetIrp(call, globals: usize, request: usize) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        owned(&call, request).1.address()
    }
}

fn mark(
    call: &Call<'_>,
    request: usize,
    callback: Option<ObjectCallback>,
    at_once: bool,
) -> NtStatus {
    not_null(
        call,
        callback.map_or(0, |callback| callback as usize),
        "EvtRequestCancel",
    );
    callback.map_or(NtStatus::SUCCESS, |callback| {
        status(mark_cancelable(call, request, callback, at_once))
    })
}

const fn status(result: Result<(), NtStatus>) -> NtStatus {
    match result {
        Ok(()) => NtStatus::SUCCESS,
        Err(status) => status,
    }
}
