//! References to kernel objects.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// How the verifier calls what a driver has to give back.
const KIND: &str = "object reference";
/// The references that every object has without the driver.
const SYSTEM_REFERENCES: i64 = 1;

/// How often drivers reference each object.
#[derive(Debug, Default)]
pub(crate) struct Objects(Mutex<HashMap<usize, i64>>);

impl Objects {
    /// The driver gets a reference; the number of references.
    pub(crate) fn reference(&self, call: &Call<'_>, object: usize) -> i64 {
        if object == 0 {
            call.violation(&ARGUMENT, "a null object is referenced");
            return 0;
        }
        let count = *self
            .0
            .lock()
            .entry(object)
            .and_modify(|count| *count += 1)
            .or_insert(1);
        if count == 1 {
            call.machine().verifier().track(call, KIND, object, "", 0);
        }
        count + SYSTEM_REFERENCES
    }

    /// Whether drivers have references to the object.
    pub(super) fn is_referenced(&self, object: usize) -> bool {
        self.0.lock().contains_key(&object)
    }

    /// The driver gives a reference back.
    fn dereference(&self, call: &Call<'_>, object: usize) -> i64 {
        let mut counts = self.0.lock();
        let left = counts.remove(&object).map(|count| count - 1);
        if let Some(left @ 1..) = left {
            counts.insert(object, left);
        }
        drop(counts);
        let Some(left) = left else {
            call.violation(
                &OBJECT_STALE,
                format!("object {object:#x} is dereferenced more often than referenced"),
            );
            return 0;
        };
        if left == 0 {
            call.machine().verifier().forget(KIND, object);
        }
        left + SYSTEM_REFERENCES
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-obfreferenceobject>
    fn ObfReferenceObject(call, object: usize) -> i64,
    irql PASSIVE..=DISPATCH;
    { call.machine().nt().objects().reference(&call, object) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-obfdereferenceobject>
    fn ObfDereferenceObject(call, object: usize) -> i64,
    irql PASSIVE..=DISPATCH;
    { call.machine().nt().objects().dereference(&call, object) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-obdereferenceobjectdeferdelete>
    fn ObDereferenceObjectDeferDelete(call, object: usize),
    irql PASSIVE..=DISPATCH;
    { call.machine().nt().objects().dereference(&call, object); }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-obreferenceobjectbypointer>
    fn ObReferenceObjectByPointer(call, object: usize, access: u32, kind: usize, mode: u8) -> u32,
    irql PASSIVE..=DISPATCH, fails 0xc000_0024;
    {
        call.machine().nt().objects().reference(&call, object);
        0
    }
}
