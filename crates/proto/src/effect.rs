//! Effects: what a rule does to the connections that it decides, besides deciding.
//!
//! A rule's effects are a run of [`EffectRecord`]s, in the order in which they were written. They come into force when
//! the rule decides a connection, or a flow, and lets it through; a rule that blocks has none.

use crate::wire::wire_enum;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most effects of one rule.
pub const MAX_EFFECTS: usize = 64;
/// Longest text of an effect (what is replaced, a header's name), in bytes.
pub const MAX_EFFECT_TEXT: usize = 255;
/// Longest time that a question may be held for, in milliseconds.
pub const MAX_ASK: u64 = 600_000;
/// Longest delay, with its jitter, in microseconds.
pub const MAX_DELAY: u64 = 10_000_000;
/// Largest queue of what is shaped, in bytes.
pub const MAX_QUEUE: u64 = 16 << 20;
/// Highest rate, in bytes a second.
pub const MAX_RATE: u64 = 1 << 40;
/// Most rules whose connections share a limit.
pub const MAX_LIMITS: usize = 1024;
/// Parts in which a share of lost packets is counted.
pub const MILLION: u64 = 1_000_000;

wire_enum! {
    /// What an effect is. The comment says which fields of the record it uses; the others are zero.
    pub enum EffectKind: u8 {
        /// The connection is held until a user's program answers. `values[0]`: for how long, in milliseconds, 1 to
        /// [`MAX_ASK`]. [`EffectRecord::PERMIT`]: it is permitted if no answer comes. The rule's action is
        /// [`Ask`](crate::Action::Ask), and every such rule has one.
        Ask = 0, "ask";
        /// Outgoing connections go to a proxy of this machine. `address`, `port`: where it listens.
        /// [`EffectRecord::PERMIT`]: while no proxy is registered there, they go straight; else they are blocked. A rule
        /// may have one for each IP version.
        Redirect = 1, "redirect";
        /// The local address of sockets that are bound. `address`. A rule may have one for each IP version.
        Bind = 2, "bind";
        /// Bytes of a stream are replaced. [`EffectRecord::SENT`], [`EffectRecord::RECEIVED`]: which way. The text is
        /// what is looked for, then what comes in its place.
        Replace = 3, "replace";
        /// A header of HTTP/1 requests is replaced, or added. The text is its name, then its value.
        /// [`EffectRecord::REMOVE`]: it is taken out, and has no value.
        Header = 4, "header";
        /// The differentiated services code point of what is sent. `values[0]`: 0 to 63.
        Dscp = 5, "dscp";
        /// The time to live, or hop limit, of what is sent. `values[0]`: 1 to 255.
        HopLimit = 6, "ttl";
        /// The remote side of packets is another than the application knows: its packets go there, and the answers
        /// look as if they came from where it sent to. `address`: unspecified for the same. `port`: 0 for the same.
        Translate = 7, "translate";
        /// A token bucket for each direction. `values`: bytes a second, up to [`MAX_RATE`]; bytes that may come at once;
        /// bytes that may wait, up to [`MAX_QUEUE`]. [`EffectRecord::SHARED`]: all flows of the rule have one, which no
        /// other rule has; `port` is its number, below [`MAX_LIMITS`]. Else each flow has its own.
        Rate = 8, "rate";
        /// What passes is late. `values`: by how many microseconds, and at most how many more at random; together up
        /// to [`MAX_DELAY`].
        Delay = 9, "delay";
        /// Some packets are lost. `values[0]`: how many in a [`MILLION`].
        Loss = 10, "loss";
        /// A copy of each packet goes to who captures.
        Mirror = 11, "mirror";
        /// The rule's contents are looked for out of band: data is taken out of the stream, looked at by a thread, and
        /// put back in order.
        OutOfBand = 12, "out of band";
    }
}

/// Which kinds of effects there are: a bit for each [`EffectKind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EffectSet(u32);

impl EffectSet {
    /// None.
    pub const NONE: Self = Self(0);

    /// These kinds.
    #[must_use]
    pub const fn of(kinds: &[EffectKind]) -> Self {
        let mut set = Self::NONE;
        let mut at = 0;
        while at < kinds.len() {
            set = set.with(kinds[at]);
            at += 1;
        }
        set
    }

    /// The set of these bits.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// This and one kind more.
    #[must_use]
    pub const fn with(self, kind: EffectKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// What is in one of them, or in both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has this kind.
    #[must_use]
    pub const fn contains(self, kind: EffectKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Whether it has one of the other's kinds.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// An effect.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EffectRecord {
    /// An [`EffectKind`].
    pub kind: u8,
    /// [`SENT`](Self::SENT), [`RECEIVED`](Self::RECEIVED), [`PERMIT`](Self::PERMIT), [`REMOVE`](Self::REMOVE),
    /// [`SHARED`](Self::SHARED).
    pub flags: u8,
    /// A port, or the number of a limit.
    pub port: U16,
    /// Offset within the text section of the text; zero if there is none.
    pub text: U32,
    /// Length of the text's first part, up to [`MAX_EFFECT_TEXT`].
    pub length: U16,
    /// Length of its second part, which follows, up to [`MAX_EFFECT_TEXT`].
    pub other_length: U16,
    /// An address in network order; IPv4 as IPv4-mapped IPv6.
    pub address: [u8; 16],
    /// Numbers.
    pub values: [U64; 3],
}

impl EffectRecord {
    /// For what this machine sends.
    pub const SENT: u8 = 1;
    /// For what it receives.
    pub const RECEIVED: u8 = 2;
    /// Permit if no answer comes, or if there is no proxy.
    pub const PERMIT: u8 = 4;
    /// Take it out.
    pub const REMOVE: u8 = 8;
    /// For all flows of the rule together.
    pub const SHARED: u8 = 16;
}

const _: () = assert!(size_of::<EffectRecord>() == 52);
