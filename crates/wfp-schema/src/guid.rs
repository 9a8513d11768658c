//! Globally unique identifiers.

use core::fmt;

/// A GUID, laid out as Windows lays it out in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct Guid {
    data1: u32,
    data2: u16,
    data3: u16,
    data4: [u8; 8],
}

impl Guid {
    /// The GUID whose every bit is zero: "none", or "make one" when adding an object.
    pub const ZERO: Self = Self::from_u128(0);

    /// The GUID whose text form has these hexadecimal digits in this order.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        let [a0, a1, a2, a3, b0, b1, c0, c1, data4 @ ..] = value.to_be_bytes();
        Self {
            data1: u32::from_be_bytes([a0, a1, a2, a3]),
            data2: u16::from_be_bytes([b0, b1]),
            data3: u16::from_be_bytes([c0, c1]),
            data4,
        }
    }

    /// The digits of the text form as one number.
    #[must_use]
    pub const fn to_u128(self) -> u128 {
        let [a0, a1, a2, a3] = self.data1.to_be_bytes();
        let [b0, b1] = self.data2.to_be_bytes();
        let [c0, c1] = self.data3.to_be_bytes();
        let [d0, d1, d2, d3, d4, d5, d6, d7] = self.data4;
        u128::from_be_bytes([
            a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7,
        ])
    }

    /// The GUID in these 16 bytes of memory (the first three members little-endian).
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a0, a1, a2, a3, b0, b1, c0, c1, data4 @ ..] = bytes;
        Self {
            data1: u32::from_le_bytes([a0, a1, a2, a3]),
            data2: u16::from_le_bytes([b0, b1]),
            data3: u16::from_le_bytes([c0, c1]),
            data4,
        }
    }

    /// The 16 bytes in memory (the first three members little-endian).
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a0, a1, a2, a3] = self.data1.to_le_bytes();
        let [b0, b1] = self.data2.to_le_bytes();
        let [c0, c1] = self.data3.to_le_bytes();
        let [d0, d1, d2, d3, d4, d5, d6, d7] = self.data4;
        [
            a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7,
        ]
    }

    /// Whether this is [`Guid::ZERO`].
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.to_u128() == 0
    }

    /// The four members as a C initializer names them.
    #[must_use]
    pub const fn parts(self) -> (u32, u16, u16, [u8; 8]) {
        (self.data1, self.data2, self.data3, self.data4)
    }
}

/// `c38d57d1-05a7-4c33-904f-7fbceee60e82`, without braces.
impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [d0, d1, d2, d3, d4, d5, d6, d7] = self.data4;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{d0:02x}{d1:02x}-{d2:02x}{d3:02x}{d4:02x}{d5:02x}{d6:02x}{d7:02x}",
            self.data1, self.data2, self.data3
        )
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}
