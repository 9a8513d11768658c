//! Run-time identifiers. The engine hands them out; none is ever zero.

use std::fmt;

macro_rules! id {
    ($(#[$meta:meta])* $name:ident($int:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($int);

        impl $name {
            /// The identifier with this number, whether or not anything has it.
            #[must_use]
            pub const fn new(id: $int) -> Self {
                Self(id)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id! {
    /// A filter: `FWPM_FILTER0.filterId`, `FWPS_FILTER0.filterId`.
    FilterId(u64)
}
id! {
    /// A callout: one number for one key, whether it comes from registering or from adding it.
    CalloutId(u32)
}
id! {
    /// A provider context: `FWPM_PROVIDER_CONTEXT0.providerContextId`, and the context of filters that name it.
    ProviderContextId(u64)
}
id! {
    /// A session: what an engine handle stands for.
    SessionId(u64)
}
id! {
    /// A data flow: the value of the `FLOW_HANDLE` metadata.
    FlowId(u64)
}
id! {
    /// A subscription to changes of the base filtering engine's state.
    SubscriptionId(u64)
}
