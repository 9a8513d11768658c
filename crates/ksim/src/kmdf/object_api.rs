//! The functions that every object has.

use wfp_schema::NtStatus;

use super::abi::{ContextType, ObjectAttributes};
use super::attributes::{Attributes, Constraints, Parent, unique_type};
use super::life;
use super::memory::create;
use super::object::{Body, General, Id, Kind, Phase, not_null, resolve_any};
use super::request::Owner;
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectgettypedcontext>
    fn WdfObjectGetTypedContextWorker(call, globals: usize, object: usize, info: In<ContextType>) -> usize,
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve_any(&call, object);
        let Some(info) = info.get() else {
            not_null(&call, 0, "TypeInfo");
            return 0;
        };
        let unique_type = unique_type(&info);
        call.machine().kmdf().lock().get(id).and_then(|object| object.context(unique_type)).unwrap_or(0)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectallocatecontext>
    fn WdfObjectAllocateContext(call, globals: usize, object: usize, attributes: In<ObjectAttributes>, context: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let id = resolve_any(&call, object);
        not_null(&call, attributes.address(), "ContextAttributes");
        let attributes = match Attributes::read(&call, attributes, Parent::NotAllowed, Constraints::None) {
            Ok(attributes) => attributes,
            Err(status) => return status,
        };
        let added = {
            let mut state = call.machine().kmdf().lock();
            match state.get_mut(id).filter(|object| object.phase == Phase::Live) {
                Some(object) => object.add_context(&attributes),
                None => return NtStatus::DELETE_PENDING,
            }
        };
        match added {
            Ok(address) => {
                context.set(address);
                NtStatus::SUCCESS
            }
            Err(known) => {
                context.set(known);
                NtStatus::OBJECT_NAME_EXISTS
            }
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectcontextgetobject>
    fn WdfObjectContextGetObject(call, globals: usize, context: usize) -> usize,
    irql PASSIVE..=HIGH;
    {
        let owner = {
            let state = call.machine().kmdf().lock();
            let mut objects = state.objects_of(globals).into_iter();
            objects.find(|(id, _)| state.get(*id).is_some_and(|object| object.owns_context(context)))
        };
        if owner.is_none() {
            call.violation(&OBJECT_STALE, format!("{context:#x} is not the context of an object"));
        }
        owner.map_or(0, |(id, _)| id.handle())
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectreferenceactual>
    fn WdfObjectReferenceActual(call, globals: usize, object: usize, tag: usize, line: i32, file: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve_any(&call, object);
        if let Some(object) = call.machine().kmdf().lock().get_mut(id) {
            object.references += 1;
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectdereferenceactual>
    fn WdfObjectDereferenceActual(call, globals: usize, object: usize, tag: usize, line: i32, file: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve_any(&call, object);
        if !life::release(call.cpu(), id) {
            call.violation(&OBJECT_STALE, "gives back a reference that nobody holds");
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectcreate>
    fn WdfObjectCreate(call, globals: usize, attributes: In<ObjectAttributes>, object: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, object.address(), "Object");
        create(&call, globals, attributes, object, Body::General(Box::new(General)))
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectdelete>
    fn WdfObjectDelete(call, globals: usize, object: usize),
    irql PASSIVE..=DISPATCH;
    {
        let id = resolve_any(&call, object);
        if let Some(reason) = undeletable(&call, id) {
            call.violation(&ARGUMENT, format!("deletes {reason}"));
            return;
        }
        life::delete(call.cpu(), id);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfobject/nf-wdfobject-wdfobjectquery>
    fn WdfObjectQuery(call, globals: usize, object: usize, guid: usize, length: u32, buffer: usize) -> NtStatus,
    irql PASSIVE..=DISPATCH;
    {
        resolve_any(&call, object);
        NtStatus::NOT_FOUND
    }
}

/// What a driver must not delete, in words.
fn undeletable(call: &Call<'_>, id: Id) -> Option<&'static str> {
    let mut state = call.machine().kmdf().lock();
    let kind = state.get(id)?.kind;
    match kind {
        Kind::Driver => Some("the driver object"),
        Kind::File => Some("a file object, which lives as long as its handle"),
        Kind::Request
            if state
                .request(id)
                .is_some_and(|request| request.owner != Owner::Nobody && !request.is_made) =>
        {
            Some("a request that the framework made, which is completed instead")
        }
        Kind::Queue => {
            let device = state.queue(id)?.device;
            let is_default = state
                .device(device)
                .is_some_and(|device| device.default_queue == Some(id));
            is_default.then_some("the default queue of a device")
        }
        Kind::DeviceInit => Some("a WDFDEVICE_INIT, which WdfDeviceInitFree frees"),
        _ => None,
    }
}
