//! Filter weights.
//!
//! A filter asks for a weight in one of three ways: a `FWP_UINT64` is the
//! weight, `FWP_EMPTY` leaves it to the system (a value of
//! [`AUTO_WEIGHT_BITS`] bits), and a `FWP_UINT8` from 0 to
//! [`WEIGHT_RANGE_MAX`] sets the four bits above an automatic value.

/// Bits of an automatic weight.
pub const AUTO_WEIGHT_BITS: u32 = 60;
/// Greatest automatic weight.
pub const AUTO_WEIGHT_MAX: u64 = 0x0FFF_FFFF_FFFF_FFFF;
/// Greatest weight range that a `FWP_UINT8` weight may name.
pub const WEIGHT_RANGE_MAX: u8 = 15;
/// The weight range of filters of `IPsec` itself.
pub const WEIGHT_RANGE_IPSEC: u8 = 0;
/// The weight range of exemptions for IKE traffic.
pub const WEIGHT_RANGE_IKE_EXEMPTIONS: u8 = 12;
