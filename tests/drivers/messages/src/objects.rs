//! Sessions, transactions, and objects of the filter engine; registered callouts.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Kinds of objects, and how one is named.
pub mod object {
    /// A provider by its key.
    pub const PROVIDER: u32 = 1;
    /// A sublayer by its key.
    pub const SUBLAYER: u32 = 2;
    /// A callout by its key.
    pub const CALLOUT: u32 = 3;
    /// A callout by its identifier.
    pub const CALLOUT_ID: u32 = 4;
    /// A filter by its key.
    pub const FILTER: u32 = 5;
    /// A filter by its identifier.
    pub const FILTER_ID: u32 = 6;
    /// A layer by its identifier.
    pub const LAYER_ID: u32 = 7;
}

/// Options of messages.
pub mod option {
    /// The object's `displayData.name` is NULL.
    pub const UNNAMED: u32 = 1;
    /// The callout has a `flowDeleteFn`.
    pub const FLOW_DELETE: u32 = 1;
}

macro_rules! message {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
    )*};
}
pub(crate) use message;

message! {
    /// `FwpmEngineOpen0`.
    Open {
        /// Slot of the session.
        session: u32,
        /// `FWPM_SESSION_FLAG_*`.
        flags: u32,
        /// `txnWaitTimeoutInMSec`.
        wait: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
        /// `sessionKey`.
        key: [u8; 16],
    }
    /// `FwpmEngineClose0`.
    Close {
        /// Slot of the session.
        session: u32,
    }
    /// `FwpmTransactionBegin0`.
    Begin {
        /// Slot of the session.
        session: u32,
        /// `FWPM_TXN_READ_ONLY` or 0.
        flags: u32,
    }
    /// `FwpmTransactionCommit0` or `FwpmTransactionAbort0`.
    End {
        /// Slot of the session.
        session: u32,
        /// Whether to commit.
        commit: u32,
    }
    /// `FwpmProviderAdd0`.
    AddProvider {
        /// Slot of the session.
        session: u32,
        /// `FWPM_PROVIDER_FLAG_*`.
        flags: u32,
        /// [`option`].
        options: u32,
        /// Nothing.
        reserved: u32,
        /// Key.
        key: [u8; 16],
    }
    /// `FwpmSubLayerAdd0`.
    AddSubLayer {
        /// Slot of the session.
        session: u32,
        /// `FWPM_SUBLAYER_FLAG_*`.
        flags: u32,
        /// [`option`].
        options: u32,
        /// Weight.
        weight: u32,
        /// Key.
        key: [u8; 16],
        /// The provider's key; zeros for none.
        provider: [u8; 16],
    }
    /// `FwpmCalloutAdd0`; its value is the identifier.
    AddCallout {
        /// Slot of the session.
        session: u32,
        /// `FWPM_CALLOUT_FLAG_*`.
        flags: u32,
        /// [`option`].
        options: u32,
        /// Nothing.
        reserved: u32,
        /// Key.
        key: [u8; 16],
        /// The layer's key.
        layer: [u8; 16],
        /// The provider's key; zeros for none.
        provider: [u8; 16],
    }
    /// A condition of a filter.
    Condition {
        /// `fieldKey`.
        field: [u8; 16],
        /// `FWP_MATCH_TYPE`.
        match_type: u32,
        /// `FWP_DATA_TYPE` of the value.
        value_type: u32,
        /// `FWP_DATA_TYPE` of a range's bounds.
        bounds_type: u32,
        /// How many of `bytes` count; of an IPv6 prefix its bits.
        length: u32,
        /// The number; a range's lower bound; an IPv4 address and, in the upper half, its mask.
        number: u64,
        /// A range's upper bound.
        upper: u64,
        /// A blob, or the 16 bytes of an address.
        bytes: [u8; 64],
    }
    /// `FwpmFilterAdd0`; its value is the identifier.
    AddFilter {
        /// Slot of the session.
        session: u32,
        /// `FWPM_FILTER_FLAG_*`.
        flags: u32,
        /// [`option`].
        options: u32,
        /// `FWP_ACTION_TYPE`.
        action: u32,
        /// `FWP_DATA_TYPE` of the weight.
        weight_type: u32,
        /// How many of `conditions` there are.
        condition_count: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
        /// Nothing.
        reserved: u32,
        /// Weight.
        weight: u64,
        /// Key.
        key: [u8; 16],
        /// The layer's key.
        layer: [u8; 16],
        /// The sublayer's key.
        sublayer: [u8; 16],
        /// The callout's key.
        callout: [u8; 16],
        /// The provider's key; zeros for none.
        provider: [u8; 16],
        /// Conditions.
        conditions: [Condition; 4],
    }
    /// `Fwpm*DeleteBy*0`.
    Delete {
        /// Slot of the session.
        session: u32,
        /// [`object`].
        object: u32,
        /// Identifier.
        id: u64,
        /// Key.
        key: [u8; 16],
    }
    /// `Fwpm*GetBy*0`.
    ///
    /// Of a filter the values are its identifier, its weight, its effective weight and its flags, the
    /// keys its own and its sublayer's; of a layer the key is that of its default sublayer; of other objects their own.
    Query {
        /// Slot of the session.
        session: u32,
        /// [`object`].
        object: u32,
        /// Identifier.
        id: u64,
        /// Key.
        key: [u8; 16],
    }
    /// `FwpsCalloutRegister2`; its value is the identifier.
    Register {
        /// Slot of the callout, to which [`Script`](crate::Script) and [`Notify`](crate::Notify) belong.
        callout: u32,
        /// `FWP_CALLOUT_FLAG_*`.
        flags: u32,
        /// [`option`].
        options: u32,
        /// [`DISPATCH`](crate::DISPATCH) or 0.
        irql: u32,
        /// Key.
        key: [u8; 16],
    }
    /// `FwpsCalloutUnregisterById0`, or `FwpsCalloutUnregisterByKey0` if the identifier is 0.
    Unregister {
        /// Identifier.
        id: u32,
        /// Nothing.
        reserved: u32,
        /// Key.
        key: [u8; 16],
    }
}
