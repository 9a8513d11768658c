//! The Windows Filtering Platform as data.
//!
//! The one table of truth about layers, fields, conditions, flags, GUIDs and
//! statuses: a driver's typed layers, a filter engine's matching and a tool's
//! output can all come from here. Everything is `const`, nothing allocates and
//! nothing panics, so that the crate is as fit for a kernel driver as for a
//! program.
//!
//! - [`layer`]: [`LayerId`], [`LayerKind`], and [`Layer`], a row for each
//!   kernel layer id 0 to 81 (ids from 82 up depend on the system and have to be
//!   looked up at run time);
//! - [`field`]: for each layer kind a module of field indexes, shared by IPv4
//!   and IPv6 (`field::ale_auth_connect::IP_REMOTE_ADDRESS`);
//! - [`condition`]: condition keys, by their names without `FWPM_CONDITION_`;
//! - [`value`]: data types and match types; [`action`]: actions and rights;
//! - [`flags`]: every flag set as a type of its own; [`codes`]: enumerations;
//! - [`sublayer`], [`provider`], [`weight`]: built-in objects and numbers;
//! - [`NtStatus`]: the statuses that a WFP driver meets, by name.
//!
//! ```
//! use wfp_schema::{IpVersion, Layer, LayerKind, field};
//!
//! let layer = Layer::of(LayerKind::AleAuthConnect, IpVersion::V6).unwrap();
//! assert_eq!(layer.id().get(), 50);
//! let port = layer.field(field::ale_auth_connect::IP_REMOTE_PORT).unwrap();
//! assert_eq!(port.name(), "IP_REMOTE_PORT");
//! ```

#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod macros;

pub mod action;
pub mod codes;
pub mod condition;
pub mod field;
pub mod flags;
mod guid;
pub mod layer;
pub mod provider;
mod status;
pub mod sublayer;
pub mod value;
pub mod weight;

pub use action::{Action, Rights};
pub use codes::{BfeState, Direction, IpVersion, NotifyType, ProviderContextType, StreamAction};
pub use field::{Field, FieldIndex};
pub use flags::{
    AccessRights, CalloutFlags, ClassifyOutFlags, ConditionFlags, FilterEnumFlags, FilterFlags,
    MetadataFields, StreamFlags,
};
pub use guid::Guid;
pub use layer::{Layer, LayerData, LayerId, LayerKind};
pub use status::NtStatus;
pub use value::{DataType, MatchType};
