//! Fields of layers: a module of indexes for each layer kind.
//!
//! An index is the same for IPv4 and IPv6, and for a discard layer and its
//! twin. Older systems have fewer trailing fields, so a reader of
//! `FWPS_INCOMING_VALUES0` checks an index against `valueCount`.
//!
//! The names are the header's, `FWPS_FIELD_<layer>_` apart. One differs between
//! the families: the header calls fields 4 and 5 of `OUTBOUND_ICMP_ERROR_V6`
//! `IP_LOCAL_PORT` and `IP_REMOTE_PORT`; here they are `ICMP_TYPE` and
//! `ICMP_CODE`, as in IPv4.

use crate::{DataType, Guid, IpVersion};

/// Which field of a layer: its place in `FWPS_INCOMING_VALUES0.incomingValue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldIndex(u16);

impl FieldIndex {
    /// The field at this place.
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The place, as an index into the values of a classify.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// The type of a field's value, where the IP version and the side matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// `FWP_UINT8`.
    Uint8,
    /// `FWP_UINT16`.
    Uint16,
    /// `FWP_UINT32`.
    Uint32,
    /// `FWP_UINT64`.
    Uint64,
    /// An IP address: `FWP_UINT32` in host order, or `FWP_BYTE_ARRAY16_TYPE` in network order.
    Address,
    /// `FWP_BYTE_ARRAY6_TYPE`.
    ByteArray6,
    /// `FWP_BYTE_BLOB_TYPE`.
    ByteBlob,
    /// `FWP_SID`.
    Sid,
    /// `FWP_TOKEN_ACCESS_INFORMATION_TYPE` at run time, `FWP_SECURITY_DESCRIPTOR_TYPE` in a condition.
    Token,
}

/// A field of a layer kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    index: FieldIndex,
    name: &'static str,
    value: FieldType,
    condition: Guid,
}

impl Field {
    /// Its place among the values of a classify.
    #[must_use]
    pub const fn index(&self) -> FieldIndex {
        self.index
    }

    /// The header's name without the layer, such as `IP_REMOTE_PORT`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What kind of value it holds.
    #[must_use]
    pub const fn field_type(&self) -> FieldType {
        self.value
    }

    /// The key by which conditions name it.
    #[must_use]
    pub const fn condition(&self) -> Guid {
        self.condition
    }

    /// The type of its values at run time in a layer of this version
    /// (`None` counts as IPv4: layers without a version have no address).
    ///
    /// Any value may also be [`DataType::Empty`].
    #[must_use]
    pub const fn data_type(&self, version: Option<IpVersion>) -> DataType {
        match self.value {
            FieldType::Uint8 => DataType::Uint8,
            FieldType::Uint16 => DataType::Uint16,
            FieldType::Uint32 => DataType::Uint32,
            FieldType::Uint64 => DataType::Uint64,
            FieldType::Address => match version {
                Some(IpVersion::V6) => DataType::ByteArray16,
                _ => DataType::Uint32,
            },
            FieldType::ByteArray6 => DataType::ByteArray6,
            FieldType::ByteBlob => DataType::ByteBlob,
            FieldType::Sid => DataType::Sid,
            FieldType::Token => DataType::TokenAccessInformation,
        }
    }
}

/// A module of a layer kind's field indexes and the table of its fields.
macro_rules! fields {
    (
        $(#[$meta:meta])*
        pub mod $module:ident;
        $($index:literal $name:ident: $type:ident $(= $condition:ident)?,)*
    ) => {
        $(#[$meta])*
        pub mod $module {
            use $crate::field::{Field, FieldIndex, FieldType};

            $(
                #[doc = concat!("Field ", stringify!($index), ", `", stringify!($name), "`.")]
                pub const $name: FieldIndex = FieldIndex::new($index);
            )*

            /// The fields in their order.
            pub const FIELDS: &[Field] = &[$(
                Field {
                    index: $name,
                    name: stringify!($name),
                    value: FieldType::$type,
                    condition: fields!(@condition $name $($condition)?),
                },
            )*];
        }
    };
    (@condition $name:ident) => { $crate::condition::$name };
    (@condition $name:ident $condition:ident) => { $crate::condition::$condition };
}

mod ale;
mod ip;
mod link;

pub use ale::*;
pub use ip::*;
pub use link::*;
