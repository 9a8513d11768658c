//! Sublayers.

use wfp_engine::Objects;
use wfp_schema::{Guid, NtStatus};

use super::query::{Enumerate, get};
use super::{Kind, Managed, NO_RESOURCES, change, secured};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::layout::management::RawSubLayer;
use crate::fwp::layout::template::RawSubLayerTemplate;
use crate::fwp::marshal::{self, required};
use crate::fwp::show;

impl Managed for RawSubLayer {
    const KIND: Kind = Kind::SubLayer;
    type Template = RawSubLayerTemplate;

    fn select(
        objects: &Objects<KernelHost>,
        template: Option<RawSubLayerTemplate>,
    ) -> Result<Vec<Guid>, NtStatus> {
        let provider = template.and_then(|template| template.provider.get());
        Ok(objects
            .select_sublayers(provider)
            .map(|object| object.sublayer.key)
            .collect())
    }

    fn show(
        objects: &Objects<KernelHost>,
        key: Guid,
        memory: &mut Arena,
    ) -> Result<Self, NtStatus> {
        let object = objects
            .sublayer(key)
            .ok_or(NtStatus::FWP_SUBLAYER_NOT_FOUND)?;
        Ok(show::sublayer(memory, object))
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayeradd0>
    fn FwpmSubLayerAdd0(call, engine: usize, sublayer: In<RawSubLayer>, security: In<u8>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        change(
            &call,
            engine,
            |to, session| to.add_sublayer(session, secured(marshal::sublayer(sublayer)?, security)?),
            drop,
        )
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayerdeletebykey0>
    fn FwpmSubLayerDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_sublayer(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayergetbykey0>
    fn FwpmSubLayerGetByKey0(call, engine: usize, key: In<Guid>, sublayer: Out<Out<RawSubLayer>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, sublayer, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayercreateenumhandle0>
    fn FwpmSubLayerCreateEnumHandle0(call, engine: usize, template: In<RawSubLayerTemplate>, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawSubLayer>::create(&call, engine, template, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayerenum0>
    fn FwpmSubLayerEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawSubLayer>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawSubLayer>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayerdestroyenumhandle0>
    fn FwpmSubLayerDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        Enumerate::<RawSubLayer>::destroy(&call, engine, handle)
    }
}
