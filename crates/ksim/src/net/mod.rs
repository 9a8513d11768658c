//! The network stack of a simulated host: packets in, WFP layer indications out, in Windows's order.
//!
//! A [`Host`] takes IP packets with their times, as a capture has them, and works out what each meant to the
//! host: which end is local, who began the flow, what is a connection, what of a stream is in order. It shows
//! every step to a [`Filtering`] and enforces the answers. It knows nothing of filters, callouts or their
//! ABI.
//!
//! ```text
//! key, flow       which packets belong together
//! packet          where a packet's headers are
//! fragments       datagrams out of fragments
//! path            a packet's way through the layers ─┬─ ale     authorization, beginning and end of flows
//!                                                    └─ tcp     connections
//!                                                         ├─ reassembly  data in order
//!                                                         └─ stream      the waterfall of stream callouts
//! indicator       field values and metadata of each layer, from the schema
//! inject          what drivers send back
//! ```
//!
//! # What a replay makes of Windows's rules
//!
//! - A capture can't be changed by a verdict, so whatever it shows of a blocked flow afterwards is counted
//!   as blocked too and not indicated: packets of a refused or dropped TCP connection until a new SYN
//!   (a peer that repeats its SYN is asked about again), and answers to refused datagrams. Each further
//!   datagram of the refused direction is classified again, as Windows does without a flow.
//! - A connection that is joined in the middle is authorized and established by its first packet.
//! - A flow with both ends on this host is seen from the side of the one who began it. (Windows shows both
//!   sides, with two flows.)
//! - Endpoints are bound, and listen, when their first packet shows that they exist. A datagram socket
//!   that only ever asked closes when the last of its flows has fallen idle; one that was addressed by others,
//!   and a listening socket, close at [`Host::finish`].
//! - Multicast and broadcast have ordinary flows; a group that nobody local sends to is the local end.
//! - Segments whose data waits in the waterfall (`NEED_MORE_DATA`, `DEFER`) have passed: the stack has
//!   accepted them. A segment is blocked if all data that it brought into order was.
//! - ICMP errors are shown at the packet and transport layers only; discard and redirect layers and
//!   `IPFORWARD` are not indicated.
//! - Outbound fragments are put together first, since only inbound paths show fragments.

mod ale;
mod change;
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
mod stream;
mod tcp;

pub use endpoint::{Opened, Socket};
pub use host::{Arrival, Host, IDLE_TIMEOUT, Setup};
pub use indicate::{
    ClassifyOptions, End, Filtering, FlowInfo, Indication, InjectionMark, Outcome, PacketData,
    PacketId, StageId, StreamOutcome, StreamSegment, Ticks, Token, Value, Verdict,
};
pub use inject::{Injection, InjectionPoint};
pub use interface::{Interface, Interfaces};
pub use key::{Ends, Link, flow_hash, sender_begins};
pub use local::{Discovery, Found, LocalSide, Scope};
pub use metadata::{Discard, FragmentData, LinkMetadata, Metadata};
pub use output::Output;
pub use packet::{Malformed, Packet};
pub use process::{BadSid, Identity, IdentityId, Processes, Sid, nt_path};
pub use redirect::{Completion, Redirection, Request};
pub use report::{Counters, FlowIndex, FlowReport, PacketReport, Reason};

#[cfg(test)]
mod tests;
