//! From a captured frame to the IP packet in it.

use super::{Frame, LinkType};

/// Why a frame holds no IP packet that can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LinkError {
    /// Another protocol than IP, such as ARP.
    #[error("not an IP packet")]
    NotIp,
    /// The frame ends before its IP packet begins.
    #[error("frame shorter than its link-layer header")]
    TooShort,
    /// A link type that this program does not know.
    #[error("link type {0} is not supported")]
    Unsupported(u16),
}

impl LinkType {
    /// Ethernet.
    pub const ETHERNET: Self = Self(ETHERNET);
}

const NULL: u16 = 0;
const ETHERNET: u16 = 1;
const RAW: u16 = 101;
const LOOP: u16 = 108;
const LINUX_SLL: u16 = 113;
const IPV4: u16 = 228;
const IPV6: u16 = 229;
const LINUX_SLL2: u16 = 276;
const CISCO_HDLC: u16 = 104;
const PPP: u16 = 9;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad and the older double-tagging types.
const ETHERTYPES_VLAN: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// The id in a tag; the rest is its priority.
const VLAN_ID: u16 = 0x0fff;
const ETHERTYPE_PPPOE_SESSION: u16 = 0x8864;
const ETHERTYPE_MPLS: u16 = 0x8847;
/// More tags or labels than this are nobody's traffic.
const MAX_TAGS: usize = 8;

/// The IP packet of `frame`, without link-layer trailer bytes beyond what was captured.
///
/// # Errors
/// [`LinkError`] when there is none.
pub fn ip_packet<'a>(frame: &Frame<'a>) -> Result<&'a [u8], LinkError> {
    let data = frame.data;
    match frame.link {
        LinkType(ETHERNET) => ethertype(data, 12),
        LinkType(LINUX_SLL) => ethertype(data, 14),
        LinkType(LINUX_SLL2) => of_type(be16(data, 0)?, data, 20),
        LinkType(CISCO_HDLC) => of_type(be16(data, 2)?, data, 4),
        LinkType(PPP) => ppp(data),
        // The family's number depends on the system that captured; what follows says enough.
        LinkType(NULL | LOOP) => ip(data.get(4..).ok_or(LinkError::TooShort)?),
        LinkType(RAW | IPV4 | IPV6 | 12 | 14) => ip(data),
        LinkType(other) => Err(LinkError::Unsupported(other)),
    }
}

/// The VLAN that `frame` was seen on, as one number: the id of its tag, 0 without a tag.
///
/// The ids of stacked tags are mixed, the innermost unshifted, so that equal inner ids of different providers stay apart.
#[must_use]
pub fn vlan(frame: &Frame<'_>) -> u16 {
    let mut offset = match frame.link {
        LinkType(ETHERNET) => 12,
        LinkType(LINUX_SLL) => 14,
        _ => return 0,
    };
    let mut vlan = 0_u16;
    for _ in 0..MAX_TAGS {
        match (be16(frame.data, offset), be16(frame.data, offset + 2)) {
            (Ok(kind), Ok(tag)) if ETHERTYPES_VLAN.contains(&kind) => {
                vlan = vlan.rotate_left(4) ^ (tag & VLAN_ID);
            }
            _ => break,
        }
        offset += 4;
    }
    vlan
}

fn be16(data: &[u8], offset: usize) -> Result<u16, LinkError> {
    match data.get(offset..offset + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(LinkError::TooShort),
    }
}

/// Follows the type field at `offset` through VLAN tags to the packet.
fn ethertype(data: &[u8], mut offset: usize) -> Result<&[u8], LinkError> {
    for _ in 0..MAX_TAGS {
        let kind = be16(data, offset)?;
        offset += 2;
        if !ETHERTYPES_VLAN.contains(&kind) {
            return of_type(kind, data, offset);
        }
        offset += 2;
    }
    Err(LinkError::NotIp)
}

fn of_type(kind: u16, data: &[u8], offset: usize) -> Result<&[u8], LinkError> {
    let rest = data.get(offset..).ok_or(LinkError::TooShort)?;
    match kind {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => ip(rest),
        ETHERTYPE_PPPOE_SESSION => ppp(rest.get(6..).ok_or(LinkError::TooShort)?),
        ETHERTYPE_MPLS => mpls(rest),
        _ => Err(LinkError::NotIp),
    }
}

fn ppp(data: &[u8]) -> Result<&[u8], LinkError> {
    let data = data.strip_prefix(&[0xff, 0x03]).unwrap_or(data);
    match be16(data, 0)? {
        0x0021 | 0x0057 => ip(&data[2..]),
        _ => Err(LinkError::NotIp),
    }
}

fn mpls(mut data: &[u8]) -> Result<&[u8], LinkError> {
    for _ in 0..MAX_TAGS {
        let (label, rest) = data.split_at_checked(4).ok_or(LinkError::TooShort)?;
        data = rest;
        // The bottom-of-stack bit.
        if label[2] & 1 == 1 {
            return ip(data);
        }
    }
    Err(LinkError::NotIp)
}

/// Checks that `data` begins like an IP packet.
const fn ip(data: &[u8]) -> Result<&[u8], LinkError> {
    match data {
        [first, ..] if *first >> 4 == 4 || *first >> 4 == 6 => Ok(data),
        [] => Err(LinkError::TooShort),
        _ => Err(LinkError::NotIp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: [u8; 3] = [0x45, 0, 0];

    fn strip(link: u16, header: &[u8]) -> Result<Vec<u8>, LinkError> {
        let data = [header, &IP].concat();
        ip_packet(&Frame {
            link: LinkType(link),
            time: 0,
            original_length: 0,
            data: &data,
        })
        .map(<[u8]>::to_vec)
    }

    #[test]
    fn every_supported_link_layer_leads_to_its_ip_packet() {
        let mut ethernet = vec![0; 12];
        ethernet.extend([0x08, 0x00]);
        let mut vlan = vec![0; 12];
        vlan.extend([0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6, 0x08, 0x00]);
        let mut cooked = vec![0; 14];
        cooked.extend([0x08, 0x00]);
        let mut cooked2 = vec![0x08, 0x00];
        cooked2.extend([0; 18]);
        let mut pppoe = vec![0; 12];
        pppoe.extend([0x88, 0x64, 0x11, 0, 0, 1, 0, 5, 0x00, 0x21]);
        for (link, header) in [
            (ETHERNET, ethernet),
            (ETHERNET, vlan),
            (ETHERNET, pppoe),
            (LINUX_SLL, cooked),
            (LINUX_SLL2, cooked2),
            (NULL, vec![2, 0, 0, 0]),
            (LOOP, vec![0, 0, 0, 2]),
            (RAW, vec![]),
            (CISCO_HDLC, vec![0x0f, 0, 0x08, 0x00]),
            (PPP, vec![0xff, 0x03, 0x00, 0x21]),
        ] {
            assert_eq!(
                strip(link, &header).as_deref(),
                Ok(&IP[..]),
                "link type {link}"
            );
        }
    }

    #[test]
    fn a_vlan_is_known_by_its_tags() {
        let vlan_of = |link, header: &[u8]| {
            vlan(&Frame {
                link: LinkType(link),
                time: 0,
                original_length: 0,
                data: header,
            })
        };
        let tagged = |tags: &[u8]| [&[0; 12][..], tags, &[0x08, 0x00]].concat();
        assert_eq!(vlan_of(ETHERNET, &tagged(&[])), 0);
        assert_eq!(
            vlan_of(ETHERNET, &tagged(&[0x81, 0, 0xe0, 7])),
            7,
            "the priority is no part of the id"
        );
        let outer_5 = vlan_of(ETHERNET, &tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7]));
        let outer_6 = vlan_of(ETHERNET, &tagged(&[0x88, 0xa8, 0, 6, 0x81, 0, 0, 7]));
        assert_ne!(outer_5, outer_6);
        assert_eq!(
            vlan_of(
                LINUX_SLL,
                &[&[0; 14][..], &[0x81, 0, 0, 9, 0x08, 0x00]].concat()
            ),
            9
        );
        assert_eq!(vlan_of(ETHERNET, &[0; 13]), 0);
        assert_eq!(vlan_of(RAW, &[0x45, 0x81, 0]), 0);
    }

    #[test]
    fn frames_without_ip_say_why() {
        let mut arp = vec![0; 12];
        arp.extend([0x08, 0x06]);
        assert_eq!(strip(ETHERNET, &arp), Err(LinkError::NotIp));
        assert_eq!(strip(ETHERNET, &[0; 5]), Err(LinkError::TooShort));
        assert_eq!(strip(9999, &[]), Err(LinkError::Unsupported(9999)));
    }
}
