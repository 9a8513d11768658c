//! `fwpmtypes.h`: what enumerations are limited by.

use wfp_schema::Guid;

use super::management::RawCondition;
use crate::access::{In, plain};
use crate::ndis::layout::layout;

/// `FWPM_PROVIDER_ENUM_TEMPLATE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawProviderTemplate {
    pub(crate) reserved: u64,
}

/// `FWPM_LAYER_ENUM_TEMPLATE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawLayerTemplate {
    pub(crate) reserved: u64,
}

/// `FWPM_SUBLAYER_ENUM_TEMPLATE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawSubLayerTemplate {
    pub(crate) provider: In<Guid>,
}

/// `FWPM_PROVIDER_CONTEXT_ENUM_TEMPLATE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawProviderContextTemplate {
    pub(crate) provider: In<Guid>,
    pub(crate) context_type: u32,
}

/// `FWPM_CALLOUT_ENUM_TEMPLATE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawCalloutTemplate {
    pub(crate) provider: In<Guid>,
    pub(crate) layer: Guid,
}

/// `FWPM_FILTER_ENUM_TEMPLATE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawFilterTemplate {
    pub(crate) provider: In<Guid>,
    pub(crate) layer: Guid,
    pub(crate) enum_type: u32,
    pub(crate) flags: u32,
    pub(crate) provider_context: usize,
    pub(crate) condition_count: u32,
    pub(crate) conditions: In<RawCondition>,
    pub(crate) action_mask: u32,
    pub(crate) callout: In<Guid>,
}

plain!(
    RawProviderTemplate,
    RawLayerTemplate,
    RawProviderContextTemplate,
    RawSubLayerTemplate,
    RawCalloutTemplate,
    RawFilterTemplate,
);

layout! {
    RawProviderTemplate 8 { reserved @ 0 }
    RawLayerTemplate 8 { reserved @ 0 }
    RawSubLayerTemplate 8 { provider @ 0 }
    RawProviderContextTemplate 16 { provider @ 0, context_type @ 8 }
    RawCalloutTemplate 24 { provider @ 0, layer @ 8 }
    RawFilterTemplate 72 {
        provider @ 0, layer @ 8, enum_type @ 24, flags @ 28, provider_context @ 32, condition_count @ 40,
        conditions @ 48, action_mask @ 56, callout @ 64,
    }
}
