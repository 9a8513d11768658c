//! `fwpmtypes.h`: management objects.

use wfp_schema::Guid;

use super::value::{RawBlob, RawValue};
use crate::access::{In, Out, plain};
use crate::ndis::layout::layout;

/// `FWPM_DISPLAY_DATA0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawDisplayData {
    pub(crate) name: In<u16>,
    pub(crate) description: In<u16>,
}

/// `FWPM_SESSION0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSession {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) transaction_wait_ms: u32,
    pub(crate) process_id: u32,
    pub(crate) sid: In<u8>,
    pub(crate) user_name: In<u16>,
    pub(crate) kernel_mode: u32,
}

/// `FWPM_PROVIDER0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawProvider {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) data: RawBlob,
    pub(crate) service: In<u16>,
}

/// `FWPM_PROVIDER_CONTEXT0` to `FWPM_PROVIDER_CONTEXT3`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawProviderContext {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) provider: In<Guid>,
    pub(crate) data: RawBlob,
    pub(crate) context_type: u32,
    /// Where the context's data is: `dataBuffer` of a general one.
    pub(crate) context: In<RawBlob>,
    pub(crate) id: u64,
}

/// `FWPM_SUBLAYER0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSubLayer {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) provider: In<Guid>,
    pub(crate) data: RawBlob,
    pub(crate) weight: u16,
}

/// `FWPM_CALLOUT0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCallout {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) provider: In<Guid>,
    pub(crate) data: RawBlob,
    pub(crate) layer: Guid,
    pub(crate) id: u32,
}

/// `FWPM_ACTION0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawAction {
    pub(crate) kind: u32,
    /// `filterType` or `calloutKey`.
    pub(crate) key: Guid,
}

/// `FWPM_FILTER_CONDITION0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCondition {
    pub(crate) field: Guid,
    pub(crate) match_type: u32,
    pub(crate) value: RawValue,
}

/// `FWPM_FILTER0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawFilter {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) provider: In<Guid>,
    pub(crate) data: RawBlob,
    pub(crate) layer: Guid,
    pub(crate) sublayer: Guid,
    pub(crate) weight: RawValue,
    pub(crate) condition_count: u32,
    pub(crate) conditions: In<RawCondition>,
    pub(crate) action: RawAction,
    /// `rawContext`, or the first half of `providerContextKey`.
    pub(crate) context: [u64; 2],
    pub(crate) reserved: In<Guid>,
    pub(crate) id: u64,
    pub(crate) effective_weight: RawValue,
}

/// `FWPM_FIELD0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawField {
    pub(crate) key: Out<Guid>,
    pub(crate) kind: u32,
    pub(crate) data_type: u32,
}

/// `FWPM_LAYER0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawLayer {
    pub(crate) key: Guid,
    pub(crate) display: RawDisplayData,
    pub(crate) flags: u32,
    pub(crate) field_count: u32,
    pub(crate) fields: Out<RawField>,
    pub(crate) default_sublayer: Guid,
    pub(crate) id: u16,
}

plain!(
    RawField,
    RawLayer,
    RawSession,
    RawProvider,
    RawProviderContext,
    RawSubLayer,
    RawCallout,
    RawAction,
    RawCondition,
    RawFilter
);

layout! {
    RawSession 72 {
        key @ 0, display @ 16, flags @ 32, transaction_wait_ms @ 36, process_id @ 40, sid @ 48, user_name @ 56,
        kernel_mode @ 64,
    }
    RawProvider 64 { key @ 0, display @ 16, flags @ 32, data @ 40, service @ 56 }
    RawProviderContext 88 {
        key @ 0, display @ 16, flags @ 32, provider @ 40, data @ 48, context_type @ 64, context @ 72, id @ 80,
    }
    RawSubLayer 72 { key @ 0, display @ 16, flags @ 32, provider @ 40, data @ 48, weight @ 64 }
    RawCallout 88 { key @ 0, display @ 16, flags @ 32, provider @ 40, data @ 48, layer @ 64, id @ 80 }
    RawField 16 { key @ 0, kind @ 8, data_type @ 12 }
    RawLayer 72 {
        key @ 0, display @ 16, flags @ 32, field_count @ 36, fields @ 40, default_sublayer @ 48, id @ 64,
    }
    RawAction 20 { kind @ 0, key @ 4 }
    RawCondition 40 { field @ 0, match_type @ 16, value @ 24 }
    RawFilter 200 {
        key @ 0, display @ 16, flags @ 32, provider @ 40, data @ 48, layer @ 64, sublayer @ 80, weight @ 96,
        condition_count @ 112, conditions @ 120, action @ 128, context @ 152, reserved @ 168, id @ 176,
        effective_weight @ 184,
    }
}
