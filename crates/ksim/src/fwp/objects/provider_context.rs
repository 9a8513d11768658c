//! Provider contexts: data of a provider that filters name and callouts see.
//!
//! The versions of these functions differ in what other types than the general one point at; general contexts, which
//! are what callout drivers add, are the same in all of them.

use wfp_engine::{Objects, ProviderContextId, ProviderContextTemplate};
use wfp_schema::{Guid, NtStatus, ProviderContextType};

use super::query::{Enumerate, get};
use super::{Kind, Managed, NO_RESOURCES, change, secured};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::layout::management::RawProviderContext;
use crate::fwp::layout::template::RawProviderContextTemplate;
use crate::fwp::marshal::{self, required};
use crate::fwp::show;

impl Managed for RawProviderContext {
    const KIND: Kind = Kind::ProviderContext;
    type Template = RawProviderContextTemplate;

    fn select(
        objects: &Objects<KernelHost>,
        template: Option<RawProviderContextTemplate>,
    ) -> Result<Vec<Guid>, NtStatus> {
        let template = match template {
            None => ProviderContextTemplate::default(),
            Some(raw) => ProviderContextTemplate {
                provider: raw.provider.get(),
                context_type: Some(
                    ProviderContextType::from_u32(raw.context_type)
                        .ok_or(NtStatus::FWP_INVALID_ENUMERATOR)?,
                ),
            },
        };
        Ok(objects
            .select_provider_contexts(template)
            .map(|object| object.context.key)
            .collect())
    }

    fn show(
        objects: &Objects<KernelHost>,
        key: Guid,
        memory: &mut Arena,
    ) -> Result<Self, NtStatus> {
        let object = objects
            .provider_context(key)
            .ok_or(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND)?;
        Ok(show::provider_context(memory, object))
    }
}

fn add(
    call: &Call<'_>,
    engine: usize,
    (context, security): (In<RawProviderContext>, In<u8>),
    id: Out<u64>,
) -> i32 {
    change(
        call,
        engine,
        |to, session| {
            to.add_provider_context(
                session,
                secured(marshal::provider_context(context)?, security)?,
            )
        },
        |added| {
            id.set(added.get());
        },
    )
}

fn get_by_id(
    call: &Call<'_>,
    engine: usize,
    id: u64,
    context: Out<Out<RawProviderContext>>,
) -> i32 {
    get(call, engine, context, |objects| {
        let object = objects.provider_context_by_id(ProviderContextId::new(id));
        object
            .map(|object| object.context.key)
            .ok_or(NtStatus::FWP_PROVIDER_CONTEXT_NOT_FOUND)
    })
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextadd0>
    fn FwpmProviderContextAdd0(
        call, engine: usize, context: In<RawProviderContext>, security: In<u8>, id: Out<u64>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        add(&call, engine, (context, security), id)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbyid0>
    fn FwpmProviderContextGetById0(call, engine: usize, id: u64, context: Out<Out<RawProviderContext>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get_by_id(&call, engine, id, context)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbykey0>
    fn FwpmProviderContextGetByKey0(
        call, engine: usize, key: In<Guid>, context: Out<Out<RawProviderContext>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, context, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextenum0>
    fn FwpmProviderContextEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawProviderContext>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProviderContext>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextadd1>
    fn FwpmProviderContextAdd1(
        call, engine: usize, context: In<RawProviderContext>, security: In<u8>, id: Out<u64>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        add(&call, engine, (context, security), id)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbyid1>
    fn FwpmProviderContextGetById1(call, engine: usize, id: u64, context: Out<Out<RawProviderContext>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get_by_id(&call, engine, id, context)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbykey1>
    fn FwpmProviderContextGetByKey1(
        call, engine: usize, key: In<Guid>, context: Out<Out<RawProviderContext>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, context, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextenum1>
    fn FwpmProviderContextEnum1(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawProviderContext>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProviderContext>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextadd2>
    fn FwpmProviderContextAdd2(
        call, engine: usize, context: In<RawProviderContext>, security: In<u8>, id: Out<u64>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        add(&call, engine, (context, security), id)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbyid2>
    fn FwpmProviderContextGetById2(call, engine: usize, id: u64, context: Out<Out<RawProviderContext>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get_by_id(&call, engine, id, context)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbykey2>
    fn FwpmProviderContextGetByKey2(
        call, engine: usize, key: In<Guid>, context: Out<Out<RawProviderContext>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, context, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextenum2>
    fn FwpmProviderContextEnum2(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawProviderContext>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProviderContext>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextadd3>
    fn FwpmProviderContextAdd3(
        call, engine: usize, context: In<RawProviderContext>, security: In<u8>, id: Out<u64>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        add(&call, engine, (context, security), id)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbyid3>
    fn FwpmProviderContextGetById3(call, engine: usize, id: u64, context: Out<Out<RawProviderContext>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get_by_id(&call, engine, id, context)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetbykey3>
    fn FwpmProviderContextGetByKey3(
        call, engine: usize, key: In<Guid>, context: Out<Out<RawProviderContext>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, context, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextenum3>
    fn FwpmProviderContextEnum3(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawProviderContext>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProviderContext>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextdeletebyid0>
    fn FwpmProviderContextDeleteById0(call, engine: usize, id: u64) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        let id = ProviderContextId::new(id);
        change(&call, engine, |from, session| from.delete_provider_context_by_id(session, id), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextdeletebykey0>
    fn FwpmProviderContextDeleteByKey0(call, engine: usize, key: In<Guid>) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        change(&call, engine, |from, session| from.delete_provider_context(session, required(key)?), drop)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextcreateenumhandle0>
    fn FwpmProviderContextCreateEnumHandle0(
        call, engine: usize, template: In<RawProviderContextTemplate>, handle: Out<usize>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawProviderContext>::create(&call, engine, template, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextdestroyenumhandle0>
    fn FwpmProviderContextDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        Enumerate::<RawProviderContext>::destroy(&call, engine, handle)
    }
}
