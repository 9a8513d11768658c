//! Providers.

use wfp_engine::Objects;
use wfp_schema::{Guid, NtStatus};

use super::query::{Enumerate, get};
use super::{Kind, Managed, NO_RESOURCES, change, secured};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::layout::management::RawProvider;
use crate::fwp::layout::template::RawProviderTemplate;
use crate::fwp::marshal::{self, required};
use crate::fwp::show;

impl Managed for RawProvider {
    const KIND: Kind = Kind::Provider;
    type Template = RawProviderTemplate;

    fn select(
        objects: &Objects<KernelHost>,
        _template: Option<RawProviderTemplate>,
    ) -> Result<Vec<Guid>, NtStatus> {
        // The template holds nothing but a reserved member.
        Ok(objects
            .providers()
            .map(|object| object.provider.key)
            .collect())
    }

    fn show(
        objects: &Objects<KernelHost>,
        key: Guid,
        memory: &mut Arena,
    ) -> Result<Self, NtStatus> {
        let object = objects
            .provider(key)
            .ok_or(NtStatus::FWP_PROVIDER_NOT_FOUND)?;
        Ok(show::provider(memory, object))
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovideradd0>
    fn FwpmProviderAdd0(call, engine: usize, provider: In<RawProvider>, security: In<u8>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        change(
            &call,
            engine,
            |to, session| to.add_provider(session, secured(marshal::provider(provider)?, security)?),
            drop,
        )
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmproviderdeletebykey0>
    fn FwpmProviderDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_provider(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidergetbykey0>
    fn FwpmProviderGetByKey0(call, engine: usize, key: In<Guid>, provider: Out<Out<RawProvider>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, provider, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercreateenumhandle0>
    fn FwpmProviderCreateEnumHandle0(call, engine: usize, template: In<RawProviderTemplate>, handle: Out<usize>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProvider>::create(&call, engine, template, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmproviderenum0>
    fn FwpmProviderEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawProvider>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProvider>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmproviderdestroyenumhandle0>
    fn FwpmProviderDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        Enumerate::<RawProvider>::destroy(&call, engine, handle)
    }
}
