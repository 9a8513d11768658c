//! Where a packet's IP header is, when that is not known.
//!
//! At the discard layers of the network layers a packet's data begins
//! [where the stack stopped](https://learn.microsoft.com/windows-hardware/drivers/network/data-offset-positions): at its IP
//! header, behind that, or behind the transport header too. The headers before are still there, so the IP header is looked for
//! at the places where it can be.

use core::net::IpAddr;

use super::header::Headers;

/// Bytes of an IPv4 header without options.
const V4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers.
const V6_HEADER: usize = 40;
/// Bytes of a transport header that a stack may have passed without saying so: of UDP and ICMP, and of TCP without options.
const TRANSPORTS: [usize; 2] = [8, 20];

/// What is known of a packet whose IP header is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Sought {
    /// The ends' addresses; one of them is the source.
    pub ends: [IpAddr; 2],
    /// Bytes of its IP header with options or extension headers, if that is known.
    pub ip: Option<usize>,
    /// Bytes of its transport header, if that is known.
    pub transport: Option<usize>,
}

/// How well bytes fit what is sought.
enum Fit {
    /// An IP header of the packet's source, but of another length: the packet is cut off, or was discarded for that.
    Header,
    /// So is the length.
    Packet,
}

impl Sought {
    /// So many bytes are looked at from each place on.
    pub const FIRST: usize = V6_HEADER;

    /// How many bytes before the data's start the packet's IP header begins. `usual` is where it should be.
    ///
    /// `read` gives the bytes from so many before the data's start on, as many as there are up to the array's length, and
    /// returns their number and how many follow the place in all; `None` if the packet has not so many before its start. It
    /// is called for a few places. Of several that fit, one where the packet's length fits too is taken, and the first.
    pub fn find(
        &self,
        usual: usize,
        read: impl Fn(usize, &mut [u8; Self::FIRST]) -> Option<(usize, usize)>,
    ) -> Option<usize> {
        let is_v4 = self.ends.iter().all(|end| end.to_canonical().is_ipv4());
        let least = if is_v4 { V4_HEADER } else { V6_HEADER };
        let ip = self.ip.unwrap_or(least);
        let behind = |transport| ip.saturating_add(transport);
        let [short, long] = TRANSPORTS;
        let places = [
            usual,
            0,
            ip,
            behind(self.transport.unwrap_or(0)),
            behind(short),
            behind(long),
        ];
        let mut found = None;
        for (index, &before) in places.iter().enumerate() {
            // What is not known makes some of them the same.
            if places.iter().take(index).any(|&seen| seen == before) {
                continue;
            }
            let mut first = [0; Self::FIRST];
            let Some((count, length)) = read(before, &mut first) else {
                continue;
            };
            let bytes = first.get(..count).unwrap_or(&first);
            match self.fit(bytes, length) {
                Some(Fit::Packet) => return Some(before),
                Some(Fit::Header) => {
                    found.get_or_insert(before);
                }
                None => {}
            }
        }
        found
    }

    /// How the first bytes of so many fit.
    fn fit(&self, bytes: &[u8], length: usize) -> Option<Fit> {
        let headers = Headers::walk(bytes).ok()?;
        let is_source = |end: &IpAddr| end.to_canonical() == headers.source;
        if !self.ends.iter().any(is_source) {
            return None;
        }
        let total = headers.total.unwrap_or(length);
        let is_whole = headers.length <= total && total <= length;
        Some(if is_whole { Fit::Packet } else { Fit::Header })
    }
}
