//! The walk over IP's headers: packets made of known headers, cut at any place, and any bytes.

use portcullis_core::PacketSummary;
use portcullis_core::packet::{Fragment, Headers, Layout};
use proptest::prelude::*;
use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP_V6: u8 = 58;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
/// Headers whose length is in units of eight bytes, the first not counted.
const PLAIN: [u8; 6] = [0, 43, 60, 135, 139, 140];

/// One extension header: its number, and how many units it has beyond the least.
type Extension = (u8, u8);

/// What a packet is made of, and so what must be found in it.
#[derive(Clone, Debug)]
struct Made {
    is_v6: bool,
    /// IPv4 options, in words of four bytes.
    options: usize,
    has_source_route: bool,
    extensions: Vec<Extension>,
    fragment: Fragment,
    protocol: u8,
    ports: [u8; 4],
    addresses: [u8; 32],
    data: usize,
    padding: usize,
}

impl Made {
    /// Bytes, and how many of them are before the transport header.
    fn bytes(&self) -> (Vec<u8>, usize) {
        let mut transport = self.ports.to_vec();
        transport.resize(20 + self.data, 0x80);
        let mut packet = Vec::new();
        if self.is_v6 {
            packet.extend([0x60, 0, 0, 0, 0, 0, 0, 9]);
            packet.extend(self.addresses);
            // Where the number of what comes next is written.
            let mut next = 6;
            for &(number, units) in &self.extensions {
                packet[next] = number;
                next = packet.len();
                packet.extend(extension(number, units, self.fragment));
            }
            packet[next] = self.protocol;
        } else {
            let header = 20 + 4 * self.options;
            packet.extend([0x40 | u8::try_from(header / 4).unwrap(), 0, 0, 0, 0, 0]);
            packet.extend(match self.fragment {
                Fragment::Whole => [0x40, 0],
                Fragment::First => [0x20, 0],
                Fragment::Later => [0, 5],
            });
            packet.extend([9, self.protocol, 0, 0]);
            packet.extend(&self.addresses[..8]);
            packet.resize(header, 1);
            if self.has_source_route {
                packet[21..24].copy_from_slice(&[137, 3, 4]);
            }
        }
        let header = packet.len();
        packet.extend(transport);
        let total = packet.len();
        if self.is_v6 {
            packet[4..6].copy_from_slice(&u16::try_from(total - 40).unwrap().to_be_bytes());
        } else {
            packet[2..4].copy_from_slice(&u16::try_from(total).unwrap().to_be_bytes());
        }
        packet.resize(total + self.padding, 0xEE);
        (packet, header)
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        if self.is_v6 {
            let (source, destination) = self.addresses.split_at(16);
            let address = |octets: &[u8]| <[u8; 16]>::try_from(octets).unwrap().into();
            (address(source), address(destination))
        } else {
            let address = |octets: &[u8]| <[u8; 4]>::try_from(octets).unwrap().into();
            (
                address(&self.addresses[..4]),
                address(&self.addresses[4..8]),
            )
        }
    }
}

fn extension(number: u8, units: u8, fragment: Fragment) -> Vec<u8> {
    let mut header = vec![0; 8];
    header[1] = units;
    match number {
        FRAGMENT => {
            header[1] = 0xAB;
            header[2..4].copy_from_slice(match fragment {
                Fragment::Whole => &[0, 0],
                Fragment::First => &[0, 1],
                Fragment::Later => &[0, 9],
            });
        }
        AUTHENTICATION => header.resize(8 + 4 * usize::from(units), 0),
        _ => header.resize(8 + 8 * usize::from(units), 0),
    }
    header
}

fn fragment() -> impl Strategy<Value = Fragment> {
    prop::sample::select(vec![Fragment::Whole, Fragment::First, Fragment::Later])
}

prop_compose! {
    fn made()(
        is_v6 in any::<bool>(), options in 0_usize..=10, has_source_route in any::<bool>(),
        before in prop::collection::vec((prop::sample::select(PLAIN.to_vec()), 0_u8..4), 0..6),
        has_fragment in any::<bool>(),
        behind in prop::collection::vec((prop::sample::select([&PLAIN[..], &[AUTHENTICATION]].concat()), 0_u8..4), 0..6),
        fragment in fragment(), protocol in prop::sample::select(vec![TCP, UDP, SCTP, ICMP_V6, 50, 59]),
        ports in any::<[u8; 4]>(), addresses in any::<[u8; 32]>(), data in 0_usize..40, padding in 0_usize..9,
    ) -> Made {
        let mut extensions = before;
        let fragment = if is_v6 && !has_fragment { Fragment::Whole } else { fragment };
        if has_fragment {
            extensions.push((FRAGMENT, 0));
        }
        // Behind a later piece's fragment header is data.
        if fragment != Fragment::Later {
            extensions.extend(behind);
        }
        let has_source_route = has_source_route && options > 0;
        Made { is_v6, options, has_source_route, extensions, fragment, protocol, ports, addresses, data, padding }
    }
}

proptest! {
    #[test]
    fn a_packet_is_found_to_be_what_it_was_made_of(made in made()) {
        let (packet, header) = made.bytes();
        let headers = Headers::walk(&packet).unwrap();
        prop_assert!(!headers.is_cut);
        prop_assert_eq!((headers.is_v6, headers.length, headers.protocol), (made.is_v6, header, made.protocol));
        prop_assert_eq!((headers.source, headers.destination), made.addresses());
        prop_assert_eq!(headers.fragment, made.fragment);
        prop_assert_eq!(headers.total, Some(packet.len() - made.padding));
        let is_pinned = if made.is_v6 {
            made.extensions.iter().any(|(number, _)| [43, AUTHENTICATION].contains(number))
        } else {
            made.has_source_route
        };
        prop_assert_eq!(headers.is_pinned, is_pinned);
        let transport = headers.transport(&packet);
        if made.fragment == Fragment::Later {
            prop_assert!(transport.is_empty());
        } else {
            prop_assert_eq!(transport, &packet[header..packet.len() - made.padding]);
        }
    }

    #[test]
    fn the_two_views_of_a_packet_say_the_same(made in made()) {
        let (packet, header) = made.bytes();
        let layout = Layout::new_checked(&packet).unwrap();
        let summary = PacketSummary::parse(&packet).unwrap();
        prop_assert_eq!((layout.header, summary.header_length), (header, header));
        prop_assert_eq!((layout.protocol, summary.protocol), (made.protocol, made.protocol));
        prop_assert_eq!(summary.is_later_fragment, made.fragment == Fragment::Later);
        let [a, b, c, d] = made.ports;
        let ports = match made.protocol {
            TCP | UDP | SCTP => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            ICMP_V6 => (a.into(), b.into()),
            _ => (0, 0),
        };
        let none = made.fragment == Fragment::Later;
        prop_assert_eq!((summary.source.port, summary.destination.port), if none { (0, 0) } else { ports });
        // Only whole packets are changed, by the ports of what has a flow.
        let is_plain = [TCP, UDP].contains(&made.protocol) && made.fragment == Fragment::Whole;
        prop_assert_eq!((layout.source.port, layout.destination.port), if is_plain { ports } else { (0, 0) });
        prop_assert_eq!((layout.source.address, layout.destination.address), made.addresses());
        prop_assert_eq!((summary.source.address, summary.destination.address), made.addresses());
    }

    #[test]
    fn what_is_cut_off_says_less_but_nothing_else(made in made(), at in any::<prop::sample::Index>()) {
        let (packet, header) = made.bytes();
        let cut = &packet[..at.index(packet.len())];
        let fixed = if made.is_v6 { 40 } else { 20 };
        let walked = Headers::walk(cut);
        prop_assert_eq!(walked.is_ok(), cut.len() >= fixed);
        let Ok(headers) = walked else { return Ok(()) };
        // What is known of a packet of which only the first bytes are here.
        let layout = Layout::of_first(cut, packet.len());
        prop_assert_eq!(headers.is_cut, cut.len() < header);
        if headers.is_cut {
            prop_assert!(headers.length <= header);
            prop_assert!(headers.transport(cut).is_empty());
            prop_assert!(layout.is_err() || headers.fragment.is_piece());
        } else {
            prop_assert_eq!(headers, Headers::walk(&packet).unwrap());
            prop_assert!(packet[header..].starts_with(headers.transport(cut)));
        }
        if let Ok(layout) = layout && !headers.is_cut {
            prop_assert_eq!(layout, Layout::new_checked(&packet).unwrap());
        }
        // And one that says of itself that it is longer is not whole.
        if cut.len() < packet.len() - made.padding {
            prop_assert!(Layout::new_checked(cut).is_err());
        }
    }

    #[test]
    fn whatever_the_bytes_are_nothing_is_read_that_is_not_there(
        bytes in prop::collection::vec(any::<u8>(), 0..160), first in prop::sample::select(vec![0x45_u8, 0x4F, 0x60]),
        next in prop::option::of(prop::sample::select([&PLAIN[..], &[FRAGMENT, AUTHENTICATION]].concat())),
    ) {
        let mut bytes = bytes;
        if let Some(version) = bytes.first_mut() {
            *version = first;
        }
        if let (Some(next), Some(place)) = (next, bytes.get_mut(6)) {
            *place = next;
        }
        let headers = Headers::walk(&bytes);
        prop_assert_eq!(PacketSummary::parse(&bytes).is_some(), headers.is_ok());
        let Ok(headers) = headers else { return Ok(()) };
        prop_assert!(headers.is_cut || headers.length <= bytes.len());
        let _ = headers.transport(&bytes);
        if let Ok(layout) = Layout::new_checked(&bytes) {
            prop_assert!(layout.header <= layout.total && layout.total <= bytes.len());
            prop_assert_eq!(layout.header, headers.length);
        }
    }
}

#[test]
fn a_chain_is_followed_sixteen_headers_far() {
    let mut made = Made {
        is_v6: true,
        options: 0,
        has_source_route: false,
        extensions: vec![(60, 0); 16],
        fragment: Fragment::Whole,
        protocol: UDP,
        ports: [0, 1, 0, 2],
        addresses: [1; 32],
        data: 0,
        padding: 0,
    };
    let (packet, header) = made.bytes();
    assert_eq!(Layout::new_checked(&packet).unwrap().header, header);
    made.extensions.push((60, 0));
    let (packet, _) = made.bytes();
    assert!(Headers::walk(&packet).unwrap().is_cut);
    assert!(Layout::new_checked(&packet).is_err());
}
