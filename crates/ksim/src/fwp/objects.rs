//! Providers, sublayers, callouts and filters: adding, deleting, looking up, enumerating.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_engine::{CalloutId, FilterId, Objects};
use wfp_schema::{Guid, NtStatus};

use super::give::Arena;
use super::host::KernelHost;
use super::layout::management::{RawCallout, RawFilter, RawProvider, RawSubLayer};
use super::marshal::{self, required};
use super::session::{session, status};
use super::show::{self, Shown};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};
use crate::verifier::{ARGUMENT, OBJECT_STALE};

/// How the verifier calls memory that a query returned, and an enumeration.
const MEMORY: &str = "memory of a management query";
const ENUMERATION: &str = "enumeration handle";

const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();

/// What queries of drivers have made, by address or handle.
#[derive(Debug, Default)]
pub(super) struct State {
    memory: Mutex<HashMap<usize, Arena>>,
    enumerations: Mutex<HashMap<usize, Enumeration>>,
}

/// An enumeration: the objects there were when it began, and how many have been returned.
#[derive(Debug)]
struct Enumeration {
    kind: Kind,
    objects: Objects<KernelHost>,
    returned: usize,
}

/// Types of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Provider,
    SubLayer,
    Callout,
    Filter,
}

/// Lends memory to the driver until `FwpmFreeMemory0`; where it begins.
fn lend(call: &Call<'_>, at: Out<u8>, memory: Arena) {
    call.machine()
        .verifier()
        .track(call, MEMORY, at.address(), "", 0);
    call.machine()
        .fwp
        .objects
        .memory
        .lock()
        .insert(at.address(), memory);
}

/// Adds something, and says what identifier it got.
fn add<I>(
    call: &Call<'_>,
    engine: usize,
    make: impl FnOnce(&wfp_engine::Engine<KernelHost>, wfp_engine::SessionId) -> Result<I, NtStatus>,
    then: impl FnOnce(I),
) -> i32 {
    status(
        session(call, engine)
            .and_then(|session| make(&call.machine().fwp.engine, session))
            .map(then),
    )
}

/// Looks one object up and shows it.
fn get<T: Shown>(
    call: &Call<'_>,
    engine: usize,
    into: Out<Out<T>>,
    find: impl FnOnce(&Objects<KernelHost>, &mut Arena) -> Result<T, NtStatus>,
) -> i32 {
    if into.is_null() {
        return NULL_POINTER;
    }
    let mut memory = Arena::default();
    let found = session(call, engine)
        .and_then(|session| call.machine().fwp.engine.objects(session))
        .and_then(|objects| find(&objects, &mut memory));
    status(found.map(|raw| {
        let at = memory.put(raw);
        into.set(at);
        lend(call, at.offset(0), memory);
    }))
}

fn create_enumeration(
    call: &Call<'_>,
    engine: usize,
    template: usize,
    handle: Out<usize>,
    kind: Kind,
) -> i32 {
    if handle.is_null() {
        return NULL_POINTER;
    }
    if template != 0 {
        // Templates select; nothing that runs here has needed one.
        return NtStatus::NOT_SUPPORTED.to_i32();
    }
    let objects =
        session(call, engine).and_then(|session| call.machine().fwp.engine.objects(session));
    status(objects.map(|objects| {
        let number = call.machine().ndis.new_handle();
        let enumeration = Enumeration {
            kind,
            objects,
            returned: 0,
        };
        call.machine()
            .fwp
            .objects
            .enumerations
            .lock()
            .insert(number, enumeration);
        call.machine()
            .verifier()
            .track(call, ENUMERATION, number, "", 0);
        handle.set(number);
    }))
}

fn destroy_enumeration(call: &Call<'_>, engine: usize, handle: usize) -> i32 {
    status(session(call, engine).and_then(|_| {
        if !call.machine().verifier().untrack(call, ENUMERATION, handle) {
            return Err(NtStatus::INVALID_HANDLE);
        }
        call.machine()
            .fwp
            .objects
            .enumerations
            .lock()
            .remove(&handle);
        Ok(())
    }))
}

/// Returns the next objects of an enumeration: an array of addresses, in one block of memory.
fn next_of<T: Shown>(
    call: &Call<'_>,
    engine: usize,
    handle: usize,
    (kind, most): (Kind, u32),
    (into, count): (Out<Out<Out<T>>>, Out<u32>),
    all: impl FnOnce(&Objects<KernelHost>, &mut Arena, usize, usize) -> Vec<T>,
) -> i32 {
    if into.is_null() || count.is_null() {
        return NULL_POINTER;
    }
    let mut memory = Arena::default();
    let found = session(call, engine).and_then(|_| {
        let mut enumerations = call.machine().fwp.objects.enumerations.lock();
        let known = enumerations
            .get_mut(&handle)
            .filter(|known| known.kind == kind);
        let Some(known) = known else {
            return Err(NtStatus::INVALID_HANDLE);
        };
        let raws = all(&known.objects, &mut memory, known.returned, most as usize);
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

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovideradd0>
    fn FwpmProviderAdd0(call, engine: usize, provider: In<RawProvider>, security: usize) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        let make = |to: &wfp_engine::Engine<KernelHost>, session| to.add_provider(session, marshal::provider(provider)?);
        add(&call, engine, make, drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmproviderdeletebykey0>
    fn FwpmProviderDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        add(&call, engine, |from, session| from.delete_provider(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidergetbykey0>
    fn FwpmProviderGetByKey0(call, engine: usize, key: In<Guid>, provider: Out<Out<RawProvider>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        get(&call, engine, provider, |objects, memory| {
            let object = objects.provider(required(key)?).ok_or(NtStatus::FWP_PROVIDER_NOT_FOUND)?;
            Ok(show::provider(memory, object))
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercreateenumhandle0>
    fn FwpmProviderCreateEnumHandle0(call, engine: usize, template: usize, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        create_enumeration(&call, engine, template, handle, Kind::Provider)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmproviderenum0>
    fn FwpmProviderEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawProvider>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        next_of(&call, engine, handle, (Kind::Provider, most), (entries, count), |objects, memory, from, most| {
            objects.providers().skip(from).take(most).map(|object| show::provider(memory, object)).collect()
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmproviderdestroyenumhandle0>
    fn FwpmProviderDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        destroy_enumeration(&call, engine, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayeradd0>
    fn FwpmSubLayerAdd0(call, engine: usize, sublayer: In<RawSubLayer>, security: usize) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        let make = |to: &wfp_engine::Engine<KernelHost>, session| to.add_sublayer(session, marshal::sublayer(sublayer)?);
        add(&call, engine, make, drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayerdeletebykey0>
    fn FwpmSubLayerDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        add(&call, engine, |from, session| from.delete_sublayer(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayergetbykey0>
    fn FwpmSubLayerGetByKey0(call, engine: usize, key: In<Guid>, sublayer: Out<Out<RawSubLayer>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        get(&call, engine, sublayer, |objects, memory| {
            let object = objects.sublayer(required(key)?).ok_or(NtStatus::FWP_SUBLAYER_NOT_FOUND)?;
            Ok(show::sublayer(memory, object))
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayercreateenumhandle0>
    fn FwpmSubLayerCreateEnumHandle0(call, engine: usize, template: usize, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        create_enumeration(&call, engine, template, handle, Kind::SubLayer)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayerenum0>
    fn FwpmSubLayerEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawSubLayer>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        next_of(&call, engine, handle, (Kind::SubLayer, most), (entries, count), |objects, memory, from, most| {
            objects.sublayers().skip(from).take(most).map(|object| show::sublayer(memory, object)).collect()
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayerdestroyenumhandle0>
    fn FwpmSubLayerDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        destroy_enumeration(&call, engine, handle)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmcalloutadd0>
    fn FwpmCalloutAdd0(call, engine: usize, callout: In<RawCallout>, security: usize, id: Out<u32>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        let make = |to: &wfp_engine::Engine<KernelHost>, session| to.add_callout(session, marshal::callout(callout)?);
        add(&call, engine, make, |callout| {
            id.set(callout.get());
        })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmcalloutdeletebyid0>
    fn FwpmCalloutDeleteById0(call, engine: usize, id: u32) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        add(&call, engine, |from, session| from.delete_callout_by_id(session, CalloutId::new(id)), drop)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmcalloutdeletebykey0>
    fn FwpmCalloutDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        add(&call, engine, |from, session| from.delete_callout(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutgetbyid0>
    fn FwpmCalloutGetById0(call, engine: usize, id: u32, callout: Out<Out<RawCallout>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        get(&call, engine, callout, |objects, memory| {
            let object = objects.callout_by_id(CalloutId::new(id)).ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
            Ok(show::callout(memory, object))
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutgetbykey0>
    fn FwpmCalloutGetByKey0(call, engine: usize, key: In<Guid>, callout: Out<Out<RawCallout>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        get(&call, engine, callout, |objects, memory| {
            let object = objects.callout(required(key)?).ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
            Ok(show::callout(memory, object))
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutcreateenumhandle0>
    fn FwpmCalloutCreateEnumHandle0(call, engine: usize, template: usize, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        create_enumeration(&call, engine, template, handle, Kind::Callout)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutenum0>
    fn FwpmCalloutEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawCallout>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        next_of(&call, engine, handle, (Kind::Callout, most), (entries, count), |objects, memory, from, most| {
            objects.callouts().skip(from).take(most).map(|object| show::callout(memory, object)).collect()
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutdestroyenumhandle0>
    fn FwpmCalloutDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        destroy_enumeration(&call, engine, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilteradd0>
    fn FwpmFilterAdd0(call, engine: usize, filter: In<RawFilter>, security: usize, id: Out<u64>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        let make = |to: &wfp_engine::Engine<KernelHost>, session| to.add_filter(session, marshal::filter(filter)?);
        add(&call, engine, make, |filter| {
            id.set(filter.get());
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterdeletebyid0>
    fn FwpmFilterDeleteById0(call, engine: usize, id: u64) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        add(&call, engine, |from, session| from.delete_filter(session, FilterId::new(id)), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterdeletebykey0>
    fn FwpmFilterDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        add(&call, engine, |from, session| from.delete_filter_by_key(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltergetbyid0>
    fn FwpmFilterGetById0(call, engine: usize, id: u64, filter: Out<Out<RawFilter>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        get(&call, engine, filter, |objects, memory| {
            let object = objects.filter(FilterId::new(id)).ok_or(NtStatus::FWP_FILTER_NOT_FOUND)?;
            Ok(show::filter(memory, object.record()))
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltergetbykey0>
    fn FwpmFilterGetByKey0(call, engine: usize, key: In<Guid>, filter: Out<Out<RawFilter>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        get(&call, engine, filter, |objects, memory| {
            let object = objects.filter_by_key(required(key)?).ok_or(NtStatus::FWP_FILTER_NOT_FOUND)?;
            Ok(show::filter(memory, object.record()))
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltercreateenumhandle0>
    fn FwpmFilterCreateEnumHandle0(call, engine: usize, template: usize, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        create_enumeration(&call, engine, template, handle, Kind::Filter)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterenum0>
    fn FwpmFilterEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawFilter>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES;
    {
        next_of(&call, engine, handle, (Kind::Filter, most), (entries, count), |objects, memory, from, most| {
            objects.filters().skip(from).take(most).map(|object| show::filter(memory, object.record())).collect()
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterdestroyenumhandle0>
    fn FwpmFilterDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        destroy_enumeration(&call, engine, handle)
    }

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
