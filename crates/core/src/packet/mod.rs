//! Packets: what is in them, changing their headers, and which are to be changed or shaped.
//!
//! [`Headers`] walk a packet's headers, a [`Layout`] says where what is in it, an [`Edit`] changes its headers with their checksums, and [`Paths`] know what a
//! rule does to the packets of a connection. A [`Quote`] is what an ICMP error quotes of one. [`Segments`] split what was left to a network card to split. A packet's
//! IP header, where that is not known, is [`Sought`].

mod checksum;
mod edit;
mod header;
mod hops;
mod news;
mod path;
mod quote;
mod segment;
mod sought;

pub use checksum::{Sum, update};
pub use edit::{Checksums, Edit, NotEditable, complete, transport_sum};
pub use header::{Fragment, HEADERS, Headers, Layout, Malformed};
pub use hops::Hops;
pub use news::{Done, Dropped, PathNews, Treated};
pub use path::{NoPath, PACKET_EFFECTS, PathBucket, Paths, Ticket, Treatment};
pub use quote::Quote;
pub use segment::Segments;
pub use sought::Sought;
