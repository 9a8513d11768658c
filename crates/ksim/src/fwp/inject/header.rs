//! IP headers of what is injected without one.

/// Puts the IP header of the packet that it was cloned from before a transport segment. `None`: there is none, and the
/// segment does not begin with one, as a raw socket's does; its endpoint has to be asked.
pub(super) fn with_ip_header(segment: &[u8], header: Option<&[u8]>) -> Option<Vec<u8>> {
    let header = header.filter(|header| header.len() >= IPV4_HEADER);
    let Some(header) = header else {
        return begins_with_ip(segment).then(|| segment.to_vec());
    };
    let mut packet = [header, segment].concat();
    if header[0] >> 4 == 4 {
        let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = ipv4_checksum(&packet[..header.len()]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else if header.len() >= IPV6_HEADER {
        let length = u16::try_from(packet.len() - IPV6_HEADER).unwrap_or(u16::MAX);
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    Some(packet)
}

/// Whether it is a packet from its IP header on: one that says how long it is. What a UDP or TCP header has in those places
/// would have to be the same by chance.
fn begins_with_ip(packet: &[u8]) -> bool {
    let word = |at: usize| {
        let word = packet.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes(word.try_into().ok()?)))
    };
    match packet.first().map(|first| first >> 4) {
        Some(4) => word(2) == Some(packet.len()),
        Some(6) => word(4).map(|length| length + IPV6_HEADER) == Some(packet.len()),
        _ => false,
    }
}

/// Bytes of a header without options, and of one without extension headers.
pub(in crate::fwp) const IPV4_HEADER: usize = 20;
/// As above.
pub(in crate::fwp) const IPV6_HEADER: usize = 40;

/// RFC 1071 over a header whose checksum field is zero.
pub(in crate::fwp) fn ipv4_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
