//! Names of slots that outlive what is in them.

/// Declares a name of a slot: its generation (upper half) and its index plus one (lower half). So it is never zero, and
/// one that is kept too long names nothing, until the slot has been used 2³² times more.
macro_rules! slot_handle {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// It is the slot's generation and index, never zero. One that is kept beyond what was in the slot names nothing,
        /// until the slot has been used 2³² times more.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(core::num::NonZeroU64);

        impl $name {
            const fn new(index: u32, generation: u32) -> Option<Self> {
                Self::from_raw(((generation as u64) << 32) | (index as u64 + 1))
            }

            /// The one that was [`raw`](Self::raw); `None` for zero.
            #[must_use]
            pub const fn from_raw(raw: u64) -> Option<Self> {
                match core::num::NonZeroU64::new(raw) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// It as a number, never zero.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0.get()
            }

            const fn index(self) -> Option<u32> {
                ((self.0.get() & 0xFFFF_FFFF) as u32).checked_sub(1)
            }

            const fn generation(self) -> u32 {
                (self.0.get() >> 32) as u32
            }
        }
    };
}

pub(crate) use slot_handle;
