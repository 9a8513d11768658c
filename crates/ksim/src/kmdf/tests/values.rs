//! Registry values in every form, lookaside lists, what a device can be asked, and the framework's verifier.

use wfp_schema::NtStatus;

use super::driver::{Machine, Setup, Text, at, attributes, create_named, globals, out, read, with};
use crate::access::{In, Out};
use crate::kmdf::Value;
use crate::kmdf::abi::{MemoryOffset, ObjectAttributes};
use crate::kmdf::device::WdfDeviceGetCharacteristics;
use crate::kmdf::device_property::{
    WdfDeviceGetAlignmentRequirement, WdfDeviceSetAlignmentRequirement,
    WdfDeviceSetCharacteristics, WdfDeviceWdmGetAttachedDevice, WdfVerifierKeBugCheck,
};
use crate::kmdf::lookaside::{WdfLookasideListCreate, WdfMemoryCreateFromLookaside};
use crate::kmdf::memory::{
    WdfCollectionAdd, WdfCollectionCreate, WdfCollectionGetCount, WdfCollectionGetItem,
    WdfMemoryCopyFromBuffer, WdfMemoryGetBuffer, WdfStringCreate,
};
use crate::kmdf::object_api::WdfObjectDelete;
use crate::kmdf::registry::{
    WdfDriverOpenParametersRegistryKey, WdfRegistryClose, WdfRegistryQueryULong,
};
use crate::kmdf::registry_value::{
    WdfRegistryAssignMemory, WdfRegistryAssignMultiString, WdfRegistryAssignString,
    WdfRegistryAssignValue, WdfRegistryQueryMemory, WdfRegistryQueryMultiString,
    WdfRegistryRemoveKey,
};

const PARAMETERS: &str = "\\REGISTRY\\MACHINE\\SYSTEM\\ControlSet001\\Services\\Test\\Parameters";

fn parameters_key() -> usize {
    let mut key = 0;
    let driver = with(|state| state.driver);
    let status =
        WdfDriverOpenParametersRegistryKey(globals(), driver, 0, In::null(), out(&mut key));
    assert_eq!(status, NtStatus::SUCCESS);
    key
}

fn make_text(text: &str) -> usize {
    let (text, mut string) = (Text::new(text), 0);
    let status = WdfStringCreate(globals(), at(&text.unicode()), In::null(), out(&mut string));
    assert_eq!(status, NtStatus::SUCCESS);
    string
}

/// The registry path that the test driver was bound with, as the framework knows it.
fn value(machine: &Machine, name: &str) -> Option<Value> {
    let path = machine
        .kernel
        .kmdf()
        .lock()
        .clients
        .values()
        .next()
        .map(|client| format!("{}\\Parameters", client.registry_path));
    machine
        .kernel
        .kmdf()
        .registry()
        .get(path.as_deref().unwrap_or(PARAMETERS), name)
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryassignvalue>
#[test]
fn a_value_is_assigned_by_its_type_and_read_back_as_memory() {
    let machine = Machine::bare();
    machine.run(|| {
        let (globals, key) = (globals(), parameters_key());
        let name = Text::new("Limit");
        let number = 7u32.to_le_bytes();
        let status =
            WdfRegistryAssignValue(globals, key, at(&name.unicode()), 4, 4, at(&number[0]));
        assert_eq!(status, NtStatus::SUCCESS);
        let mut limit = 0;
        assert!(
            WdfRegistryQueryULong(globals, key, at(&name.unicode()), out(&mut limit)).is_success()
        );
        assert_eq!(limit, 7);
        let (mut memory, mut kind, mut size) = (0, 0, 0);
        let status = WdfRegistryQueryMemory(
            globals,
            key,
            at(&name.unicode()),
            0x200,
            In::null(),
            out(&mut memory),
            out(&mut kind),
        );
        assert_eq!(status, NtStatus::SUCCESS);
        let address = WdfMemoryGetBuffer(globals, memory, out(&mut size));
        assert_eq!((kind, size, read(address, 4)), (4, 4, number.to_vec()));
        let blob = Text::new("Blob");
        let part = MemoryOffset {
            offset: 1,
            length: 2,
        };
        let status =
            WdfRegistryAssignMemory(globals, key, at(&blob.unicode()), 3, memory, at(&part));
        assert_eq!(status, NtStatus::SUCCESS);
        let outside = MemoryOffset {
            offset: 3,
            length: 2,
        };
        let status =
            WdfRegistryAssignMemory(globals, key, at(&blob.unicode()), 3, memory, at(&outside));
        assert_eq!(status, NtStatus::BUFFER_TOO_SMALL);
        WdfObjectDelete(globals, memory);
        WdfRegistryClose(globals, key);
    });
    assert_eq!(value(&machine, "blob"), Some(Value::Binary(vec![0, 0])));
    machine.end_clean();
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryquerymultistring>
#[test]
fn several_strings_go_in_as_a_collection_and_come_back_as_one() {
    let machine = Machine::bare();
    machine.run(|| {
        let (globals, key) = (globals(), parameters_key());
        let mut collection = 0;
        WdfCollectionCreate(globals, In::null(), out(&mut collection));
        let strings = ["one", "two"].map(make_text);
        for string in strings {
            WdfCollectionAdd(globals, collection, string);
        }
        let name = Text::new("Names");
        assert!(
            WdfRegistryAssignMultiString(globals, key, at(&name.unicode()), collection)
                .is_success()
        );
        assert!(
            WdfRegistryAssignString(globals, key, at(&Text::new("Name").unicode()), strings[0])
                .is_success()
        );
        let stranger = create_named("stranger", 0);
        WdfCollectionAdd(globals, collection, stranger);
        let status = WdfRegistryAssignMultiString(globals, key, at(&name.unicode()), collection);
        assert_eq!(status, NtStatus::INVALID_PARAMETER, "only strings");
        let mut found = 0;
        WdfCollectionCreate(globals, In::null(), out(&mut found));
        let status =
            WdfRegistryQueryMultiString(globals, key, at(&name.unicode()), In::null(), found);
        assert_eq!(status, NtStatus::SUCCESS);
        assert_eq!(WdfCollectionGetCount(globals, found), 2);
        let items: Vec<usize> = (0..2)
            .map(|index| WdfCollectionGetItem(globals, found, index))
            .collect();
        let single = Text::new("Name");
        let status =
            WdfRegistryQueryMultiString(globals, key, at(&single.unicode()), In::null(), found);
        assert_eq!(status, NtStatus::OBJECT_TYPE_MISMATCH);
        for object in [
            collection, found, stranger, strings[0], strings[1], items[0], items[1], key,
        ] {
            WdfObjectDelete(globals, object);
        }
    });
    let names = ["one", "two"].map(str::to_owned).to_vec();
    assert_eq!(value(&machine, "NAMES"), Some(Value::Texts(names)));
    assert_eq!(value(&machine, "name"), Some(Value::Text("one".into())));
    machine.take_log();
    machine.end_clean();
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfregistry/nf-wdfregistry-wdfregistryremovekey>
#[test]
fn a_removed_key_takes_its_handle_along() {
    let machine = Machine::bare();
    let stale = machine.run(|| {
        let key = parameters_key();
        let name = Text::new("Gone");
        WdfRegistryAssignValue(
            globals(),
            key,
            at(&name.unicode()),
            4,
            4,
            at(&[1u8, 0, 0, 0][0]),
        );
        assert!(WdfRegistryRemoveKey(globals(), key).is_success());
        key
    });
    assert_eq!(value(&machine, "Gone"), None);
    let bugcheck = machine
        .try_run(|| WdfRegistryClose(globals(), stale))
        .unwrap_err();
    assert_eq!(bugcheck.code, 0x10d);
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdflookasidelistcreate>
#[test]
fn a_lookaside_list_makes_memory_objects_of_its_size_below_the_parent_it_names() {
    let machine = Machine::bare();
    machine.run(|| {
        let globals = globals();
        let parent = create_named("parent", 0);
        let below = ObjectAttributes {
            parent,
            ..attributes()
        };
        let mut list = 0;
        let create = |size, list: Out<usize>| {
            WdfLookasideListCreate(globals, In::null(), size, 0x200, at(&below), 0, list)
        };
        assert_eq!(create(0, out(&mut list)), NtStatus::INVALID_PARAMETER);
        assert!(create(24, out(&mut list)).is_success());
        let (mut memory, mut size) = (0, 0);
        assert!(WdfMemoryCreateFromLookaside(globals, list, out(&mut memory)).is_success());
        WdfMemoryGetBuffer(globals, memory, out(&mut size));
        assert_eq!(size, 24);
        let bytes = [1u8; 24];
        assert!(WdfMemoryCopyFromBuffer(globals, memory, 0, at(&bytes[0]), 24).is_success());
        // The memory outlives its list, and goes with its parent.
        WdfObjectDelete(globals, list);
        WdfMemoryGetBuffer(globals, memory, out(&mut size));
        WdfObjectDelete(globals, parent);
    });
    machine.take_log();
    machine.end_clean();
}

#[test]
fn paged_memory_is_not_taken_from_a_lookaside_list_at_dispatch_level() {
    let machine = Machine::bare();
    machine.run(|| {
        let globals = globals();
        let (mut list, mut memory) = (0, 0);
        WdfLookasideListCreate(globals, In::null(), 8, 1, In::null(), 0, out(&mut list));
        let cpu = crate::Cpu::current().unwrap();
        let irql = cpu.set_irql(2);
        let status = WdfMemoryCreateFromLookaside(globals, list, out(&mut memory));
        assert_eq!(status, NtStatus::INVALID_DEVICE_REQUEST);
        cpu.set_irql(irql);
        WdfObjectDelete(globals, list);
    });
    assert_eq!(machine.broken_rules(), ["irql-range"]);
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfdevice/nf-wdfdevice-wdfdevicesetalignmentrequirement>
#[test]
fn a_control_device_remembers_what_it_is_told_and_has_no_stack() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let (globals, device) = (globals(), with(|state| state.device));
        assert_eq!(WdfDeviceGetAlignmentRequirement(globals, device), 0);
        WdfDeviceSetAlignmentRequirement(globals, device, 7);
        assert_eq!(WdfDeviceGetAlignmentRequirement(globals, device), 7);
        WdfDeviceSetCharacteristics(globals, device, 0x100);
        assert_eq!(WdfDeviceGetCharacteristics(globals, device), 0x100);
        assert_eq!(WdfDeviceWdmGetAttachedDevice(globals, device), 0);
    });
    machine.end_clean();
}

#[test]
fn the_verifiers_bug_check_stops_the_machine_with_its_code() {
    let machine = Machine::bare();
    let bugcheck = machine
        .try_run(|| WdfVerifierKeBugCheck(globals(), 0x10d, 1, 2, 3, 4))
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters), (0x10d, [1, 2, 3, 4]));
}
