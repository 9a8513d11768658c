//! Looking objects up and enumerating them, and the memory that this lends to drivers.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::ops::Range;

use parking_lot::Mutex;
use wfp_engine::{Engine, FilterId, Objects};
use wfp_schema::{FilterFlags, Guid, NtStatus};

use super::{Kind, Managed};
use crate::access::{In, Out};
use crate::cpu::{Cpu, PASSIVE};
use crate::export::{Call, exports};
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::session::{session, status};
use crate::verifier::{ARGUMENT, OBJECT_STALE, UNLOAD_FILTER};

/// How the verifier calls memory that a query returned, and an enumeration.
const MEMORY: &str = "memory of a management query";
const ENUMERATION: &str = "enumeration handle";

const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();

/// What queries of drivers have made, by address or handle.
#[derive(Debug, Default)]
pub(in crate::fwp) struct State {
    memory: Mutex<HashMap<usize, Arena>>,
    enumerations: Mutex<HashMap<usize, Enumeration>>,
    /// The filters that drivers added, and where.
    filters: Mutex<Vec<(FilterId, usize)>>,
}

/// So many filters are remembered before those that are gone are forgotten.
const REMEMBERED: usize = 0x1000;

impl State {
    /// A driver added a filter at `site`.
    pub(super) fn note_filter(&self, engine: &Engine<KernelHost>, filter: FilterId, site: usize) {
        let mut filters = self.filters.lock();
        if filters.len() >= REMEMBERED {
            let objects = engine.committed();
            filters.retain(|(filter, _)| objects.filter(*filter).is_some());
        }
        filters.push((filter, site));
    }
}

/// Reports the filters that code in `range` added and that still ask a callout, after its driver was unloaded. Those
/// that come back with the system are meant to stay.
pub(crate) fn check_filters_left(cpu: &Cpu, range: &Range<usize>) {
    let machine = cpu.machine();
    let objects = machine.fwp.engine.committed();
    let added: Vec<_> = machine.fwp.objects.filters.lock().clone();
    let here = added.iter().filter(|(_, site)| range.contains(site));
    for (filter, site) in here {
        let left = objects.filter(*filter).map(|entry| entry.record());
        let Some(left) = left.filter(|left| left.callout().is_some()) else {
            continue;
        };
        let stays = FilterFlags::PERSISTENT | FilterFlags::BOOTTIME;
        if !left.filter().flags.intersects(stays) {
            let message = format!(
                "filter {} at {} still asks a callout",
                filter.get(),
                left.layer()
            );
            let verifier = machine.verifier();
            verifier.violation_of(cpu, &UNLOAD_FILTER, *site, message);
        }
    }
}

/// An enumeration: the objects there were when it began, which of them are meant, and how many have been returned.
#[derive(Debug)]
struct Enumeration {
    kind: Kind,
    objects: Objects<KernelHost>,
    keys: Vec<Guid>,
    returned: usize,
}

/// Lends memory to the driver until `FwpmFreeMemory0`; where it begins.
pub(in crate::fwp) fn lend(call: &Call<'_>, at: Out<u8>, memory: Arena) {
    let machine = call.machine();
    machine.verifier().track(call, MEMORY, at.address(), "", 0);
    let lent = &machine.fwp.objects.memory;
    lent.lock().insert(at.address(), memory);
}

/// Looks one object up by its key, or by what `find` makes a key of, and lends it.
pub(super) fn get<T: Managed>(
    call: &Call<'_>,
    engine: usize,
    into: Out<Out<T>>,
    find: impl FnOnce(&Objects<KernelHost>) -> Result<Guid, NtStatus>,
) -> i32 {
    if into.is_null() {
        return NULL_POINTER;
    }
    let mut memory = Arena::default();
    let found = session(call, engine)
        .and_then(|session| call.machine().fwp.engine.objects(session))
        .and_then(|objects| T::show(&objects, find(&objects)?, &mut memory));
    status(found.map(|raw| {
        let at = memory.put(raw);
        into.set(at);
        lend(call, at.offset(0), memory);
    }))
}

/// The enumeration functions of one type of objects.
pub(super) struct Enumerate<T>(PhantomData<T>);

impl<T: Managed> Enumerate<T> {
    /// `Fwpm…CreateEnumHandle0`.
    pub(super) fn create(
        call: &Call<'_>,
        engine: usize,
        template: In<T::Template>,
        handle: Out<usize>,
    ) -> i32 {
        if handle.is_null() {
            return NULL_POINTER;
        }
        let machine = call.machine();
        let selected = session(call, engine)
            .and_then(|session| machine.fwp.engine.objects(session))
            .and_then(|objects| Ok((T::select(&objects, template.get())?, objects)));
        status(selected.map(|(keys, objects)| {
            let number = machine.ndis.new_handle();
            let enumeration = Enumeration {
                kind: T::KIND,
                objects,
                keys,
                returned: 0,
            };
            let enumerations = &machine.fwp.objects.enumerations;
            enumerations.lock().insert(number, enumeration);
            machine.verifier().track(call, ENUMERATION, number, "", 0);
            handle.set(number);
        }))
    }

    /// `Fwpm…Enum0`: the next objects, as an array of addresses in one block of memory.
    pub(super) fn next(
        call: &Call<'_>,
        engine: usize,
        handle: usize,
        most: u32,
        (into, count): (Out<Out<Out<T>>>, Out<u32>),
    ) -> i32 {
        if into.is_null() || count.is_null() {
            return NULL_POINTER;
        }
        let mut memory = Arena::default();
        let found = session(call, engine).and_then(|_| {
            let mut enumerations = call.machine().fwp.objects.enumerations.lock();
            let known = enumerations
                .get_mut(&handle)
                .filter(|known| known.kind == T::KIND)
                .ok_or(NtStatus::INVALID_HANDLE)?;
            let raws: Vec<T> = known
                .keys
                .iter()
                .skip(known.returned)
                .take(most as usize)
                .map(|key| T::show(&known.objects, *key, &mut memory))
                .collect::<Result<_, _>>()?;
            known.returned += raws.len();
            drop(enumerations);
            Ok(raws)
        });
        if matches!(found, Err(NtStatus::INVALID_HANDLE)) {
            call.violation(
                &OBJECT_STALE,
                format!("{handle:#x} is no enumeration handle for this"),
            );
        }
        status(found.map(|raws| {
            let entries: Vec<Out<T>> = raws.into_iter().map(|raw| memory.put(raw)).collect();
            let first = memory.put_all(&entries);
            into.set(first);
            count.set(u32::try_from(entries.len()).unwrap_or(u32::MAX));
            lend(call, first.offset(0), memory);
        }))
    }

    /// `Fwpm…DestroyEnumHandle0`.
    pub(super) fn destroy(call: &Call<'_>, engine: usize, handle: usize) -> i32 {
        status(session(call, engine).and_then(|_| {
            if !call.machine().verifier().untrack(call, ENUMERATION, handle) {
                return Err(NtStatus::INVALID_HANDLE);
            }
            let enumerations = &call.machine().fwp.objects.enumerations;
            enumerations.lock().remove(&handle);
            Ok(())
        }))
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfreememory0>
    fn FwpmFreeMemory0(call, memory: Out<Out<u8>>),
    irql PASSIVE..=PASSIVE;
    {
        let Some(at) = memory.get() else {
            call.violation(&ARGUMENT, "p is NULL");
            return;
        };
        if at.is_null() {
            return;
        }
        if call.machine().verifier().untrack(&call, MEMORY, at.address()) {
            call.machine().fwp.objects.memory.lock().remove(&at.address());
        }
        memory.set(Out::null());
    }
}
