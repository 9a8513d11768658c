//! What Portcullis decides: policy, flows, inspection and events, as plain data in and verdicts out.
//!
//! The driver's callouts take their layer's fields, call [`Portcullis`], and write what it answers. This crate knows
//! nothing of Windows: it runs, and is tested, anywhere. Its rules:
//!
//! - Nothing here allocates, blocks or recurses, and every loop has a bound that is stated.
//! - Every byte from the network or from user mode is hostile: no input panics, and no unsafe code exists.
//! - Storage is the caller's: flow slots and event records are handed in, locks are a type parameter.
//! - Locks are held for one flow, or for one event, at a time; never two of a kind, and never while calling out to
//!   anything but the policy source and the iterator over the bytes at hand.
//!
//! One way through: [`connection`] says what is known of a connection, [`policy`] decides it, [`flow`] remembers it,
//! [`inspect`] finds its host name, [`engine`] ties these together, [`ask`] keeps what somebody is asked about, [`events`]
//! and [`statistics`] tell of it, [`capture`] shows its packets.
#![no_std]
#![forbid(unsafe_code)]

pub mod ask;
pub mod capture;
pub mod connection;
mod cut;
pub mod endpoint;
pub mod engine;
pub mod events;
pub mod flow;
mod flow_index;
mod free_list;
mod handle;
pub mod inspect;
pub mod packet;
pub mod policy;
pub mod process;
pub mod redirect;
pub mod shape;
pub mod statistics;
pub mod stream;

pub use ask::{Asking, Ruling, Subject, Terms, Ticket};
pub use capture::{CaptureFilter, CaptureRing, Ends, MirrorBucket, MirrorTable, PacketSummary};
pub use connection::{Application, Binding, Connection, Endpoint, Listener, Socket};
pub use cut::{Cut, MAX_DATAGRAMS};
pub use endpoint::EndpointBucket;
pub use engine::{
    Asked, Clock, DatagramVerdict, Detour, Discarded, EventSink, IcmpError, Indication, Look,
    NotFollowed, Parts, PolicySource, Portcullis, Question, StreamVerdict, Treatment, behind,
};
pub use events::EventRing;
pub use flow::{FlowHandle, FlowSlot, FlowStorage, FlowTable, Transfer};
pub use inspect::{AssemblyPool, AssemblySlot};
pub use policy::boot;
pub use policy::{
    ContentMatch, ContentState, Decision, Effect, Host, Policy, PolicyError, PolicyView, Transfers,
};
pub use portcullis_proto::effect::{EffectKind, EffectSet};
pub use portcullis_proto::policy::{Action, Direction};
pub use process::{Ancestry, PathSlot, ProcessSlot, ProcessTable};
pub use redirect::{Origin, OriginSlot, Origins, Proxies, Proxy, Way};
pub use statistics::Statistics;
