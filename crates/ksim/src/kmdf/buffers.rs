//! The buffers of a request, as the driver gets them.
//!
//! Which function answers what for which transfer follows the framework's `fxrequestapi.cpp` and `fxrequest.cpp`.

use wfp_schema::NtStatus;

use super::abi::status;
use super::attributes::Attributes;
use super::memory::Memory;
use super::object::{Body, Id, not_null};
use super::request::{Owner, Request, owned};
use crate::access::Out;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::nt::io_irp::{Irp, Major, Method, make_mdl};
use crate::nt::io_memory::Guarded;
use crate::verifier::ARGUMENT;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveinputbuffer>
    fn WdfRequestRetrieveInputBuffer(call, globals: usize, request: usize, minimum: usize, buffer: Out<usize>, length: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (_, irp) = owned(&call, request);
        not_null(&call, buffer.address(), "Buffer");
        give_buffer(input(&irp), minimum, buffer, length)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveoutputbuffer>
    fn WdfRequestRetrieveOutputBuffer(call, globals: usize, request: usize, minimum: usize, buffer: Out<usize>, length: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (_, irp) = owned(&call, request);
        not_null(&call, buffer.address(), "Buffer");
        give_buffer(output(&irp), minimum, buffer, length)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveinputmemory>
    fn WdfRequestRetrieveInputMemory(call, globals: usize, request: usize, memory: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (id, irp) = owned(&call, request);
        give_memory(&call, id, input(&irp), memory, |request| &mut request.input_memory)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveoutputmemory>
    fn WdfRequestRetrieveOutputMemory(call, globals: usize, request: usize, memory: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (id, irp) = owned(&call, request);
        give_memory(&call, id, output(&irp), memory, |request| &mut request.output_memory)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveinputwdmmdl>
    fn WdfRequestRetrieveInputWdmMdl(call, globals: usize, request: usize, mdl: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (id, irp) = owned(&call, request);
        let own = irp.mdl.as_ref().filter(|_| irp.major == Major::Write).map(Guarded::address);
        give_mdl(&call, id, input(&irp), own, mdl, |request| &mut request.input_mdl)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveoutputwdmmdl>
    fn WdfRequestRetrieveOutputWdmMdl(call, globals: usize, request: usize, mdl: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (id, irp) = owned(&call, request);
        let own = irp.mdl.as_ref().filter(|_| irp.major != Major::Write).map(Guarded::address);
        give_mdl(&call, id, output(&irp), own, mdl, |request| &mut request.output_mdl)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveunsafeuserinputbuffer>
    fn WdfRequestRetrieveUnsafeUserInputBuffer(call, globals: usize, request: usize, minimum: usize, buffer: Out<usize>, length: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (id, irp) = owned(&call, request);
        not_null(&call, buffer.address(), "InputBuffer");
        let allowed = in_caller_context(&call, id) && irp.method == Method::Neither && irp.major != Major::Read;
        give_buffer(user(allowed, irp.user_input.as_ref(), irp.input_len), minimum, buffer, length)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestretrieveunsafeuseroutputbuffer>
    fn WdfRequestRetrieveUnsafeUserOutputBuffer(call, globals: usize, request: usize, minimum: usize, buffer: Out<usize>, length: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (id, irp) = owned(&call, request);
        not_null(&call, buffer.address(), "OutputBuffer");
        let allowed = in_caller_context(&call, id) && irp.method == Method::Neither && irp.major != Major::Write;
        give_buffer(user(allowed, irp.user_output.as_ref(), irp.output_len), minimum, buffer, length)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestprobeandlockuserbufferforread>
    fn WdfRequestProbeAndLockUserBufferForRead(call, globals: usize, request: usize, buffer: usize, length: usize, memory: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        probe_and_lock(&call, request, buffer, length, memory, false)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfrequest/nf-wdfrequest-wdfrequestprobeandlockuserbufferforwrite>
    fn WdfRequestProbeAndLockUserBufferForWrite(call, globals: usize, request: usize, buffer: usize, length: usize, memory: Out<usize>) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        probe_and_lock(&call, request, buffer, length, memory, true)
    }
}

/// Address and length of a buffer.
type Span = Result<(usize, usize), NtStatus>;

fn span(block: Option<&Guarded>, length: usize) -> Span {
    match block {
        Some(block) if length > 0 => Ok((block.address(), length)),
        _ => Err(NtStatus::BUFFER_TOO_SMALL),
    }
}

/// What a request brings the driver.
fn input(irp: &Irp) -> Span {
    match (irp.major, irp.method) {
        (Major::DeviceControl, _) if irp.input_len == 0 => Err(NtStatus::BUFFER_TOO_SMALL),
        (Major::DeviceControl | Major::Write, Method::Neither) => {
            Err(NtStatus::INVALID_DEVICE_REQUEST)
        }
        (Major::DeviceControl, _) | (Major::Write, Method::Buffered) => {
            span(irp.system.as_ref(), irp.input_len)
        }
        (Major::Write, _) => span(irp.user_output.as_ref(), irp.input_len),
        _ => Err(NtStatus::INVALID_DEVICE_REQUEST),
    }
}

/// Where the driver puts what a request asks for.
fn output(irp: &Irp) -> Span {
    match (irp.major, irp.method) {
        (Major::DeviceControl | Major::Read, _) if irp.output_len == 0 => {
            Err(NtStatus::BUFFER_TOO_SMALL)
        }
        (Major::DeviceControl | Major::Read, Method::Neither) => {
            Err(NtStatus::INVALID_DEVICE_REQUEST)
        }
        (Major::DeviceControl | Major::Read, Method::Buffered) => {
            span(irp.system.as_ref(), irp.output_len)
        }
        (Major::DeviceControl | Major::Read, _) => span(irp.user_output.as_ref(), irp.output_len),
        _ => Err(NtStatus::INVALID_DEVICE_REQUEST),
    }
}

fn user(allowed: bool, block: Option<&Guarded>, length: usize) -> Span {
    if allowed {
        Ok((block.map_or(0, Guarded::address), length))
    } else {
        Err(NtStatus::INVALID_DEVICE_REQUEST)
    }
}

fn in_caller_context(call: &Call<'_>, request: Id) -> bool {
    let owner = call
        .machine()
        .kmdf()
        .lock()
        .request(request)
        .map(|request| request.owner);
    if owner != Some(Owner::CallerContext) {
        call.violation(
            &ARGUMENT,
            "a caller's addresses are only good inside EvtIoInCallerContext",
        );
        return false;
    }
    true
}

const fn give_buffer(
    found: Span,
    minimum: usize,
    buffer: Out<usize>,
    length: Out<usize>,
) -> NtStatus {
    match found {
        Ok((_, available)) if available < minimum => {
            length.set(0);
            NtStatus::BUFFER_TOO_SMALL
        }
        Ok((address, available)) => {
            buffer.set(address);
            length.set(available);
            NtStatus::SUCCESS
        }
        Err(status) => {
            length.set(0);
            status
        }
    }
}

fn give_memory(
    call: &Call<'_>,
    request: Id,
    found: Span,
    out: Out<usize>,
    slot: impl Fn(&mut Request) -> &mut Option<Id>,
) -> NtStatus {
    not_null(call, out.address(), "Memory");
    let (address, length) = match found {
        Ok(found) => found,
        Err(status) => return status,
    };
    let outcome = {
        let mut state = call.machine().kmdf().lock();
        let known = state.request(request).and_then(|request| *slot(request));
        known.map_or_else(
            || {
                let client = state.get(request).map_or(0, |request| request.client);
                let attributes = Attributes::default().with_parent(request);
                let body = Body::Memory(Box::new(Memory::of_request(address, length, false)));
                let memory = state.create(client, &attributes, body)?;
                if let Some(request) = state.request(request) {
                    *slot(request) = Some(memory);
                }
                Ok(memory)
            },
            Ok,
        )
    };
    match outcome {
        Ok(memory) => {
            out.set(memory.handle());
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}

fn give_mdl(
    call: &Call<'_>,
    request: Id,
    found: Span,
    own: Option<usize>,
    out: Out<usize>,
    slot: impl Fn(&mut Request) -> &mut Option<Guarded>,
) -> NtStatus {
    not_null(call, out.address(), "Mdl");
    let (address, length) = match found {
        Ok(found) => found,
        Err(status) => return status,
    };
    let mdl = own.or_else(|| {
        let mut state = call.machine().kmdf().lock();
        let slot = slot(state.request(request)?);
        Some(
            slot.get_or_insert_with(|| make_mdl(address, length, true))
                .address(),
        )
    });
    let Some(mdl) = mdl else {
        return NtStatus::INVALID_DEVICE_REQUEST;
    };
    out.set(mdl);
    NtStatus::SUCCESS
}

fn probe_and_lock(
    call: &Call<'_>,
    request: usize,
    buffer: usize,
    length: usize,
    out: Out<usize>,
    write: bool,
) -> NtStatus {
    let (id, _) = owned(call, request);
    not_null(call, out.address(), "MemoryObject");
    if length == 0 {
        return status::INVALID_USER_BUFFER;
    }
    if !in_caller_context(call, id) {
        return NtStatus::INVALID_DEVICE_REQUEST;
    }
    if !call.machine().io().probe(buffer, length, write) {
        return status::ACCESS_VIOLATION;
    }
    let outcome = {
        let mut state = call.machine().kmdf().lock();
        let client = state.get(id).map_or(0, |request| request.client);
        let attributes = Attributes::default().with_parent(id);
        state.create(
            client,
            &attributes,
            Body::Memory(Box::new(Memory::of_request(buffer, length, !write))),
        )
    };
    match outcome {
        Ok(memory) => {
            out.set(memory.handle());
            NtStatus::SUCCESS
        }
        Err(status) => status,
    }
}
