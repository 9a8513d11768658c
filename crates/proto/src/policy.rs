//! The compiled policy: its format.
//!
//! A compiled policy is one block of bytes without pointers: a [`PolicyHeader`], then sections of fixed-size records
//! that refer to each other by index, then text. The compiler in user mode makes it; the driver validates it once in
//! one pass and then reads it in place. All integers are little-endian.
//!
//! | section | element | order |
//! |---|---|---|
//! | rules | [`RuleRecord`] | as written; the first match decides |
//! | protocols, ports | [`Range16`] | per rule, ascending, disjoint |
//! | addresses | [`AddressRange`] | per rule, ascending, disjoint |
//! | applications | [`ApplicationRecord`] | per rule |
//! | users | [`UserRecord`] | per rule |
//! | hosts | [`HostRecord`] | ascending by text, then flags; each once |
//! | rule lists | `U32` | ascending within each list |
//! | application keys, user keys | `U64` | ascending, each once |
//! | nodes | [`NodeRecord`] | a child follows its parent |
//! | leaves | [`LeafRecord`] | any |
//! | contents | [`ContentRecord`] | any; each literal once |
//! | content states | [`ContentStateRecord`] | the root first |
//! | effects | [`EffectRecord`] | per rule, as written |
//! | interfaces | [`Range64`] | per rule, ascending, disjoint |
//! | text | bytes | any |
//!
//! # Addresses
//! An address is a 128-bit number: an IPv6 address as it is, an IPv4 address as its IPv4-mapped IPv6 address
//! (`::ffff:a.b.c.d`). So both versions are one dimension, and a dual-mode socket's mapped address means the IPv4
//! address it stands for. The compiler leaves `::ffff:0:0/96` out of ranges written in IPv6.
//!
//! # Interfaces
//! A network interface is its LUID (`NET_LUID`), which stays the same over restarts. The LUID's highest 16 bits are the
//! interface's type, so all interfaces of a type are one range ([`interfaces_of_type`]).
//!
//! # Contents
//! The literals that rules look for in a flow's data are one automaton (Aho and Corasick, 1975). From a state the next
//! one for a byte is at `base ^ byte`, if that is a state that is entered by this byte; no two states have the same base
//! (a double array: Aoe, 1989). If there is none, the same is tried from the state's `fail`: the one for the longest end
//! of what was read that begins a literal. `content` says which literal ends in a state, and `link` leads to the next
//! state on the way of `fail` in which one ends.
//!
//! # The index
//! A binary decision tree over [`Dimension`]s narrows a connection down to a leaf with few rules. A leaf holds, in
//! order, every rule that can match a connection that arrives there: those with neither a host nor a content, those with
//! a host, and those with contents. [`HostRecord`]s lead from a host name to the rules that name it, and
//! [`ContentRecord`]s from a literal to those that look for it.

use crate::effect::EffectRecord;
use crate::event::Operation;
use crate::wire::wire_enum;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a compiled policy.
pub const MAGIC: [u8; 4] = *b"PCPL";
/// The format's version; a driver reads exactly this one.
pub const FORMAT_VERSION: u16 = 4;

/// Largest compiled policy, in bytes.
pub const MAX_SIZE: usize = 16 << 20;
/// Most rules.
pub const MAX_RULES: usize = 65_536;
/// Most ranges, patterns or users in one list of one rule.
pub const MAX_LIST: usize = 65_535;
/// Most elements of a section other than text.
pub const MAX_ELEMENTS: usize = 1 << 20;
/// Longest application pattern, in UTF-16 code units.
pub const MAX_PATTERN_UNITS: usize = 1024;
/// Longest literal that is looked for in a flow's data, in bytes.
pub const MAX_CONTENT: usize = 255;
/// Most rules that are tried when a socket is bound.
pub const MAX_BINDS: usize = 1024;
/// Most rules with [`RULE_BOOT`].
pub const MAX_BOOT_RULES: usize = 256;
/// Most ranges and applications in all conditions of one rule with [`RULE_BOOT`]: it becomes one filter a layer.
pub const MAX_BOOT_CONDITIONS: usize = 1024;
/// Deepest leaf of the index: most steps of one lookup.
pub const MAX_DEPTH: usize = 64;

wire_enum! {
    /// What a rule, or the default, does with a connection.
    pub enum Action: u8 {
        /// It is let through.
        Permit = 1, "permit";
        /// It is refused, dropped or discarded.
        Block = 2, "block";
        /// It is held until a user's program answers. Only rules do that, not the default.
        Ask = 3, "ask";
    }
}

wire_enum! {
    /// Who began a connection.
    pub enum Direction: u8 {
        /// This machine.
        Outbound = 1, "outbound";
        /// The other side.
        Inbound = 2, "inbound";
    }
}

/// A section's place: `count` elements from `offset` bytes into the policy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Section {
    /// Offset in bytes from the policy's first byte.
    pub offset: U32,
    /// Number of elements.
    pub count: U32,
}

wire_enum! {
    /// A section, by its place in [`PolicyHeader::sections`]. Sections follow each other in this order without gaps.
    pub enum SectionKind: u8 {
        /// [`RuleRecord`].
        Rules = 0, "rules";
        /// [`Range16`] of protocol numbers.
        Protocols = 1, "protocols";
        /// [`Range16`] of ports.
        Ports = 2, "ports";
        /// [`AddressRange`].
        Addresses = 3, "addresses";
        /// [`ApplicationRecord`].
        Applications = 4, "applications";
        /// [`UserRecord`].
        Users = 5, "users";
        /// [`HostRecord`].
        Hosts = 6, "hosts";
        /// `U32`: indexes of rules.
        RuleLists = 7, "rule lists";
        /// `U64`: [`application_key`]s.
        ApplicationKeys = 8, "application keys";
        /// `U64`: [`user_key`]s.
        UserKeys = 9, "user keys";
        /// [`NodeRecord`].
        Nodes = 10, "nodes";
        /// [`LeafRecord`].
        Leaves = 11, "leaves";
        /// [`ContentRecord`].
        Contents = 12, "contents";
        /// [`ContentStateRecord`].
        ContentStates = 13, "content states";
        /// [`EffectRecord`].
        Effects = 14, "effects";
        /// [`Range64`] of interfaces' LUIDs.
        Interfaces = 15, "interfaces";
        /// Bytes.
        Text = 16, "text";
    }
}

/// Number of sections.
pub const SECTIONS: usize = SectionKind::ALL.len();

impl SectionKind {
    /// Size in bytes of one element.
    #[must_use]
    pub const fn element_size(self) -> usize {
        match self {
            Self::Rules => size_of::<RuleRecord>(),
            Self::Protocols | Self::Ports => size_of::<Range16>(),
            Self::Addresses => size_of::<AddressRange>(),
            Self::Applications => size_of::<ApplicationRecord>(),
            Self::Users => size_of::<UserRecord>(),
            Self::Hosts => size_of::<HostRecord>(),
            Self::RuleLists => size_of::<U32>(),
            Self::ApplicationKeys | Self::UserKeys => size_of::<U64>(),
            Self::Nodes => size_of::<NodeRecord>(),
            Self::Leaves => size_of::<LeafRecord>(),
            Self::Contents => size_of::<ContentRecord>(),
            Self::ContentStates => size_of::<ContentStateRecord>(),
            Self::Effects => size_of::<EffectRecord>(),
            Self::Interfaces => size_of::<Range64>(),
            Self::Text => 1,
        }
    }
}

/// The policy's first bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PolicyHeader {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`FORMAT_VERSION`].
    pub version: U16,
    /// Size of this header.
    pub header_size: U16,
    /// Size of the whole policy.
    pub total_size: U32,
    /// [`crc32`] of everything after this field.
    pub crc: U32,
    /// [`POLICY_EVENTS_ALL`], [`POLICY_OBSERVE`], [`POLICY_OPERATIONS`], [`POLICY_BOOT`] and what goes with it.
    pub flags: U32,
    /// An [`Action`]: what happens where no rule matches.
    pub default_action: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The root of the index: a child reference as in [`NodeRecord`].
    pub root: U32,
    /// The [`EffectSet`](crate::effect::EffectSet) of all rules.
    pub effects: U32,
    /// The rules that decide where a socket is bound: index within the rule lists of the first, and their number, up to
    /// [`MAX_BINDS`]. They have no condition on what a bind does not tell, and the last one has an effect for it.
    pub binds: [U32; 2],
    /// The sections, by [`SectionKind`].
    pub sections: [Section; SECTIONS],
}

/// [`PolicyHeader::flags`]: every decision and every flow makes events, not only those of rules with `log`.
pub const POLICY_EVENTS_ALL: u32 = 1;
/// [`PolicyHeader::flags`]: the layers that show more than connections make events: binds and their release, ICMP errors,
/// and what anybody discards.
pub const POLICY_OBSERVE: u32 = 2;
/// [`PolicyHeader::flags`]: the [`rule_operations`] of all rules that are not [`CONNECTIONS`].
pub const POLICY_OPERATIONS: u32 = (RULE_OPERATIONS & !CONNECTIONS) as u32;
/// [`PolicyHeader::flags`]: there is protection at boot: the rules with [`RULE_BOOT`] hold as filters of the system's own
/// whenever the driver does not decide.
pub const POLICY_BOOT: u32 = 1 << 16;
/// [`PolicyHeader::flags`], with [`POLICY_BOOT`]: what none of these rules matches is blocked, not permitted.
pub const POLICY_BOOT_BLOCK: u32 = 1 << 17;
/// [`PolicyHeader::flags`], with [`POLICY_BOOT`]: what a host needs to have a network at all is permitted first.
pub const POLICY_BOOT_ESSENTIAL: u32 = 1 << 18;

/// Offset of the first byte that [`PolicyHeader::crc`] covers.
pub const CRC_FROM: usize = 16;

/// A run of elements of another section: one of a rule's conditions. An empty run means "any".
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Run {
    /// Index of the first element.
    pub first: U32,
    /// Number of elements.
    pub count: U16,
}

/// One rule. It matches when each of its conditions does; a condition matches when one of its elements does.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RuleRecord {
    /// An [`Action`].
    pub action: u8,
    /// 0 any, else a [`Direction`].
    pub direction: u8,
    /// [`RULE_LOG`], [`RULE_CHILDREN`], [`RULE_OPERATIONS`], [`RULE_BOOT`], and at most one of [`RULE_HOST`] and [`RULE_CONTENT`].
    pub flags: U16,
    /// Protocol numbers: a run of [`SectionKind::Protocols`], ends at most 255.
    pub protocols: Run,
    /// Local ports: a run of [`SectionKind::Ports`].
    pub local_ports: Run,
    /// Remote ports: a run of [`SectionKind::Ports`].
    pub remote_ports: Run,
    /// Local addresses: a run of [`SectionKind::Addresses`].
    pub local_addresses: Run,
    /// Remote addresses: a run of [`SectionKind::Addresses`].
    pub remote_addresses: Run,
    /// Applications: a run of [`SectionKind::Applications`].
    pub applications: Run,
    /// Users: a run of [`SectionKind::Users`].
    pub users: Run,
    /// Interfaces: a run of [`SectionKind::Interfaces`].
    pub interfaces: Run,
    /// Effects: a run of [`SectionKind::Effects`].
    pub effects: Run,
    /// The [`EffectSet`](crate::effect::EffectSet) of these.
    pub effect_set: U32,
}

/// [`RuleRecord::flags`]: matches make events.
pub const RULE_LOG: u16 = 1;
/// [`RuleRecord::flags`]: the rule has a host condition; the host records whose lists hold the rule say which.
pub const RULE_HOST: u16 = 2;
/// [`RuleRecord::flags`]: the rule matches only if one of its literals is in the flow's data; the content records whose
/// lists hold the rule say which. Its action is [`Action::Block`].
pub const RULE_CONTENT: u16 = 4;
/// [`RuleRecord::flags`]: an application condition also matches what such an application has started, directly or not.
pub const RULE_CHILDREN: u16 = 8;
/// [`RuleRecord::flags`]: what the rule is about, as a set of [`operation_flag`]s; none is the same as
/// [`CONNECTIONS`].
pub const RULE_OPERATIONS: u16 = 0x3f00;
/// Connections, accepts and listens: what a rule is about that does not say.
pub const CONNECTIONS: u16 = operation_flag(Operation::Connect)
    | operation_flag(Operation::Accept)
    | operation_flag(Operation::Listen);

/// The flag of a rule that is about this operation.
#[must_use]
pub const fn operation_flag(operation: Operation) -> u16 {
    0x80 << operation.raw()
}

/// What a rule with these flags is about.
#[must_use]
pub const fn rule_operations(flags: u16) -> u16 {
    match flags & RULE_OPERATIONS {
        0 => CONNECTIONS,
        operations => operations,
    }
}

/// [`RuleRecord::flags`]: the rule also holds while the driver does not decide; only with [`POLICY_BOOT`]. It has no user,
/// host or content, its applications are exact paths, and it permits or blocks.
pub const RULE_BOOT: u16 = 0x4000;

/// Numbers from `first` to `last`, both included.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Range16 {
    /// The least.
    pub first: U16,
    /// The greatest.
    pub last: U16,
}

/// Interfaces whose LUIDs are from `first` to `last`, both included; 0 is no interface's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Range64 {
    /// The least.
    pub first: U64,
    /// The greatest.
    pub last: U64,
}

/// Addresses from `first` to `last`, both included, each in network order; IPv4 as IPv4-mapped IPv6.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct AddressRange {
    /// The least.
    pub first: [u8; 16],
    /// The greatest.
    pub last: [u8; 16],
}

/// A pattern for an application's path.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ApplicationRecord {
    /// Offset within the text section of the pattern: UTF-16 (little-endian), lower-case, without a terminator.
    pub text: U32,
    /// Its length in code units, 1 to [`MAX_PATTERN_UNITS`].
    pub units: U16,
    /// [`APPLICATION_WILDCARD`], [`APPLICATION_ANY_VOLUME`].
    pub flags: U16,
}

/// [`ApplicationRecord::flags`]: `*` stands for any units, `?` for one. Without it both stand for themselves.
pub const APPLICATION_WILDCARD: u16 = 1;
/// [`ApplicationRecord::flags`]: the pattern is for what follows `\device\harddiskvolumeN`, whatever the N.
pub const APPLICATION_ANY_VOLUME: u16 = 2;

/// A user.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct UserRecord {
    /// Offset within the text section of the SID, as Windows lays it out.
    pub text: U32,
    /// Its length in bytes: 8 + 4 × its number of sub-authorities.
    pub length: U16,
    /// Zero.
    pub reserved: U16,
}

/// A host name or a domain, and the rules that name it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct HostRecord {
    /// Offset within the text section of the name: lower-case ASCII, without a trailing dot.
    pub text: U32,
    /// Its length, 1 to [`MAX_HOST`](crate::event::MAX_HOST).
    pub length: u8,
    /// [`HOST_SUFFIX`] or zero.
    pub flags: u8,
    /// Zero.
    pub reserved: U16,
    /// Index within the rule lists of its first rule.
    pub first: U32,
    /// Number of its rules, at least one; each has [`RULE_HOST`].
    pub count: U32,
}

/// [`HostRecord::flags`]: every name below this one, but not itself (`*.example.com`).
pub const HOST_SUFFIX: u8 = 1;

wire_enum! {
    /// What a node of the index compares.
    pub enum Dimension: u8 {
        /// The [`Direction`]'s value.
        Direction = 0, "direction";
        /// The protocol number.
        Protocol = 1, "protocol";
        /// The local address as a number.
        LocalAddress = 2, "local address";
        /// The remote address as a number.
        RemoteAddress = 3, "remote address";
        /// The local port.
        LocalPort = 4, "local port";
        /// The remote port.
        RemotePort = 5, "remote port";
        /// 1 + the place of the path's [`application_key`] among the application keys; 0 if it is not there.
        Application = 6, "application";
        /// 1 + the place of the SID's [`user_key`] among the user keys; 0 if it is not there.
        User = 7, "user";
    }
}

/// An inner node of the index. A child is another node, or with [`LEAF`] set a leaf.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NodeRecord {
    /// The greatest value that goes to `below`, in network order like an address.
    pub split: [u8; 16],
    /// The child for values up to `split`; a node's index is greater than its parent's.
    pub below: U32,
    /// The child for greater values.
    pub above: U32,
    /// A [`Dimension`].
    pub dimension: u8,
    /// The node's distance from the root; a child's is its parent's plus one, below [`MAX_DEPTH`].
    pub depth: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Set in a child reference that names a leaf.
pub const LEAF: u32 = 1 << 31;

/// A leaf of the index.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LeafRecord {
    /// Index within the rule lists of the first rule with neither [`RULE_HOST`] nor [`RULE_CONTENT`].
    pub first: U32,
    /// Number of such rules.
    pub count: U32,
    /// Index within the rule lists of the first rule with [`RULE_HOST`].
    pub host_first: U32,
    /// Number of such rules.
    pub host_count: U32,
    /// Index within the rule lists of the first rule with [`RULE_CONTENT`].
    pub content_first: U32,
    /// Number of such rules.
    pub content_count: U32,
}

/// A literal, and the rules that look for it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ContentRecord {
    /// Index within the rule lists of its first rule.
    pub first: U32,
    /// Number of its rules, at least one; each has [`RULE_CONTENT`].
    pub count: U32,
}

/// A state of the automaton: the beginning of a literal.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ContentStateRecord {
    /// The next state for a byte is at `base ^ byte`. [`NO_BASE`]: there is none.
    pub base: U32,
    /// Where to go on when there is no next state; its depth is less.
    pub fail: U32,
    /// 1 + the index of the content that ends here, 0 for none.
    pub content: U32,
    /// The next shallower state in which a content ends that is an end of this one; 0 for none.
    pub link: U32,
    /// The byte by which the state is entered.
    pub byte: u8,
    /// Bytes from the root, at most [`MAX_CONTENT`]; 0 for the root and for places that are no state.
    pub depth: u8,
    /// Zero.
    pub reserved: U16,
}

/// [`ContentStateRecord::base`] of a state that no byte leads on from.
pub const NO_BASE: u32 = u32::MAX;

const _: () = {
    assert!(size_of::<PolicyHeader>() == 40 + 8 * SECTIONS);
    assert!(size_of::<RuleRecord>() == 62);
    assert!(size_of::<NodeRecord>() == 32);
    assert!(core::mem::offset_of!(PolicyHeader, crc) + 4 == CRC_FROM);
};

/// Bits of a LUID below the interface's type (`NET_LUID_LH`: 24 reserved bits, 24 bits of an index, 16 bits of the type).
const LUID_BITS: u32 = 48;

/// The type of the interface with this LUID: IANA's `ifType`.
#[must_use]
pub const fn interface_type(luid: u64) -> u16 {
    let [high, low, ..] = luid.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The first and the last LUID that an interface of this type can have.
#[must_use]
pub const fn interfaces_of_type(kind: u16) -> (u64, u64) {
    let first = (kind as u64) << LUID_BITS;
    (first, first | ((1 << LUID_BITS) - 1))
}

/// CRC-32 (IEEE 802.3: reflected, polynomial 0x04C11DB7), as in zlib. It finds accidents, not attacks.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0_u32;
        while byte < 256 {
            let mut value = byte;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 0 {
                    value >> 1
                } else {
                    (value >> 1) ^ 0xEDB8_8320
                };
                bit += 1;
            }
            table[byte as usize] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

/// 64-bit FNV-1a.
fn fnv1a(seed: u64, byte: u8) -> u64 {
    (seed ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
}

/// The policy's identity in status and events: FNV-1a of all its bytes.
#[must_use]
pub fn hash(policy: &[u8]) -> u64 {
    policy
        .iter()
        .fold(FNV_OFFSET, |hash, &byte| fnv1a(hash, byte))
}

/// The key of an application's path in the index: FNV-1a of its code units, folded with [`fold_unit`], after
/// [`without_volume`]. Two paths may share a key; a leaf's rules are compared in full.
pub fn application_key(units: impl Iterator<Item = u16>) -> u64 {
    units.map(fold_unit).fold(FNV_OFFSET, |hash, unit| {
        (hash ^ u64::from(unit)).wrapping_mul(FNV_PRIME)
    })
}

/// The key of a user in the index: FNV-1a of the SID's bytes.
#[must_use]
pub fn user_key(sid: &[u8]) -> u64 {
    hash(sid)
}

/// Lower case for ASCII, anything else as it is.
///
/// WFP hands paths out in lower case already, and the compiler writes patterns in lower case, so this only has to make
/// up for a path that was not.
#[must_use]
pub const fn fold_unit(unit: u16) -> u16 {
    if unit >= b'A' as u16 && unit <= b'Z' as u16 {
        unit | 0x20
    } else {
        unit
    }
}

/// What a volume's device name begins with; its number follows.
pub const VOLUME_PREFIX: &str = r"\device\harddiskvolume";

/// Number of code units of `\device\harddiskvolumeN` at a path's beginning, before the backslash that follows; 0 if the
/// path is on no such volume.
pub fn without_volume(path: impl Iterator<Item = u16>) -> usize {
    let mut path = path.map(fold_unit);
    for expected in VOLUME_PREFIX.bytes() {
        if path.next() != Some(u16::from(expected)) {
            return 0;
        }
    }
    let mut length = VOLUME_PREFIX.len();
    for unit in path {
        match u8::try_from(unit) {
            Ok(digit) if digit.is_ascii_digit() => length += 1,
            Ok(b'\\') if length > VOLUME_PREFIX.len() => return length,
            _ => return 0,
        }
    }
    0
}

/// The IPv4-mapped IPv6 form of an IPv4 address.
#[must_use]
pub const fn map_v4(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, a, b, c, d]
}
