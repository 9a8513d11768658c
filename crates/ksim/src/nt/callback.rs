//! Callback objects: named lists of functions, those of the system among them.

use parking_lot::Mutex;
use wfp_schema::NtStatus;

use super::io_memory::Guarded;
use super::notify::Registered;
use super::rtl_string::UnicodeString;
use crate::access::{In, Out};
use crate::cpu::{APC, Callback, Cpu, DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// Told when the system leaves its working state and comes back, and of changes of its power.
pub(super) const POWER_STATE: &str = "\\callback\\powerstate";

/// Callback objects that the system makes, by their names in lower case.
const SYSTEM: [&str; 3] = [
    POWER_STATE,
    "\\callback\\setsystemtime",
    "\\callback\\processoradd",
];

/// A function that a driver registered: its context and two arguments.
type Function = extern "win64" fn(usize, usize, usize);

/// How the verifier calls a registration.
const REGISTRATION: &str = "callback registration";
/// `OBJECT_ATTRIBUTES.ObjectName`.
const OBJECT_NAME: usize = 16;

/// The callback objects of one machine.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    objects: Mutex<Vec<Object>>,
    registered: Registered<Registration>,
}

#[derive(Debug)]
struct Object {
    /// In lower case; object names do not depend on case.
    name: String,
    /// What its address is that of.
    memory: Guarded,
    allows_many: bool,
}

#[derive(Debug, Clone, Copy)]
struct Registration {
    object: usize,
    function: Function,
    context: usize,
}

/// Bytes of an object, which nobody looks at.
const OBJECT_SIZE: usize = 32;

impl Callbacks {
    /// The address of the object `name`; with `create` it is made if there is none.
    fn open(&self, name: &str, create: Option<bool>) -> Option<usize> {
        let name = name.to_lowercase();
        let system = SYSTEM.contains(&&*name).then_some(true);
        let known = |objects: &[Object]| {
            let object = objects.iter().find(|object| object.name == name)?;
            Some(object.memory.address())
        };
        let mut objects = self.objects.lock();
        if let Some(address) = known(&objects) {
            return Some(address);
        }
        let allows_many = system.or(create)?;
        let memory = Guarded::new(OBJECT_SIZE);
        let address = memory.address();
        objects.push(Object {
            name,
            memory,
            allows_many,
        });
        drop(objects);
        Some(address)
    }

    /// Whether the object at `address` takes several functions; `None` when there is no such object.
    fn allows_many(&self, address: usize) -> Option<bool> {
        self.objects
            .lock()
            .iter()
            .find(|object| object.memory.address() == address)
            .map(|object| object.allows_many)
    }

    /// Calls what is registered with the object at `address`, at the caller's IRQL.
    fn notify(&self, cpu: &Cpu, address: usize, first: usize, second: usize) {
        self.registered.each(
            cpu,
            |registration| registration.object == address,
            |registration| {
                let callback = Callback::new("CALLBACK_FUNCTION", registration.function as usize);
                cpu.enter_driver(callback, cpu.irql(), || {
                    (registration.function)(registration.context, first, second);
                });
            },
        );
    }

    /// The system calls what is registered with one of its own objects.
    pub(super) fn notify_system(&self, cpu: &Cpu, name: &str, first: usize, second: usize) {
        if let Some(address) = self.open(name, None) {
            self.notify(cpu, address, first, second);
        }
    }

    fn is_system(&self, address: usize) -> bool {
        self.objects
            .lock()
            .iter()
            .any(|object| object.memory.address() == address && SYSTEM.contains(&&*object.name))
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-excreatecallback>
    fn ExCreateCallback(call, object: Out<usize>, attributes: In<u8>, create: u8, allow_many: u8) -> NtStatus,
    irql PASSIVE..=APC, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let name = name_in(attributes);
        if name.is_empty() {
            // Unnamed callback objects are not permitted.
            return NtStatus::UNSUCCESSFUL;
        }
        let create = (create != 0).then_some(allow_many != 0);
        let nt = call.machine().nt();
        nt.callbacks().open(&name, create).map_or(NtStatus::OBJECT_NAME_NOT_FOUND, |address| {
            nt.objects().reference(&call, address);
            object.set(address);
            NtStatus::SUCCESS
        })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exregistercallback>
    fn ExRegisterCallback(call, object: usize, function: Option<Function>, context: usize) -> usize,
    irql PASSIVE..=APC, fails 0;
    {
        let callbacks = call.machine().nt().callbacks();
        let Some(allows_many) = callbacks.allows_many(object) else {
            no_object(&call, object);
            return 0;
        };
        let Some(function) = function else {
            call.violation(&ARGUMENT, "CallbackFunction is NULL");
            return 0;
        };
        let taken = callbacks.registered.count(|registration| registration.object == object);
        if taken > 0 && !allows_many {
            return 0;
        }
        let handle = call.machine().ndis.new_handle();
        callbacks.registered.add(handle, Registration { object, function, context });
        call.machine().verifier().track(&call, REGISTRATION, handle, "", 0);
        handle
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exunregistercallback>
    fn ExUnregisterCallback(call, registration: usize),
    irql PASSIVE..=APC;
    {
        call.machine().verifier().untrack(&call, REGISTRATION, registration);
        call.machine().nt().callbacks().registered.remove(&call, registration);
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exnotifycallback>
    fn ExNotifyCallback(call, object: usize, first: usize, second: usize),
    irql PASSIVE..=DISPATCH;
    {
        let callbacks = call.machine().nt().callbacks();
        if callbacks.allows_many(object).is_none() {
            no_object(&call, object);
            return;
        }
        if callbacks.is_system(object) {
            call.violation(&ARGUMENT, "a driver does not notify the system's own callback objects");
        }
        callbacks.notify(call.cpu(), object, first, second);
    }
}

/// The name in `OBJECT_ATTRIBUTES`.
fn name_in(attributes: In<u8>) -> String {
    if attributes.is_null() {
        return String::new();
    }
    let name = In::<u64>::member((attributes.address() + OBJECT_NAME) as u64).get();
    let name = In::<UnicodeString>::member(name.unwrap_or(0)).get();
    name.map(UnicodeString::text).unwrap_or_default()
}

fn no_object(call: &Call<'_>, object: usize) {
    call.violation(
        &OBJECT_STALE,
        format!("{object:#x} is not a callback object"),
    );
}
