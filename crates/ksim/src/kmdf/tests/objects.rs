//! The object tree.

use wfp_schema::NtStatus;

use super::driver::{
    Machine, Setup, at, attributes, context_type, create_named, globals, out, with,
};
use crate::access::{In, Out};
use crate::kmdf::abi::{ObjectAttributes, status};
use crate::kmdf::lock::{
    WdfSpinLockAcquire, WdfSpinLockCreate, WdfSpinLockRelease, WdfWaitLockAcquire,
    WdfWaitLockCreate, WdfWaitLockRelease,
};
use crate::kmdf::memory::{
    WdfCollectionAdd, WdfCollectionCreate, WdfCollectionGetCount, WdfCollectionGetFirstItem,
    WdfCollectionRemove, WdfMemoryCopyFromBuffer, WdfMemoryCopyToBuffer, WdfMemoryCreate,
};
use crate::kmdf::object_api::{
    WdfObjectAllocateContext, WdfObjectContextGetObject, WdfObjectCreate, WdfObjectDelete,
    WdfObjectDereferenceActual, WdfObjectGetTypedContextWorker, WdfObjectReferenceActual,
};
use crate::kmdf::queue_api::WdfIoQueueGetDevice;

#[test]
fn children_are_cleaned_up_and_destroyed_before_their_parent() {
    let machine = Machine::bare();
    machine.run(|| {
        let parent = create_named("parent", 0);
        let child = create_named("child", parent);
        create_named("grandchild", child);
        create_named("second", parent);
        WdfObjectDelete(globals(), parent);
    });
    let expected = [
        "cleanup grandchild",
        "cleanup child",
        "cleanup second",
        "cleanup parent",
        "destroy grandchild",
        "destroy child",
        "destroy second",
        "destroy parent",
    ];
    assert_eq!(machine.take_log(), expected);
    machine.end_clean();
}

#[test]
fn a_reference_delays_destroy_but_not_cleanup() {
    let machine = Machine::bare();
    machine.run(|| {
        let object = create_named("object", 0);
        WdfObjectReferenceActual(globals(), object, 0, 0, 0);
        WdfObjectDelete(globals(), object);
        super::driver::log("deleted");
        WdfObjectDereferenceActual(globals(), object, 0, 0, 0);
    });
    assert_eq!(
        machine.take_log(),
        ["cleanup object", "deleted", "destroy object"]
    );
    machine.end_clean();
}

#[test]
fn a_reference_that_is_left_at_unload_is_reported() {
    let machine = Machine::bare();
    machine.run(|| {
        let object = create_named("object", 0);
        WdfObjectReferenceActual(globals(), object, 0, 0, 0);
    });
    machine.unbind();
    assert_eq!(machine.broken_rules(), ["unload-left"]);
}

#[test]
fn an_object_has_several_contexts_by_type() {
    let machine = Machine::bare();
    machine.run(|| {
        let globals = globals();
        let object = create_named("object", 0);
        let info = context_type(2, 100);
        let more = ObjectAttributes {
            context_type: at(&info),
            ..attributes()
        };
        let mut context = 0;
        assert_eq!(
            WdfObjectAllocateContext(globals, object, at(&more), out(&mut context)),
            NtStatus::SUCCESS
        );
        assert_eq!(
            WdfObjectGetTypedContextWorker(globals, object, at(&info)),
            context
        );
        assert_eq!(WdfObjectContextGetObject(globals, context), object);
        let mut again = 0;
        let status = WdfObjectAllocateContext(globals, object, at(&more), out(&mut again));
        assert_eq!((status, again), (NtStatus::OBJECT_NAME_EXISTS, context));
        assert_eq!(
            WdfObjectGetTypedContextWorker(globals, object, at(&context_type(3, 8))),
            0
        );
        assert_eq!(
            super::driver::read(context, 100),
            [0; 100],
            "contexts are zeroed"
        );
    });
    machine.end_clean();
}

#[test]
fn attributes_are_checked() {
    let machine = Machine::bare();
    machine.run(|| {
        let create = |attributes: ObjectAttributes| {
            let mut object = 0;
            WdfObjectCreate(globals(), at(&attributes), out(&mut object))
        };
        assert_eq!(
            create(ObjectAttributes {
                size: 55,
                ..attributes()
            }),
            NtStatus::INFO_LENGTH_MISMATCH
        );
        assert_eq!(
            create(ObjectAttributes {
                context_size_override: 8,
                ..attributes()
            }),
            status::OBJECT_ATTRIBUTES_INVALID
        );
        assert_eq!(
            create(ObjectAttributes {
                execution_level: 3,
                ..attributes()
            }),
            status::EXECUTION_LEVEL_INVALID
        );
        let scope = ObjectAttributes {
            synchronization_scope: 3,
            ..attributes()
        };
        assert_eq!(create(scope), status::SYNCHRONIZATION_SCOPE_INVALID);
        assert_eq!(
            create(ObjectAttributes {
                execution_level: 0,
                ..attributes()
            }),
            status::OBJECT_ATTRIBUTES_INVALID
        );
    });
    machine.end_clean();
}

#[test]
fn a_stale_handle_stops_the_machine() {
    let machine = Machine::bare();
    let bugcheck = machine
        .try_run(|| {
            let object = create_named("object", 0);
            WdfObjectDelete(globals(), object);
            WdfObjectDelete(globals(), object);
        })
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 5));
    assert_eq!(machine.broken_rules(), ["object-stale"]);
}

#[test]
fn a_handle_of_another_kind_stops_the_machine() {
    let machine = Machine::new(&Setup::default());
    let bugcheck = machine
        .try_run(|| WdfIoQueueGetDevice(globals(), with(|state| state.device)))
        .unwrap_err();
    assert_eq!(
        (
            bugcheck.code,
            bugcheck.parameters[0],
            bugcheck.parameters[2]
        ),
        (0x10d, 5, 0x1003)
    );
    assert_eq!(machine.broken_rules(), ["handle-type"]);
    assert!(
        bugcheck.message.contains("is a WDFDEVICE, not a WDFQUEUE"),
        "{}",
        bugcheck.message
    );
}

#[test]
fn the_default_queue_cannot_be_deleted() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| WdfObjectDelete(globals(), with(|state| state.queue)));
    assert_eq!(machine.broken_rules(), ["argument"]);
}

#[test]
fn a_child_of_a_dying_object_is_not_created() {
    extern "win64" fn evt_cleanup(object: usize) {
        let mut child = 0;
        let attributes = ObjectAttributes {
            parent: object,
            ..attributes()
        };
        let status = WdfObjectCreate(globals(), at(&attributes), out(&mut child));
        super::driver::log(status.to_string());
    }
    let machine = Machine::bare();
    machine.run(|| {
        let mut object = 0;
        let attributes = ObjectAttributes {
            cleanup: Some(evt_cleanup),
            ..attributes()
        };
        assert_eq!(
            WdfObjectCreate(globals(), at(&attributes), out(&mut object)),
            NtStatus::SUCCESS
        );
        WdfObjectDelete(globals(), object);
    });
    assert_eq!(machine.take_log(), [NtStatus::DELETE_PENDING.to_string()]);
    machine.end_clean();
}

#[test]
fn memory_is_copied_within_its_bounds() {
    let machine = Machine::bare();
    machine.run(|| {
        let globals = globals();
        let (mut memory, mut buffer) = (0, 0);
        let status = WdfMemoryCreate(
            globals,
            In::null(),
            512,
            0,
            10,
            out(&mut memory),
            out(&mut buffer),
        );
        assert_eq!(status, NtStatus::SUCCESS);
        let data = *b"abcde";
        assert_eq!(
            WdfMemoryCopyFromBuffer(globals, memory, 5, at(&data[0]), 5),
            NtStatus::SUCCESS
        );
        assert_eq!(
            WdfMemoryCopyFromBuffer(globals, memory, 6, at(&data[0]), 5),
            NtStatus::BUFFER_TOO_SMALL
        );
        let mut copy = [0; 5];
        // SAFETY: five bytes, borrowed for the call.
        let to = unsafe { Out::new(copy.as_mut_ptr()) };
        assert_eq!(
            WdfMemoryCopyToBuffer(globals, memory, 5, to, 5),
            NtStatus::SUCCESS
        );
        assert_eq!(copy, data);
        assert_eq!(super::driver::read(buffer, 10), *b"\0\0\0\0\0abcde");
    });
    machine.end_clean();
}

#[test]
fn a_collection_keeps_what_is_in_it() {
    let machine = Machine::bare();
    machine.run(|| {
        let globals = globals();
        let mut collection = 0;
        assert_eq!(
            WdfCollectionCreate(globals, In::null(), out(&mut collection)),
            NtStatus::SUCCESS
        );
        let object = create_named("object", 0);
        assert_eq!(
            WdfCollectionAdd(globals, collection, object),
            NtStatus::SUCCESS
        );
        assert_eq!(WdfCollectionGetCount(globals, collection), 1);
        WdfObjectDelete(globals, object);
        assert_eq!(WdfCollectionGetFirstItem(globals, collection), object);
        super::driver::log("still there");
        WdfCollectionRemove(globals, collection, object);
        assert_eq!(WdfCollectionGetCount(globals, collection), 0);
    });
    assert_eq!(
        machine.take_log(),
        ["cleanup object", "still there", "destroy object"]
    );
    machine.end_clean();
}

#[test]
fn a_spin_lock_raises_the_irql_and_restores_it() {
    let machine = Machine::bare();
    let levels = machine.run(|| {
        let globals = globals();
        let mut lock = 0;
        assert_eq!(
            WdfSpinLockCreate(globals, In::null(), out(&mut lock)),
            NtStatus::SUCCESS
        );
        let irql = || crate::Cpu::current().unwrap().irql();
        WdfSpinLockAcquire(globals, lock);
        let held = irql();
        WdfSpinLockRelease(globals, lock);
        (held, irql())
    });
    assert_eq!(levels, (2, 0));
    machine.end_clean();
}

#[test]
fn a_spin_lock_taken_twice_stops_the_machine() {
    let machine = Machine::bare();
    let bugcheck = machine
        .try_run(|| {
            let mut lock = 0;
            WdfSpinLockCreate(globals(), In::null(), out(&mut lock));
            WdfSpinLockAcquire(globals(), lock);
            WdfSpinLockAcquire(globals(), lock);
        })
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 2));
    assert_eq!(machine.broken_rules(), ["lock-recursion"]);
}

#[test]
fn a_wait_lock_released_by_a_stranger_stops_the_machine() {
    let machine = Machine::bare();
    let bugcheck = machine
        .try_run(|| {
            let mut lock = 0;
            WdfWaitLockCreate(globals(), In::null(), out(&mut lock));
            assert_eq!(
                WdfWaitLockAcquire(globals(), lock, In::null()),
                NtStatus::SUCCESS
            );
            WdfWaitLockRelease(globals(), lock);
            WdfWaitLockRelease(globals(), lock);
        })
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 0xb));
    assert_eq!(machine.broken_rules(), ["lock-owner"]);
}
