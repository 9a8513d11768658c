//! `SOCKADDR_STORAGE`: an address and a port of either IP version, as 128 bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// `AF_INET` and `AF_INET6` of Windows.
const AF_INET: u16 = 2;
/// As above.
const AF_INET6: u16 = 23;

/// Bytes of a `SOCKADDR_STORAGE`.
pub(crate) const SIZE: usize = 128;

/// The structure's bytes.
#[cfg(windows)]
pub(crate) const fn bytes(address: &wfp_sys::SOCKADDR_STORAGE) -> &[u8; SIZE] {
    const { assert!(size_of::<wfp_sys::SOCKADDR_STORAGE>() == SIZE) };
    let address = core::ptr::from_ref(address).cast();
    // SAFETY: the structure is as large, and integers without padding.
    unsafe { &*address }
}

/// The structure's bytes, to be changed.
#[cfg(windows)]
pub(crate) const fn bytes_mut(address: &mut wfp_sys::SOCKADDR_STORAGE) -> &mut [u8; SIZE] {
    let address = core::ptr::from_mut(address).cast();
    // SAFETY: as in `bytes`; any bytes are a valid structure.
    unsafe { &mut *address }
}

/// The address; `None` if it is of no IP version.
pub(crate) fn read(bytes: &[u8; SIZE]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    match u16::from_le_bytes([bytes[0], bytes[1]]) {
        AF_INET => {
            let address = Ipv4Addr::from_octets(*bytes[4..].first_chunk()?);
            Some((address, port).into())
        }
        AF_INET6 => {
            let flow = u32::from_be_bytes(*bytes[4..].first_chunk()?);
            let address = Ipv6Addr::from_octets(*bytes[8..].first_chunk()?);
            let scope = u32::from_le_bytes(*bytes[24..].first_chunk()?);
            Some(SocketAddrV6::new(address, port, flow, scope).into())
        }
        _ => None,
    }
}

/// Puts another address in the place of one of the same version. An IPv4 address in the place of an IPv6 one is written
/// as IPv4-mapped.
///
/// `false`, and nothing is written, if the versions differ otherwise.
pub(crate) fn write(bytes: &mut [u8; SIZE], to: SocketAddr) -> bool {
    let mut new = [0; SIZE];
    new[..2].copy_from_slice(&bytes[..2]);
    new[2..4].copy_from_slice(&to.port().to_be_bytes());
    match (u16::from_le_bytes([bytes[0], bytes[1]]), to.ip()) {
        (AF_INET, IpAddr::V4(address)) => new[4..8].copy_from_slice(&address.octets()),
        (AF_INET6, IpAddr::V4(address)) => {
            new[8..24].copy_from_slice(&address.to_ipv6_mapped().octets());
        }
        (AF_INET6, IpAddr::V6(address)) => new[8..24].copy_from_slice(&address.octets()),
        _ => return false,
    }
    *bytes = new;
    true
}

/// The address that a `SOCKADDR_IN` or `SOCKADDR_IN6` begins at, which may be shorter than a `SOCKADDR_STORAGE`.
///
/// # Safety
/// `address` is NULL, or leads to a `SOCKADDR` of the size that its family says.
pub(crate) const unsafe fn at<'a>(address: *const u8) -> Option<&'a [u8]> {
    if address.is_null() {
        return None;
    }
    // SAFETY: every SOCKADDR begins with its family.
    let family = unsafe { *address.cast::<[u8; 2]>() };
    let size = match u16::from_le_bytes(family) {
        AF_INET => 16,
        AF_INET6 => 28,
        _ => return None,
    };
    // SAFETY: the family says how large it is.
    Some(unsafe { core::slice::from_raw_parts(address, size) })
}

/// [`read`] of an address that may be shorter.
pub(crate) fn read_short(address: &[u8]) -> Option<SocketAddr> {
    let mut whole = [0; SIZE];
    whole.get_mut(..address.len())?.copy_from_slice(address);
    read(&whole)
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use super::{AF_INET, AF_INET6, SIZE, read, read_short, write};

    fn of(family: u16) -> [u8; SIZE] {
        let mut bytes = [0xAA; SIZE];
        bytes[..2].copy_from_slice(&family.to_le_bytes());
        bytes
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for (family, text) in [
            (AF_INET, "192.0.2.1:443"),
            (AF_INET6, "[2001:db8::1]:443"),
            (AF_INET6, "[::1]:1"),
        ] {
            let mut bytes = of(family);
            assert!(write(&mut bytes, socket(text)));
            assert_eq!(read(&bytes), Some(socket(text)));
            assert_eq!(read_short(&bytes[..28]), Some(socket(text)));
            assert_eq!(
                bytes[28..],
                [0; SIZE - 28],
                "nothing is left of what was there"
            );
        }
    }

    #[test]
    fn an_ipv4_address_in_an_ipv6_place_is_mapped() {
        let mut bytes = of(AF_INET6);
        assert!(write(&mut bytes, socket("127.0.0.1:8080")));
        assert_eq!(read(&bytes), Some(socket("[::ffff:127.0.0.1]:8080")));
    }

    #[test]
    fn an_address_of_another_version_is_not_written() {
        for (family, text) in [(AF_INET, "[::1]:1"), (0, "127.0.0.1:1"), (99, "[::1]:1")] {
            let mut bytes = of(family);
            assert!(!write(&mut bytes, socket(text)));
            assert_eq!(bytes, of(family));
        }
        assert_eq!(read(&of(0)), None);
        assert_eq!(read_short(&[]), None);
    }
}
