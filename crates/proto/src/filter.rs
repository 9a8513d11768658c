//! Whose a filter is: what a program asks when it has seen a filter's identifier in a discard.

use crate::message::{Header, RequestError, read_padded, read_request};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest name, in UTF-16 code units; a longer one is cut off.
pub const MAX_NAME_UNITS: usize = 128;

/// Request [`DescribeFilter`](crate::device::ControlCode::DescribeFilter).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DescribeFilterRequest {
    /// Size and version.
    pub header: Header,
    /// The filter's run-time identifier.
    pub filter: U64,
}

impl DescribeFilterRequest {
    /// The request for this filter.
    #[must_use]
    pub const fn new(filter: u64) -> Self {
        Self {
            header: Header::of::<Self>(),
            filter: U64::new(filter),
        }
    }

    /// Checks an input buffer.
    ///
    /// # Errors
    /// What is wrong with the request; see [`RequestError`] for the status of each.
    pub fn parse(input: &[u8]) -> Result<Self, RequestError> {
        read_request::<Self>(input).map(|(request, _)| request)
    }
}

/// A name, perhaps cut off.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Name {
    /// Length of `units`.
    pub length: U16,
    /// Zero.
    pub reserved: U16,
    /// UTF-16.
    pub units: [U16; MAX_NAME_UNITS],
}

impl Name {
    /// The name of these code units, as many as fit.
    #[must_use]
    pub fn new(units: impl IntoIterator<Item = u16>) -> Self {
        let mut name = Self::new_zeroed();
        for (place, unit) in name.units.iter_mut().zip(units) {
            *place = U16::new(unit);
            name.length += 1;
        }
        name
    }

    /// Its code units.
    pub fn units(&self) -> impl Iterator<Item = u16> {
        let length = usize::from(self.length.get());
        self.units.iter().take(length).map(|unit| unit.get())
    }
}

/// Reply to [`DescribeFilter`](crate::device::ControlCode::DescribeFilter).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FilterReply {
    /// Size and version.
    pub header: Header,
    /// [`OURS`](Self::OURS).
    pub flags: U32,
    /// Zero.
    pub reserved: U32,
    /// The filter's key, in the layout of a Windows `GUID`.
    pub key: [u8; 16],
    /// The filter's display name.
    pub name: Name,
    /// The display name of its provider; empty without one.
    pub provider: Name,
}

impl FilterReply {
    /// The filter is Portcullis's: a rule has decided.
    pub const OURS: u32 = 1;

    /// The reply.
    #[must_use]
    pub const fn new(flags: u32, key: [u8; 16], name: Name, provider: Name) -> Self {
        Self {
            header: Header::of::<Self>(),
            flags: U32::new(flags),
            reserved: U32::ZERO,
            key,
            name,
            provider,
        }
    }

    /// Reads a reply. `None` if it isn't one of this major version.
    #[must_use]
    pub fn read(reply: &[u8]) -> Option<Self> {
        read_padded::<Self>(reply).map(|(reply, _)| reply)
    }
}
