//! Management objects as callers describe them.
//!
//! A key that is [`Guid::ZERO`] asks for one to be made. A display name is
//! required for every object; `None` is a NULL `displayData.name`.

use crate::condition::Condition;
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, FilterFlags, Guid, ProviderContextType};

/// `FWPM_PROVIDER0`: who owns objects.
#[derive(Clone, Debug, Default)]
pub struct Provider {
    /// Its key.
    pub key: Guid,
    /// Its display name.
    pub name: Option<String>,
    /// Whether it comes back when the engine starts.
    pub persistent: bool,
    /// The Windows service of the provider.
    pub service: Option<String>,
}

/// `FWPM_PROVIDER_CONTEXT0`: what a provider's callouts are told of a filter.
#[derive(Clone, Debug)]
pub struct ProviderContext {
    /// Its key.
    pub key: Guid,
    /// Its display name.
    pub name: Option<String>,
    /// Whether it comes back when the engine starts.
    pub persistent: bool,
    /// Its provider.
    pub provider: Option<Guid>,
    /// What it holds.
    pub context_type: ProviderContextType,
    /// The bytes of a general context (`dataBuffer`), or the policy of another as bytes.
    pub data: Box<[u8]>,
}

impl Default for ProviderContext {
    /// A general context without data.
    fn default() -> Self {
        Self {
            key: Guid::ZERO,
            name: None,
            persistent: false,
            provider: None,
            context_type: ProviderContextType::General,
            data: Box::default(),
        }
    }
}

/// `FWPM_SUBLAYER0`: a unit of arbitration.
#[derive(Clone, Debug, Default)]
pub struct SubLayer {
    /// Its key.
    pub key: Guid,
    /// Its display name.
    pub name: Option<String>,
    /// Whether it comes back when the engine starts.
    pub persistent: bool,
    /// Its provider.
    pub provider: Option<Guid>,
    /// Heavier sublayers are evaluated first.
    pub weight: u16,
}

/// `FWPM_CALLOUT0`: a callout that filters may name.
#[derive(Clone, Debug, Default)]
pub struct Callout {
    /// Its key, the same that the driver registers.
    pub key: Guid,
    /// Its display name.
    pub name: Option<String>,
    /// Flags; `REGISTERED` is output only.
    pub flags: ManagementCalloutFlags,
    /// Its provider.
    pub provider: Option<Guid>,
    /// Key of the layer whose filters may name it.
    pub layer: Guid,
}

/// The weight that a filter asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Weight {
    /// `FWP_EMPTY`: computed from the conditions.
    #[default]
    Auto,
    /// `FWP_UINT8`: a range from 0 to 15 above a computed weight.
    Range(u8),
    /// `FWP_UINT64`: exactly this.
    Exact(u64),
}

/// `FWPM_FILTER0`.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Its key.
    pub key: Guid,
    /// Its display name.
    pub name: Option<String>,
    /// Flags; `DISABLED` is output only.
    pub flags: FilterFlags,
    /// Its provider.
    pub provider: Option<Guid>,
    /// Key of its layer.
    pub layer: Guid,
    /// Key of its sublayer; [`Guid::ZERO`] is the layer's default.
    pub sublayer: Guid,
    /// The weight it asks for.
    pub weight: Weight,
    /// Conditions: alternatives where they name one field, all of them across fields.
    pub conditions: Vec<Condition>,
    /// What it does.
    pub action: Action,
    /// Key of the callout that its action asks.
    pub callout: Guid,
    /// `rawContext`: what callouts see as the filter's context.
    pub context: u64,
    /// Key of the provider context, with `HAS_PROVIDER_CONTEXT`: its identifier
    /// takes the place of `context`.
    pub provider_context: Guid,
}

impl Default for Filter {
    /// A filter without conditions that permits.
    fn default() -> Self {
        Self {
            key: Guid::ZERO,
            name: None,
            flags: FilterFlags::NONE,
            provider: None,
            layer: Guid::ZERO,
            sublayer: Guid::ZERO,
            weight: Weight::Auto,
            conditions: Vec::new(),
            action: Action::Permit,
            callout: Guid::ZERO,
            context: 0,
            provider_context: Guid::ZERO,
        }
    }
}
