//! Filters.

use wfp_engine::{FilterId, Objects};
use wfp_schema::{Guid, NtStatus};

use super::query::{Enumerate, get};
use super::{Kind, Managed, NO_RESOURCES, change, secured, select};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::layout::management::RawFilter;
use crate::fwp::layout::template::RawFilterTemplate;
use crate::fwp::marshal::{self, required};
use crate::fwp::show;

impl Managed for RawFilter {
    const KIND: Kind = Kind::Filter;
    type Template = RawFilterTemplate;

    fn select(
        objects: &Objects<KernelHost>,
        template: Option<RawFilterTemplate>,
    ) -> Result<Vec<Guid>, NtStatus> {
        select::filters(objects, template)
    }

    fn show(
        objects: &Objects<KernelHost>,
        key: Guid,
        memory: &mut Arena,
    ) -> Result<Self, NtStatus> {
        let object = objects
            .filter_by_key(key)
            .ok_or(NtStatus::FWP_FILTER_NOT_FOUND)?;
        Ok(show::filter(memory, object.record()))
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilteradd0>
    fn FwpmFilterAdd0(call, engine: usize, filter: In<RawFilter>, security: In<u8>, id: Out<u64>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        change(
            &call,
            engine,
            |to, session| to.add_filter(session, secured(marshal::filter(filter)?, security)?),
            |added| {
                let fwp = &call.machine().fwp;
                fwp.objects.note_filter(&fwp.engine, added, call.site());
                id.set(added.get());
            },
        )
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterdeletebykey0>
    fn FwpmFilterDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_filter_by_key(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterdeletebyid0>
    fn FwpmFilterDeleteById0(call, engine: usize, id: u64) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_filter(session, FilterId::new(id)), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltergetbyid0>
    fn FwpmFilterGetById0(call, engine: usize, id: u64, filter: Out<Out<RawFilter>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, filter, |objects| {
            let object = objects.filter(FilterId::new(id));
            object.map(|object| object.record().key()).ok_or(NtStatus::FWP_FILTER_NOT_FOUND)
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltergetbykey0>
    fn FwpmFilterGetByKey0(call, engine: usize, key: In<Guid>, filter: Out<Out<RawFilter>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, filter, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltercreateenumhandle0>
    fn FwpmFilterCreateEnumHandle0(call, engine: usize, template: In<RawFilterTemplate>, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawFilter>::create(&call, engine, template, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterenum0>
    fn FwpmFilterEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawFilter>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawFilter>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilterdestroyenumhandle0>
    fn FwpmFilterDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        Enumerate::<RawFilter>::destroy(&call, engine, handle)
    }
}
