//! Capture files: pcap and pcapng, also gzip-compressed, read frame by frame; pcapng written.

mod link;
mod read;
mod write;

pub use link::{LinkError, ip_packet, vlan};
pub use read::{CaptureError, read, read_from};
pub use write::Writer;

/// A link-layer header type: the `LINKTYPE_` values of <https://www.tcpdump.org/linktypes.html>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

/// A captured frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What its first byte is.
    pub link: LinkType,
    /// Nanoseconds since 1970-01-01 UTC.
    pub time: u64,
    /// Its length on the wire, which `data` may fall short of.
    pub original_length: u32,
    /// The bytes that were kept.
    pub data: &'a [u8],
}
