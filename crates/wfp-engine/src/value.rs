//! Values of fields at a classify.

use wfp_schema::DataType;

/// The security identifiers of a caller, for matching security descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The user's SID.
    pub user: &'a [u8],
    /// The SIDs of the user's enabled groups.
    pub groups: &'a [&'a [u8]],
}

impl<'a> Token<'a> {
    /// Every SID of the token.
    pub fn sids(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        std::iter::once(self.user).chain(self.groups.iter().copied())
    }
}

/// The value of a field: `FWP_VALUE0` without pointers.
///
/// IPv4 addresses and ports are in host order, IPv6 addresses in network order.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Value<'a> {
    /// The field is unknown at this classify.
    #[default]
    Empty,
    /// `FWP_UINT8`.
    Uint8(u8),
    /// `FWP_UINT16`.
    Uint16(u16),
    /// `FWP_UINT32`.
    Uint32(u32),
    /// `FWP_UINT64`.
    Uint64(u64),
    /// `FWP_INT8`.
    Int8(i8),
    /// `FWP_INT16`.
    Int16(i16),
    /// `FWP_INT32`.
    Int32(i32),
    /// `FWP_INT64`.
    Int64(i64),
    /// `FWP_FLOAT`.
    Float(f32),
    /// `FWP_DOUBLE`.
    Double(f64),
    /// `FWP_BYTE_ARRAY16_TYPE`.
    ByteArray16(&'a [u8; 16]),
    /// `FWP_BYTE_ARRAY6_TYPE`.
    ByteArray6(&'a [u8; 6]),
    /// `FWP_BYTE_BLOB_TYPE`.
    ByteBlob(&'a [u8]),
    /// `FWP_SID`.
    Sid(&'a [u8]),
    /// `FWP_TOKEN_INFORMATION_TYPE`.
    TokenInformation(&'a Token<'a>),
    /// `FWP_TOKEN_ACCESS_INFORMATION_TYPE`.
    TokenAccessInformation(&'a Token<'a>),
    /// `FWP_UNICODE_STRING_TYPE`, without the terminating NUL.
    UnicodeString(&'a [u16]),
}

impl Value<'_> {
    /// Its `FWP_DATA_TYPE`.
    #[must_use]
    pub const fn data_type(&self) -> DataType {
        match self {
            Self::Empty => DataType::Empty,
            Self::Uint8(_) => DataType::Uint8,
            Self::Uint16(_) => DataType::Uint16,
            Self::Uint32(_) => DataType::Uint32,
            Self::Uint64(_) => DataType::Uint64,
            Self::Int8(_) => DataType::Int8,
            Self::Int16(_) => DataType::Int16,
            Self::Int32(_) => DataType::Int32,
            Self::Int64(_) => DataType::Int64,
            Self::Float(_) => DataType::Float,
            Self::Double(_) => DataType::Double,
            Self::ByteArray16(_) => DataType::ByteArray16,
            Self::ByteArray6(_) => DataType::ByteArray6,
            Self::ByteBlob(_) => DataType::ByteBlob,
            Self::Sid(_) => DataType::Sid,
            Self::TokenInformation(_) => DataType::TokenInformation,
            Self::TokenAccessInformation(_) => DataType::TokenAccessInformation,
            Self::UnicodeString(_) => DataType::UnicodeString,
        }
    }
}
