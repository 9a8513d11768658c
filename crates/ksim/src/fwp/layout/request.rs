//! `fwpsk.h`: the layer data that callouts may change.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::access::{Out, plain};
use crate::ndis::layout::layout;
use crate::net::End;

/// `AF_INET` and `AF_INET6` of Windows.
pub(crate) const AF_INET: u16 = 2;
/// As above.
pub(crate) const AF_INET6: u16 = 23;

/// `SOCKADDR_STORAGE`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SockAddr(pub(crate) [u8; 128]);

impl SockAddr {
    /// The address of an end: `SOCKADDR_IN` or `SOCKADDR_IN6`.
    pub(crate) fn of(end: End) -> Self {
        let mut bytes = [0; 128];
        bytes[2..4].copy_from_slice(&end.port.to_be_bytes());
        let family = match end.address {
            IpAddr::V4(address) => {
                bytes[4..8].copy_from_slice(&address.octets());
                AF_INET
            }
            IpAddr::V6(address) => {
                bytes[8..24].copy_from_slice(&address.octets());
                AF_INET6
            }
        };
        bytes[..2].copy_from_slice(&family.to_le_bytes());
        Self(bytes)
    }

    /// The end that it is the address of; `None` for another family.
    pub(crate) fn end(&self) -> Option<End> {
        let bytes = &self.0;
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        let address = match u16::from_le_bytes([bytes[0], bytes[1]]) {
            AF_INET => Ipv4Addr::from_octets(*bytes[4..].first_chunk()?).into(),
            AF_INET6 => Ipv6Addr::from_octets(*bytes[8..].first_chunk()?).into(),
            _ => return None,
        };
        Some(End { address, port })
    }
}

/// `FWPS_CONNECT_REQUEST0` of Windows 8 and later.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawConnectRequest {
    pub(crate) local: SockAddr,
    pub(crate) remote: SockAddr,
    pub(crate) port_reservation_token: u64,
    pub(crate) target_process: u32,
    pub(crate) previous: Out<u8>,
    pub(crate) modifier_filter: u64,
    pub(crate) redirect_handle: usize,
    pub(crate) context: usize,
    pub(crate) context_size: usize,
}

/// `FWPS_BIND_REQUEST0`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawBindRequest {
    pub(crate) local: SockAddr,
    pub(crate) port_reservation_token: u64,
    pub(crate) previous: Out<u8>,
    pub(crate) modifier_filter: u64,
}

plain!(SockAddr, RawConnectRequest, RawBindRequest);

layout! {
    RawConnectRequest 312 {
        local @ 0, remote @ 128, port_reservation_token @ 256, target_process @ 264, previous @ 272,
        modifier_filter @ 280, redirect_handle @ 288, context @ 296, context_size @ 304,
    }
    RawBindRequest 152 { local @ 0, port_reservation_token @ 128, previous @ 136, modifier_filter @ 144 }
}
