//! `FwpsReassembleForwardFragmentGroup0`: one packet out of the fragments that `IPFORWARD` shows as a chain.

use wfp_schema::NtStatus;

use super::inject::header::{IPV4_HEADER, IPV6_HEADER, ipv4_checksum};
use super::layout::request::{AF_INET, AF_INET6};
use crate::access::Out;
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::exports;
use crate::ndis::chain;
use crate::ndis::layout::NetBufferList;
use crate::ndis::list::Origin;
use crate::ndis::pool::{LIST, check_list_pool};

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();
const INVALID_PARAMETER: i32 = NtStatus::INVALID_PARAMETER.to_i32();

/// IPv6's fragment header: its number, and its size.
const FRAGMENT: u8 = 44;
const FRAGMENT_HEADER: usize = 8;

/// A fragment: its header without what makes it one, and its part of the payload.
struct Piece {
    header: Vec<u8>,
    offset: usize,
    more: bool,
    payload: Vec<u8>,
}

impl Piece {
    fn v4(bytes: &[u8]) -> Option<Self> {
        let size = usize::from(bytes.first()? & 0xf) * 4;
        if size < IPV4_HEADER || bytes.len() < size {
            return None;
        }
        let (header, payload) = bytes.split_at(size);
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let mut header = header.to_vec();
        header[6..8].fill(0);
        Some(Self {
            header,
            offset: usize::from(flags & 0x1fff) * 8,
            more: flags & 0x2000 != 0,
            payload: payload.to_vec(),
        })
    }

    /// The fragment header follows the IPv6 header at once, as it does unless a router's options come before it.
    fn v6(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(IPV6_HEADER)?;
        let (fragment, payload) = rest.split_at_checked(FRAGMENT_HEADER)?;
        if header[6] != FRAGMENT {
            return None;
        }
        let flags = u16::from_be_bytes([fragment[2], fragment[3]]);
        let mut header = header.to_vec();
        header[6] = fragment[0];
        Some(Self {
            header,
            offset: usize::from(flags & !7),
            more: flags & 1 != 0,
            payload: payload.to_vec(),
        })
    }
}

/// The packet of which `pieces` are all fragments; `None` if some are missing or overlap.
fn reassemble(mut pieces: Vec<Piece>, is_v4: bool) -> Option<Vec<u8>> {
    pieces.sort_by_key(|piece| piece.offset);
    let mut packet = pieces.first()?.header.clone();
    let header = packet.len();
    let last = pieces.len() - 1;
    for (index, piece) in pieces.iter().enumerate() {
        let here = packet.len() - header == piece.offset;
        if !here || piece.more != (index < last) {
            return None;
        }
        packet.extend_from_slice(&piece.payload);
    }
    if is_v4 {
        let length = u16::try_from(packet.len()).ok()?;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = ipv4_checksum(&packet[..header]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let length = u16::try_from(packet.len() - IPV6_HEADER).ok()?;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    Some(packet)
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsreassembleforwardfragmentgroup0>
    fn FwpsReassembleForwardFragmentGroup0(
        call, family: u16, group: Out<NetBufferList>, pool: usize, back_fill: u32, flags: u32,
        whole: Out<Out<NetBufferList>>,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32();
    {
        if group.is_null() || whole.is_null() {
            return NULL_POINTER;
        }
        if ![AF_INET, AF_INET6].contains(&family) || flags != 0 || !check_list_pool(&call, pool) {
            return INVALID_PARAMETER;
        }
        let is_v4 = family == AF_INET;
        let pieces: Option<Vec<Piece>> = chain::lists(group)
            .map(|(_, list)| {
                let bytes = chain::bytes_of(&chain::data_of(list.first)?);
                if is_v4 { Piece::v4(&bytes) } else { Piece::v6(&bytes) }
            })
            .collect();
        let Some(packet) = pieces.and_then(|pieces| reassemble(pieces, is_v4)) else {
            return INVALID_PARAMETER;
        };
    }
    then {
        let lists = &call.machine().ndis.lists;
        let at = lists.insert_holding(Origin::Fwps, pool, &packet, back_fill);
        call.machine().verifier().track(&call, LIST, at.address(), "", 0);
        whole.set(at);
        SUCCESS
    }
}
