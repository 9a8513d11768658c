//! The network stack of a simulated host: packets in, WFP layer indications out, in Windows's order.
//!
//! A [`Host`] takes IP packets with their times, as a capture has them, and works out what each meant to the
//! host: which end is local, who began the flow, what is a connection, what of a stream is in order. It shows
//! every step to a [`Filtering`] and enforces the answers. It knows nothing of filters, callouts or their
//! ABI.
//!
//! ```text
//! key, flow, lookup   which packets belong together
//! packet, rewrite     where a packet's headers are, and packets with other ends
//! fragments           datagrams out of fragments
//! link                frames, below IP
//! path, sending       a packet's way through the layers ─┬─ ale         authorization, beginning and end of flows
//!                                                        ├─ endpoint    binds and listens
//!                                                        ├─ redirecting where binds and connections go instead
//!                                                        ├─ icmp        errors, answers to closed ports
//!                                                        └─ tcp         connections
//!                                                             ├─ reassembly  data in order
//!                                                             └─ stream      the waterfall of stream callouts
//! forward             packets between others
//! group               multicast and broadcast
//! pend                what callouts delay
//! change              interfaces, profiles, routes, sleep
//! plan, conversation, indicator
//!                     field values and metadata of each layer, from the schema
//! card, batch         what the network card does, datagrams that are one packet
//! inject, output      what drivers send back, and what leaves the stack
//! journal             what comes through it, packet for packet
//! ```
//!
//! # What is made of Windows's rules
//!
//! - A capture can't be changed by a verdict, so whatever it shows of a blocked flow afterwards is counted
//!   as blocked too and not indicated: packets of a refused or dropped TCP connection until a new SYN
//!   (a peer that repeats its SYN is asked about again), and answers to refused datagrams. Each further
//!   datagram of the refused direction is classified again, as Windows does without a flow.
//! - A connection that is joined in the middle is authorized and established by its first packet.
//! - Both ends of a loopback flow are shown, each with a flow of its own; one report counts both. A capture may
//!   be of several hosts that are all taken for this one: a replay shows the end that began
//!   ([`Setup::both_halves`]).
//! - Endpoints are bound, and listen, when their first packet shows that they exist, unless [`Host::open`] or
//!   [`Setup::sockets`] tells. A datagram socket that only ever asked closes when the last of its flows has
//!   fallen idle; one that was addressed by others, and a listening socket, close at [`Host::finish`].
//! - All inbound multicast and broadcast of a version is one flow; ends that it has not had before are a
//!   reauthorization of it (`NEW_INBOUND_MCAST_BCAST_PACKET`), known ends are not. A replay keeps
//!   conversations apart ([`Setup::group_flows`]).
//! - Segments whose data waits in the waterfall (`NEED_MORE_DATA`, `DEFER`) have passed: the stack has
//!   accepted them. A segment is blocked if all data that it brought into order was. Urgent data is in order
//!   with the rest; the whole of what its segment brought is marked as expedited.
//! - `STREAM_PACKET` stands where the segment belongs to a flow: inbound behind ALE, outbound before
//!   `OUTBOUND_TRANSPORT`. The discard layers of `STREAM` are reserved and never shown.
//! - The redirect layers see what asks here, not connections that are joined in the middle. TCP, UDP and raw
//!   protocols are rewritten; of ICMP the question is, and an answer from elsewhere is a flow of its own. A
//!   redirect to a local process is authorized for its first destination too.
//! - Forwarded packets come to `IPFORWARD` only. What a callout absorbs there goes on when it is injected.
//! - While an interface is down, or the host sleeps, packets are lost; nothing is indicated, nothing ends.
//! - Outbound fragments are put together first, since only inbound and forwarding paths show fragments.
//! - A virtual switch has no forwarding extension and no tenants' networks: a frame goes where its address is.
//! - Of outbound fragments, which are put together first, no frame is shown.

mod ale;
mod batch;
mod card;
mod change;
mod conversation;
mod endpoint;
mod flow;
mod forward;
mod fragmented;
mod fragments;
mod group;
mod host;
mod icmp;
pub mod indicate;
mod indicator;
mod inject;
mod interface;
mod journal;
mod key;
mod link;
mod local;
mod lookup;
mod metadata;
mod output;
pub mod packet;
mod path;
mod pend;
mod plan;
mod process;
mod reassembly;
mod redirect;
mod redirecting;
mod report;
mod rewrite;
mod sending;
mod stream;
mod switch;
mod tcp;

pub use card::Offload;
pub(crate) use card::finish;
pub use endpoint::{Opened, Socket};
pub(crate) use host::shard_of;
pub use host::{Arrival, Host, IDLE_TIMEOUT, Setup};
pub use indicate::{
    ClassifyOptions, End, Filtering, FlowInfo, Indication, InjectionMark, MAX_MORE, Outcome,
    PacketData, PacketId, StageId, StreamInjection, StreamOutcome, StreamSegment, Ticks, Token,
    Value, Verdict,
};
pub use inject::{Injection, InjectionPoint, Sender};
pub use interface::{Interface, Interfaces};
pub use journal::Passage;
pub use key::{Ends, Link, flow_hash, sender_begins};
pub use local::{Discovery, Found, LocalSide, Scope};
pub use metadata::{Discard, FragmentData, LinkMetadata, Metadata};
pub use output::Output;
pub use packet::{Malformed, Packet};
pub use process::{BadSid, Identity, IdentityId, Processes, Sid, nt_path};
pub use redirect::{Completion, Redirection, Request};
pub use report::{Counters, FlowIndex, FlowReport, PacketReport, Reason};
pub use switch::{PortKind, Switch, SwitchNetwork, SwitchPort};

#[cfg(test)]
mod tests;
