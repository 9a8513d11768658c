//! Addresses and control messages of sockets as bytes, as Windows lays them out (`SOCKADDR`, `WSACMSGHDR`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// `AF_INET` and `AF_INET6` of Windows.
pub(crate) const AF_INET: u16 = 2;
/// As above.
pub(crate) const AF_INET6: u16 = 23;

/// Bytes before the data of a control message: its length with these, its level and its type.
pub(crate) const HEADER: usize = LENGTH + 8;
/// To what control messages are aligned.
pub(crate) const ALIGNMENT: usize = LENGTH;
const LENGTH: usize = size_of::<usize>();

/// Whole words with these bytes: what Windows reads is aligned.
pub(crate) fn words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(size_of::<u64>())
        .map(|chunk| {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        })
        .collect()
}

pub(crate) fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The address in a `SOCKADDR_IN` or `SOCKADDR_IN6`.
pub(crate) fn address_of(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match u16::from_ne_bytes(*bytes.first_chunk()?) {
        AF_INET => {
            let address = Ipv4Addr::from_octets(*bytes.get(4..)?.first_chunk()?);
            Some(SocketAddr::new(IpAddr::V4(address), port))
        }
        AF_INET6 => {
            let flow = u32::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
            let address = Ipv6Addr::from_octets(*bytes.get(8..)?.first_chunk()?);
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(address, port, flow, scope).into())
        }
        _ => None,
    }
}

/// A `SOCKADDR_IN` or `SOCKADDR_IN6`.
pub(crate) fn address_bytes(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(address) => [
            &AF_INET.to_ne_bytes()[..],
            &port,
            &address.ip().octets(),
            &[0; 8],
        ]
        .concat(),
        SocketAddr::V6(address) => [
            &AF_INET6.to_ne_bytes()[..],
            &port,
            &address.flowinfo().to_ne_bytes(),
            &address.ip().octets(),
            &address.scope_id().to_ne_bytes(),
        ]
        .concat(),
    }
}

/// A buffer with one control message.
pub(crate) fn control_with(level: i32, kind: i32, data: &[u8]) -> Vec<u64> {
    let mut message = (HEADER + data.len()).to_ne_bytes().to_vec();
    message.extend(level.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.resize(HEADER, 0);
    message.extend(data);
    words(&message)
}

/// The data of the first control message of this kind.
pub(crate) fn control_message(control: &[u8], level: i32, kind: i32) -> Option<&[u8]> {
    let mut at = 0;
    // Each turn goes on by a header at least.
    loop {
        let message = control.get(at..)?;
        let length = usize::from_ne_bytes(*message.first_chunk::<LENGTH>()?);
        let its_level = i32::from_ne_bytes(*message.get(LENGTH..)?.first_chunk()?);
        let its_kind = i32::from_ne_bytes(*message.get(LENGTH + 4..)?.first_chunk()?);
        let data = message.get(HEADER..length)?;
        if (its_level, its_kind) == (level, kind) {
            return Some(data);
        }
        at = at.checked_add(length.checked_next_multiple_of(ALIGNMENT)?)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{address_bytes, address_of, bytes, control_message, control_with};

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (text, size) in [("192.0.2.1:53", 16), ("[fe80::1%3]:53", 28)] {
            let address: SocketAddr = text.parse().expect("an address");
            let written = address_bytes(address);
            assert_eq!(written.len(), size);
            assert_eq!(address_of(&written), Some(address));
            assert_eq!(address_of(&written[..7]), None);
        }
        assert_eq!(address_of(&[0; 28]), None);
    }

    #[test]
    fn a_control_message_is_found_among_others() {
        let mut control = bytes(&control_with(0, 60, b"records, of an odd length"));
        control.extend(bytes(&control_with(41, 70, b"of another level")));
        control.extend(bytes(&control_with(0, 70, b"context")));
        assert_eq!(
            control_message(&control, 0, 60),
            Some(&b"records, of an odd length"[..])
        );
        assert_eq!(control_message(&control, 0, 70), Some(&b"context"[..]));
        assert_eq!(control_message(&control, 0, 71), None);
        assert_eq!(control_message(&[], 0, 70), None);
    }

    #[test]
    fn lengths_that_lie_end_the_search() {
        let sound = bytes(&control_with(0, 60, b"records"));
        for length in [0, 1, 15, sound.len() + 1, usize::MAX] {
            let mut control = sound.clone();
            control[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            control.extend(bytes(&control_with(0, 70, b"context")));
            let found = control_message(&control, 0, 70);
            assert!(found.is_none(), "{length}: {found:?}");
        }
    }
}
