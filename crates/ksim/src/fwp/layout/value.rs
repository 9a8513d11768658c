//! `fwptypes.h`: values.

use wfp_schema::{DataType, Guid};

use crate::access::{In, Out, plain};
use crate::ndis::layout::layout;

// SAFETY: `repr(C)` and nothing but integers.
unsafe impl crate::access::Plain for Guid {}

/// `FWP_VALUE0` and `FWP_CONDITION_VALUE0`: a type, and a number or an address.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawValue {
    pub(crate) kind: u32,
    _align: u32,
    pub(crate) bits: u64,
}

impl RawValue {
    /// A value that is a number of up to four bytes.
    pub(crate) const fn number(kind: DataType, number: u32) -> Self {
        Self {
            kind: kind.value(),
            _align: 0,
            bits: number as u64,
        }
    }

    /// A value that is the address of one.
    pub(crate) fn at<T>(kind: DataType, address: Out<T>) -> Self {
        Self {
            kind: kind.value(),
            _align: 0,
            bits: address.address() as u64,
        }
    }

    /// The member that is one byte.
    pub(crate) const fn uint8(self) -> u8 {
        self.bits.to_le_bytes()[0]
    }

    /// The member that is two bytes.
    pub(crate) const fn uint16(self) -> u16 {
        let [a, b, ..] = self.bits.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    /// The member that is four bytes.
    pub(crate) const fn uint32(self) -> u32 {
        let [a, b, c, d, ..] = self.bits.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The member that is an address.
    pub(crate) fn pointer<T>(self) -> In<T> {
        In::member(self.bits)
    }
}

/// `FWP_BYTE_BLOB`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawBlob {
    pub(crate) size: u32,
    pub(crate) data: Out<u8>,
}

/// `FWP_V4_ADDR_AND_MASK`, both in host order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawV4AddrMask {
    pub(crate) address: u32,
    pub(crate) mask: u32,
}

/// `FWP_V6_ADDR_AND_MASK`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawV6AddrMask {
    pub(crate) address: [u8; 16],
    pub(crate) prefix: u8,
}

/// `FWP_RANGE0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawRange {
    pub(crate) low: RawValue,
    pub(crate) high: RawValue,
}

/// `SID_AND_ATTRIBUTES`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SidAndAttributes {
    pub(crate) sid: Out<u8>,
    pub(crate) attributes: u32,
}

/// `SE_GROUP_MANDATORY | SE_GROUP_ENABLED_BY_DEFAULT | SE_GROUP_ENABLED`.
pub(crate) const SE_GROUP_ENABLED: u32 = 0x7;

/// `SID_AND_ATTRIBUTES_HASH`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SidAndAttributesHash {
    pub(crate) count: u32,
    pub(crate) sids: Out<SidAndAttributes>,
    pub(crate) hash: [usize; 32],
}

/// `FWP_TOKEN_INFORMATION`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenInformation {
    pub(crate) count: u32,
    pub(crate) sids: Out<SidAndAttributes>,
    pub(crate) restricted_count: u32,
    pub(crate) restricted_sids: Out<SidAndAttributes>,
}

/// `TOKEN_ACCESS_INFORMATION`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenAccessInformation {
    pub(crate) sid_hash: Out<SidAndAttributesHash>,
    pub(crate) restricted_sid_hash: Out<SidAndAttributesHash>,
    pub(crate) privileges: Out<u8>,
    pub(crate) authentication_id: u64,
    pub(crate) token_type: u32,
    pub(crate) impersonation_level: u32,
    pub(crate) mandatory_policy: u32,
    pub(crate) flags: u32,
    pub(crate) app_container_number: u32,
    pub(crate) package_sid: Out<u8>,
    pub(crate) capabilities_hash: Out<SidAndAttributesHash>,
    pub(crate) trust_level_sid: Out<u8>,
    pub(crate) security_attributes: usize,
}

plain!(
    RawValue,
    RawBlob,
    RawV4AddrMask,
    RawV6AddrMask,
    RawRange,
    SidAndAttributes,
    SidAndAttributesHash,
    TokenInformation,
    TokenAccessInformation,
);

layout! {
    RawValue 16 { kind @ 0, bits @ 8 }
    RawBlob 16 { size @ 0, data @ 8 }
    RawV4AddrMask 8 { address @ 0, mask @ 4 }
    RawV6AddrMask 17 { address @ 0, prefix @ 16 }
    RawRange 32 { low @ 0, high @ 16 }
    SidAndAttributes 16 { sid @ 0, attributes @ 8 }
    SidAndAttributesHash 272 { count @ 0, sids @ 8, hash @ 16 }
    TokenInformation 32 { count @ 0, sids @ 8, restricted_count @ 16, restricted_sids @ 24 }
    TokenAccessInformation 88 {
        sid_hash @ 0, restricted_sid_hash @ 8, privileges @ 16, authentication_id @ 24, token_type @ 32,
        impersonation_level @ 36, mandatory_policy @ 40, flags @ 44, app_container_number @ 48, package_sid @ 56,
        capabilities_hash @ 64, trust_level_sid @ 72, security_attributes @ 80,
    }
}
