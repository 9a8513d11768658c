//! Types of values and of matches.

code! {
    /// `FWP_DATA_TYPE`. Values wider than four bytes are pointers in `FWP_VALUE0`.
    pub enum DataType;
    /// No value: the field is unknown at this classify.
    Empty = 0, "EMPTY";
    /// One byte, unsigned.
    Uint8 = 1, "UINT8";
    /// Two bytes, unsigned; ports are in host order.
    Uint16 = 2, "UINT16";
    /// Four bytes, unsigned; IPv4 addresses are in host order.
    Uint32 = 3, "UINT32";
    /// Eight bytes, unsigned.
    Uint64 = 4, "UINT64";
    /// One byte, signed.
    Int8 = 5, "INT8";
    /// Two bytes, signed.
    Int16 = 6, "INT16";
    /// Four bytes, signed.
    Int32 = 7, "INT32";
    /// Eight bytes, signed.
    Int64 = 8, "INT64";
    /// Single precision.
    Float = 9, "FLOAT";
    /// Double precision.
    Double = 10, "DOUBLE";
    /// Sixteen bytes, such as an IPv6 address in network order.
    ByteArray16 = 11, "BYTE_ARRAY16_TYPE";
    /// Bytes of any length.
    ByteBlob = 12, "BYTE_BLOB_TYPE";
    /// A security identifier.
    Sid = 13, "SID";
    /// A self-relative security descriptor, in a blob. Of a condition.
    SecurityDescriptor = 14, "SECURITY_DESCRIPTOR_TYPE";
    /// A token's groups. Of a field.
    TokenInformation = 15, "TOKEN_INFORMATION_TYPE";
    /// A token's access information, in a blob. Of a field.
    TokenAccessInformation = 16, "TOKEN_ACCESS_INFORMATION_TYPE";
    /// A NUL-terminated UTF-16 string.
    UnicodeString = 17, "UNICODE_STRING_TYPE";
    /// Six bytes, such as a MAC address.
    ByteArray6 = 18, "BYTE_ARRAY6_TYPE";
    /// An IPv4 address and mask, both in host order. Of a condition.
    V4AddrMask = 0x100, "V4_ADDR_MASK";
    /// An IPv6 address and prefix length. Of a condition.
    V6AddrMask = 0x101, "V6_ADDR_MASK";
    /// An inclusive range of two values of one type. Of a condition.
    Range = 0x102, "RANGE_TYPE";
}

impl DataType {
    /// Whether values of the type have an order (`FWP_MATCH_TYPE`'s "sortable").
    #[must_use]
    pub const fn is_sortable(self) -> bool {
        matches!(
            self,
            Self::Uint8
                | Self::Uint16
                | Self::Uint32
                | Self::Uint64
                | Self::Int8
                | Self::Int16
                | Self::Int32
                | Self::Int64
                | Self::ByteArray16
                | Self::ByteBlob
                | Self::UnicodeString
        )
    }

    /// Whether the type is an unsigned integer, the only ones with flags.
    #[must_use]
    pub const fn is_unsigned(self) -> bool {
        matches!(
            self,
            Self::Uint8 | Self::Uint16 | Self::Uint32 | Self::Uint64
        )
    }
}

code! {
    /// `FWP_MATCH_TYPE`: how a condition compares a field (`value`) with its own value (`cond`).
    pub enum MatchType;
    /// `value == cond`, every type.
    Equal = 0, "EQUAL";
    /// `value > cond`, sortable types.
    Greater = 1, "GREATER";
    /// `value < cond`, sortable types.
    Less = 2, "LESS";
    /// `value >= cond`, sortable types.
    GreaterOrEqual = 3, "GREATER_OR_EQUAL";
    /// `value <= cond`, sortable types.
    LessOrEqual = 4, "LESS_OR_EQUAL";
    /// `low <= value <= high`, sortable types.
    Range = 5, "RANGE";
    /// `value & cond == cond`, unsigned types.
    FlagsAllSet = 6, "FLAGS_ALL_SET";
    /// `value & cond != 0`, unsigned types.
    FlagsAnySet = 7, "FLAGS_ANY_SET";
    /// `value & cond == 0`, unsigned types.
    FlagsNoneSet = 8, "FLAGS_NONE_SET";
    /// Equal apart from case, Unicode strings.
    EqualCaseInsensitive = 9, "EQUAL_CASE_INSENSITIVE";
    /// `value != cond`, sortable types.
    NotEqual = 10, "NOT_EQUAL";
    /// The value *ends* with `cond`, strings and blobs that hold one. The name misleads.
    Prefix = 11, "PREFIX";
    /// The value does not end with `cond`.
    NotPrefix = 12, "NOT_PREFIX";
}
