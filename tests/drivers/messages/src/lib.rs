//! What a conformance test tells the conformance driver, and what that answers.
//!
//! Each [`Message`] is an I/O control request whose reply is a [`Reply`]; [`TakeRecords`] is answered with
//! [`Record`]s behind it. Objects of the driver (sessions, handles, packets, what is pended) are named by the
//! slot of a table that the test chooses. Numbers have the byte order of the machine, for both ends are on it;
//! GUIDs are the 16 bytes that they have in memory; constants are those of the WDK's headers.

#![no_std]
#![forbid(unsafe_code)]

mod objects;
mod record;
mod script;
mod traffic;

pub use objects::{
    AddCallout, AddFilter, AddProvider, AddSubLayer, Begin, Close, Condition, Delete, End, Open,
    Query, Register, Unregister, object, option,
};
pub use record::{Record, kind};
pub use script::{Notify, OPERATIONS, Operation, STEPS, Script, Step, operation};
pub use traffic::{
    Bfe, Complete, FlowContext, HandleCreate, HandleDestroy, Inject, MakePacket, Signal,
    TakeRecords, bfe, completion, flow, handle, point, signal,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the driver's device.
pub const DEVICE_NAME: &str = r"\Device\WfpConformance";
/// Its symbolic link.
pub const SYMBOLIC_LINK_NAME: &str = r"\DosDevices\WfpConformance";
/// Its name for `CreateFile`.
pub const WIN32_PATH: &str = r"\\.\WfpConformance";

/// `FILE_DEVICE_NETWORK`.
pub const DEVICE_TYPE: u32 = 0x12;

/// `CTL_CODE(FILE_DEVICE_NETWORK, function, METHOD_BUFFERED, FILE_ANY_ACCESS)`.
const fn control_code(function: u32) -> u32 {
    DEVICE_TYPE << 16 | function << 2
}

/// A request's input, known by its control code.
pub trait Message: FromBytes + IntoBytes + Immutable + KnownLayout {
    /// The control code.
    const CODE: u32;
}

macro_rules! messages {
    ($($number:literal $message:ident;)*) => {
        $(impl Message for $message {
            const CODE: u32 = control_code($number);
        })*
    };
}

messages! {
    0x800 Open;
    0x801 Close;
    0x802 Begin;
    0x803 End;
    0x804 AddProvider;
    0x805 AddSubLayer;
    0x806 AddCallout;
    0x807 AddFilter;
    0x808 Delete;
    0x809 Query;
    0x80a Register;
    0x80b Unregister;
    0x80c Script;
    0x80d Notify;
    0x80e TakeRecords;
    0x80f FlowContext;
    0x810 HandleCreate;
    0x811 HandleDestroy;
    0x812 Complete;
    0x813 MakePacket;
    0x814 Inject;
    0x815 Bfe;
    0x816 Signal;
}

/// At which level a request's call is made: the driver raises it from `PASSIVE_LEVEL`.
pub const DISPATCH: u32 = 2;

/// What a call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reply {
    /// `NTSTATUS` of the call; of a function without one, success.
    pub status: u32,
    /// How many [`Record`]s follow.
    pub records: u32,
    /// What else the call gave, such as an identifier.
    pub values: [u64; 4],
    /// Keys that the call gave.
    pub keys: [[u8; 16]; 2],
}

impl Reply {
    /// The reply of a call that gave a status only.
    #[must_use]
    pub const fn status(status: u32) -> Self {
        Self {
            status,
            records: 0,
            values: [0; 4],
            keys: [[0; 16]; 2],
        }
    }

    /// The same with a value.
    #[must_use]
    pub const fn value(status: u32, value: u64) -> Self {
        let mut reply = Self::status(status);
        reply.values[0] = value;
        reply
    }
}
