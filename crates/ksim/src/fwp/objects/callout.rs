//! Callouts as management objects.

use wfp_engine::{CalloutId, CalloutTemplate, Objects};
use wfp_schema::{Guid, NtStatus};

use super::query::{Enumerate, get};
use super::{Kind, Managed, NO_RESOURCES, change, secured};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::layout::management::RawCallout;
use crate::fwp::layout::template::RawCalloutTemplate;
use crate::fwp::marshal::{self, required};
use crate::fwp::show;

impl Managed for RawCallout {
    const KIND: Kind = Kind::Callout;
    type Template = RawCalloutTemplate;

    fn select(
        objects: &Objects<KernelHost>,
        template: Option<RawCalloutTemplate>,
    ) -> Result<Vec<Guid>, NtStatus> {
        let template = template.map_or_else(CalloutTemplate::default, |raw| CalloutTemplate {
            provider: raw.provider.get(),
            layer: raw.layer,
        });
        Ok(objects
            .select_callouts(template)
            .map(|object| object.callout.key)
            .collect())
    }

    fn show(
        objects: &Objects<KernelHost>,
        key: Guid,
        memory: &mut Arena,
    ) -> Result<Self, NtStatus> {
        let object = objects
            .callout(key)
            .ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)?;
        Ok(show::callout(memory, object))
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmcalloutadd0>
    fn FwpmCalloutAdd0(call, engine: usize, callout: In<RawCallout>, security: In<u8>, id: Out<u32>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        change(
            &call,
            engine,
            |to, session| to.add_callout(session, secured(marshal::callout(callout)?, security)?),
            |added| { id.set(added.get()); },
        )
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmcalloutdeletebykey0>
    fn FwpmCalloutDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_callout(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpmk/nf-fwpmk-fwpmcalloutdeletebyid0>
    fn FwpmCalloutDeleteById0(call, engine: usize, id: u32) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_callout_by_id(session, CalloutId::new(id)), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutgetbyid0>
    fn FwpmCalloutGetById0(call, engine: usize, id: u32, callout: Out<Out<RawCallout>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, callout, |objects| {
            let object = objects.callout_by_id(CalloutId::new(id));
            object.map(|object| object.callout.key).ok_or(NtStatus::FWP_CALLOUT_NOT_FOUND)
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutgetbykey0>
    fn FwpmCalloutGetByKey0(call, engine: usize, key: In<Guid>, callout: Out<Out<RawCallout>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, callout, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutcreateenumhandle0>
    fn FwpmCalloutCreateEnumHandle0(call, engine: usize, template: In<RawCalloutTemplate>, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawCallout>::create(&call, engine, template, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutenum0>
    fn FwpmCalloutEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawCallout>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawCallout>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutdestroyenumhandle0>
    fn FwpmCalloutDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        Enumerate::<RawCallout>::destroy(&call, engine, handle)
    }
}
