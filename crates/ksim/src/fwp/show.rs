//! Management objects in the structures that queries return.

use wfp_engine::{
    CalloutObject, FilterRecord, Lifetime, ProviderContextObject, ProviderObject, SubLayerObject,
    Weight,
};
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{DataType, FilterFlags, Guid};

use super::give::Arena;
use super::host::KernelHost;
use super::layout::management::{
    RawAction, RawCallout, RawCondition, RawDisplayData, RawFilter, RawProvider,
    RawProviderContext, RawSubLayer,
};
use super::layout::value::{RawBlob, RawValue};
use crate::access::{In, Out};

const NO_DATA: RawBlob = RawBlob {
    size: 0,
    data: Out::null(),
};

fn display(memory: &mut Arena, name: Option<&str>) -> RawDisplayData {
    let name = name.map_or(In::null(), |name| memory.put_string(name).as_in());
    RawDisplayData {
        name,
        description: In::null(),
    }
}

/// `FWPM_FILTER0.providerContextKey`, which shares its place with `rawContext`.
fn key_as_context(key: Guid) -> [u64; 2] {
    let bytes = key.to_bytes();
    let half = |at: usize| {
        bytes[at..]
            .first_chunk()
            .map_or(0, |half| u64::from_le_bytes(*half))
    };
    [half(0), half(8)]
}

fn key(memory: &mut Arena, key: Option<Guid>) -> In<Guid> {
    key.map_or(In::null(), |key| memory.put(key).as_in())
}

const fn persistent(lifetime: Lifetime) -> u32 {
    matches!(lifetime, Lifetime::Persistent) as u32
}

/// `FWPM_PROVIDER_FLAG_DISABLED`.
const PROVIDER_DISABLED: u32 = 0x10;

pub(super) fn provider(memory: &mut Arena, object: &ProviderObject) -> RawProvider {
    let provider = &object.provider;
    RawProvider {
        key: provider.key,
        display: display(memory, provider.name.as_deref()),
        flags: persistent(object.lifetime)
            | if object.disabled {
                PROVIDER_DISABLED
            } else {
                0
            },
        data: NO_DATA,
        service: provider
            .service
            .as_deref()
            .map_or(In::null(), |service| memory.put_string(service).as_in()),
    }
}

pub(super) fn provider_context(
    memory: &mut Arena,
    object: &ProviderContextObject,
) -> RawProviderContext {
    let context = &object.context;
    RawProviderContext {
        key: context.key,
        display: display(memory, context.name.as_deref()),
        flags: persistent(object.lifetime),
        provider: key(memory, context.provider),
        data: NO_DATA,
        context_type: context.context_type.value(),
        context: memory.put_blob(&context.data).as_in(),
        id: object.id.get(),
    }
}

pub(super) fn sublayer(memory: &mut Arena, object: &SubLayerObject) -> RawSubLayer {
    let sublayer = &object.sublayer;
    RawSubLayer {
        key: sublayer.key,
        display: display(memory, sublayer.name.as_deref()),
        flags: persistent(object.lifetime),
        provider: key(memory, sublayer.provider),
        data: NO_DATA,
        weight: sublayer.weight,
    }
}

pub(super) fn callout(memory: &mut Arena, object: &CalloutObject<KernelHost>) -> RawCallout {
    let callout = &object.callout;
    let registered = if object.is_registered() {
        ManagementCalloutFlags::REGISTERED
    } else {
        ManagementCalloutFlags::NONE
    };
    RawCallout {
        key: callout.key,
        display: display(memory, callout.name.as_deref()),
        flags: (callout.flags | registered).bits(),
        provider: key(memory, callout.provider),
        data: NO_DATA,
        layer: callout.layer,
        id: object.id().get(),
    }
}

pub(super) fn filter(memory: &mut Arena, record: &FilterRecord) -> RawFilter {
    let filter = record.filter();
    let conditions: Vec<_> = filter
        .conditions
        .iter()
        .map(|condition| RawCondition {
            field: condition.field,
            match_type: condition.match_type.value(),
            value: memory.condition_value(&condition.value),
        })
        .collect();
    RawFilter {
        key: filter.key,
        display: display(memory, filter.name.as_deref()),
        flags: filter.flags.bits(),
        provider: key(memory, filter.provider),
        data: NO_DATA,
        layer: filter.layer,
        sublayer: filter.sublayer,
        weight: match filter.weight {
            Weight::Auto => RawValue::number(DataType::Empty, 0),
            Weight::Range(range) => RawValue::number(DataType::Uint8, range.into()),
            Weight::Exact(weight) => memory.uint64(weight),
        },
        condition_count: u32::try_from(conditions.len()).unwrap_or(u32::MAX),
        conditions: if conditions.is_empty() {
            In::null()
        } else {
            memory.put_all(&conditions).as_in()
        },
        action: RawAction {
            kind: filter.action.value(),
            key: filter.callout,
        },
        context: if filter.flags.contains(FilterFlags::HAS_PROVIDER_CONTEXT) {
            key_as_context(filter.provider_context)
        } else {
            [filter.context, 0]
        },
        reserved: In::null(),
        id: record.id().get(),
        effective_weight: memory.uint64(record.effective_weight()),
    }
}
