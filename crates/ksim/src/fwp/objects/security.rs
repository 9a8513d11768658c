//! Who may do what with management objects: reading and changing their security descriptors.

use wfp_engine::{ObjectType, Securable};
use wfp_schema::{Guid, NtStatus};

use super::NO_RESOURCES;
use super::query::lend;
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::{Call, exports};
use crate::fwp::give::Arena;
use crate::fwp::security::{from_parts, parts, show};
use crate::fwp::session::{session, status};

/// Where a driver wants the parts of a descriptor, and the descriptor.
struct Into {
    owner: Out<Out<u8>>,
    group: Out<Out<u8>>,
    list: Out<Out<u8>>,
    system_list: Out<Out<u8>>,
    descriptor: Out<Out<u8>>,
}

/// An object of this type, or its container for a NULL key.
fn object(object_type: ObjectType, key: In<Guid>) -> Securable {
    key.get().map_or(Securable::Container(object_type), |key| {
        Securable::Object(object_type, key)
    })
}

fn get(call: &Call<'_>, engine: usize, what: Securable, information: u32, into: &Into) -> i32 {
    if into.descriptor.is_null() {
        return NtStatus::FWP_NULL_POINTER.to_i32();
    }
    let found =
        session(call, engine).and_then(|session| call.machine().fwp.engine.security(session, what));
    status(found.map(|descriptor| {
        let mut memory = Arena::default();
        let [at, owner, group, list] = show(&mut memory, &descriptor, parts(information));
        into.owner.set(owner);
        into.group.set(group);
        into.list.set(list);
        into.system_list.set(Out::null());
        into.descriptor.set(at);
        lend(call, at, memory);
    }))
}

fn set(
    call: &Call<'_>,
    engine: usize,
    what: Securable,
    information: u32,
    (owner, group, list): (In<u8>, In<u8>, In<u8>),
) -> i32 {
    status(session(call, engine).and_then(|session| {
        let descriptor = from_parts(owner, group, list)?;
        let engine = &call.machine().fwp.engine;
        engine.set_security(session, what, parts(information), &descriptor)
    }))
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmenginegetsecurityinfo0>
    fn FwpmEngineGetSecurityInfo0(
        call, engine: usize, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, Securable::Engine, information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmenginesetsecurityinfo0>
    fn FwpmEngineSetSecurityInfo0(
        call, engine: usize, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, Securable::Engine, information, (owner, group, list))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidergetsecurityinfobykey0>
    fn FwpmProviderGetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, object(ObjectType::Provider, key), information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidersetsecurityinfobykey0>
    fn FwpmProviderSetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, object(ObjectType::Provider, key), information, (owner, group, list))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextgetsecurityinfobykey0>
    fn FwpmProviderContextGetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, object(ObjectType::ProviderContext, key), information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmprovidercontextsetsecurityinfobykey0>
    fn FwpmProviderContextSetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, object(ObjectType::ProviderContext, key), information, (owner, group, list))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayergetsecurityinfobykey0>
    fn FwpmSubLayerGetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, object(ObjectType::SubLayer, key), information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmsublayersetsecurityinfobykey0>
    fn FwpmSubLayerSetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, object(ObjectType::SubLayer, key), information, (owner, group, list))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayergetsecurityinfobykey0>
    fn FwpmLayerGetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, object(ObjectType::Layer, key), information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayersetsecurityinfobykey0>
    fn FwpmLayerSetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, object(ObjectType::Layer, key), information, (owner, group, list))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutgetsecurityinfobykey0>
    fn FwpmCalloutGetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, object(ObjectType::Callout, key), information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmcalloutsetsecurityinfobykey0>
    fn FwpmCalloutSetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, object(ObjectType::Callout, key), information, (owner, group, list))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltergetsecurityinfobykey0>
    fn FwpmFilterGetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: Out<Out<u8>>, group: Out<Out<u8>>,
        list: Out<Out<u8>>, system_list: Out<Out<u8>>, descriptor: Out<Out<u8>>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, object(ObjectType::Filter, key), information, &Into { owner, group, list, system_list, descriptor })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfiltersetsecurityinfobykey0>
    fn FwpmFilterSetSecurityInfoByKey0(
        call, engine: usize, key: In<Guid>, information: u32, owner: In<u8>, group: In<u8>, list: In<u8>, system_list: In<u8>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        set(&call, engine, object(ObjectType::Filter, key), information, (owner, group, list))
    }
}
