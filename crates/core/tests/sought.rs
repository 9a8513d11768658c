//! Where a packet's IP header is: it is found wherever the packet's data begins, and nothing else is taken for it.

use portcullis_core::packet::Sought;
use proptest::prelude::*;
use std::net::IpAddr;

/// A packet of which `headroom` bytes, its headers and its data are in one buffer.
#[derive(Clone, Debug)]
struct Made {
    is_v6: bool,
    /// Words of IPv4's options, or destination options of IPv6 of so many times eight bytes.
    options: usize,
    transport: usize,
    data: Vec<u8>,
    headroom: Vec<u8>,
    padding: usize,
}

impl Made {
    fn ends(&self) -> [IpAddr; 2] {
        let ends = if self.is_v6 {
            ["2001:db8::80", "2001:db8::10"]
        } else {
            ["198.51.100.1", "192.0.2.10"]
        };
        ends.map(|end| end.parse().unwrap())
    }

    const fn ip(&self) -> usize {
        if self.is_v6 {
            40 + 8 * self.options
        } else {
            20 + 4 * self.options
        }
    }

    const fn total(&self) -> usize {
        self.ip() + self.transport + self.data.len()
    }

    /// The buffer; the packet begins behind its headroom.
    fn buffer(&self) -> Vec<u8> {
        let mut bytes = self.headroom.clone();
        let word = |number: usize| u16::try_from(number).unwrap().to_be_bytes();
        let next = if self.transport == 8 { 17 } else { 6 };
        let octets = |end: &IpAddr| match end {
            IpAddr::V4(end) => end.octets().to_vec(),
            IpAddr::V6(end) => end.octets().to_vec(),
        };
        if self.is_v6 {
            let first = if self.options == 0 { next } else { 60 };
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(word(self.total() - 40));
            bytes.extend([first, 64]);
            bytes.extend(self.ends().iter().flat_map(octets));
            if let Some(more) = self.options.checked_sub(1) {
                bytes.extend([next, u8::try_from(more).unwrap(), 1, 4, 0, 0, 0, 0]);
                bytes.extend(vec![0; 8 * more]);
            }
        } else {
            bytes.extend([0x45 + u8::try_from(self.options).unwrap(), 0]);
            bytes.extend(word(self.total()));
            bytes.extend([0, 1, 0, 0, 64, next, 0, 0]);
            bytes.extend(self.ends().iter().flat_map(octets));
            bytes.extend(vec![1; 4 * self.options]);
        }
        // A transport header that looks as an IP header begins.
        let port = if self.is_v6 { 0x6000 } else { 0x4500 };
        bytes.extend(word(port));
        bytes.extend(vec![0; self.transport - 2]);
        bytes.extend(&self.data);
        bytes.extend(vec![0; self.padding]);
        bytes
    }

    /// What is found in a buffer whose data begins behind so many bytes of the packet.
    fn found(&self, sought: &Sought, buffer: &[u8], behind: usize, usual: usize) -> Option<usize> {
        let start = self.headroom.len() + behind;
        sought.find(usual, |before, first| {
            let bytes = buffer.get(start.checked_sub(before)?..)?;
            let count = bytes.len().min(first.len());
            first[..count].copy_from_slice(&bytes[..count]);
            Some((count, bytes.len()))
        })
    }
}

fn made() -> impl Strategy<Value = Made> {
    let bytes = prop::collection::vec(any::<u8>(), 0..120);
    (
        any::<bool>(),
        0..5_usize,
        any::<bool>(),
        bytes.clone(),
        bytes,
        0..20_usize,
    )
        .prop_map(|(is_v6, options, is_udp, data, headroom, padding)| Made {
            is_v6,
            options,
            transport: if is_udp { 8 } else { 20 },
            data,
            headroom,
            padding,
        })
}

proptest! {
    #[test]
    fn it_is_found_wherever_the_data_begins(made in made(), knows_transport: bool) {
        let sought = Sought {
            ends: made.ends(),
            ip: Some(made.ip()),
            transport: knows_transport.then_some(made.transport),
        };
        let buffer = made.buffer();
        let positions = [0, made.ip(), made.ip() + made.transport];
        for (behind, usual) in positions.into_iter().flat_map(|at| positions.map(|usual| (at, usual))) {
            prop_assert_eq!(made.found(&sought, &buffer, behind, usual), Some(behind));
        }
        // The header's own length is not needed where it is the least.
        let sought = Sought { ip: None, ..sought };
        if made.options == 0 {
            for behind in positions {
                prop_assert_eq!(made.found(&sought, &buffer, behind, 0), Some(behind));
            }
        }
    }

    #[test]
    fn a_packet_that_lacks_its_end_is_found_too(made in made(), lacking in 1..50_usize) {
        let mut made = made;
        made.padding = 0;
        let sought = Sought { ends: made.ends(), ip: Some(made.ip()), transport: None };
        let mut buffer = made.buffer();
        let least = made.headroom.len() + made.ip();
        buffer.truncate((buffer.len() - lacking.min(buffer.len())).max(least));
        for behind in [0, made.ip()] {
            prop_assert_eq!(made.found(&sought, &buffer, behind, 0), Some(behind));
        }
    }

    #[test]
    fn what_nobody_of_the_ends_has_sent_is_not_taken(made in made()) {
        let nobody = ["192.0.2.99", "2001:db8::99"].map(|end| end.parse().unwrap());
        let sought = Sought { ends: nobody, ip: Some(made.ip()), transport: Some(made.transport) };
        let buffer = made.buffer();
        for behind in [0, made.ip(), made.ip() + made.transport] {
            prop_assert_eq!(made.found(&sought, &buffer, behind, behind), None);
        }
    }

    #[test]
    fn no_bytes_and_sizes_are_too_strange(
        made in made(), bytes in prop::collection::vec(any::<u8>(), 0..90), sizes: [u32; 3], behind in 0..90_usize,
    ) {
        let [ip, transport, usual] = sizes.map(|size| size as usize);
        for (ip, usual) in [(ip, usual), (usize::MAX, usize::MAX)] {
            let sought = Sought { ends: made.ends(), ip: Some(ip), transport: Some(transport) };
            let found = Made { headroom: Vec::new(), ..made.clone() }.found(&sought, &bytes, behind, usual);
            prop_assert!(found.is_none_or(|before| before <= behind));
        }
    }
}

/// The packet that an ICMP error quotes is well-formed, and of the same ends.
#[test]
fn a_quoted_packet_is_not_taken_for_the_error_that_quotes_it() {
    for is_v6 in [false, true] {
        let quoted = Made {
            is_v6,
            options: 0,
            transport: 8,
            data: b"quoted".to_vec(),
            headroom: Vec::new(),
            padding: 0,
        };
        let error = Made {
            data: quoted.buffer(),
            ..quoted
        };
        let behind = error.ip() + 8;
        let sought = Sought {
            ends: error.ends(),
            ip: Some(behind),
            transport: Some(8),
        };
        let found = error.found(&sought, &error.buffer(), behind, behind);
        assert_eq!(found, Some(behind));
    }
}
