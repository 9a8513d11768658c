//! `FwpsConstructIpHeaderForTransportPacket0`, and the security of packets.

use wfp_schema::NtStatus;

use super::inject::header::{IPV4_HEADER, IPV6_HEADER, ipv4_checksum};
use super::layout::request::{AF_INET, AF_INET6};
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::{Call, exports};
use crate::ndis::chain;
use crate::ndis::layout::NetBufferList;
use crate::verifier::{ARGUMENT, OBJECT_STALE};

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();
const NO_RESOURCES: i32 = NtStatus::INSUFFICIENT_RESOURCES.to_i32();
const INVALID_PARAMETER: i32 = NtStatus::INVALID_PARAMETER.to_i32();

/// Hop limit of a header that is made.
const HOPS: u8 = 128;

/// What a header is made of.
struct Header {
    family: u16,
    source: Vec<u8>,
    destination: Vec<u8>,
    protocol: u8,
}

impl Header {
    /// The header before `payload` bytes, with the IPv4 `options` of the one that it replaces.
    fn bytes(&self, payload: usize, options: &[u8]) -> Vec<u8> {
        if self.family == AF_INET {
            let mut header = vec![0; IPV4_HEADER];
            header.extend_from_slice(options);
            let length = u16::try_from(header.len() + payload).unwrap_or(u16::MAX);
            header[0] = 0x40 | u8::try_from(header.len() / 4).unwrap_or(0);
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[8] = HOPS;
            header[9] = self.protocol;
            header[12..16].copy_from_slice(&self.source);
            header[16..20].copy_from_slice(&self.destination);
            let checksum = ipv4_checksum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            return header;
        }
        let mut header = vec![0; IPV6_HEADER];
        let length = u16::try_from(payload).unwrap_or(u16::MAX);
        header[0] = 0x60;
        header[4..6].copy_from_slice(&length.to_be_bytes());
        header[6] = self.protocol;
        header[7] = HOPS;
        header[8..24].copy_from_slice(&self.source);
        header[24..40].copy_from_slice(&self.destination);
        header
    }

    /// The options of an IPv4 header that is replaced; extension headers of IPv6 go.
    fn options<'a>(&self, old: &'a [u8]) -> &'a [u8] {
        if self.family != AF_INET {
            return &[];
        }
        let end = old.first().map_or(0, |first| usize::from(first & 0xf) * 4);
        old.get(IPV4_HEADER..end).unwrap_or(&[])
    }

    /// Puts the checksum of a TCP or UDP segment right.
    fn checksum(&self, segment: &mut [u8]) {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let at = match self.protocol {
            TCP if segment.len() >= 18 => 16,
            UDP if segment.len() >= 8 => 6,
            _ => return,
        };
        segment[at..at + 2].fill(0);
        let length = u32::try_from(segment.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes();
        let pseudo = [
            &*self.source,
            &*self.destination,
            &length,
            &[0, 0, 0, self.protocol],
            segment,
        ]
        .concat();
        let mut sum = ipv4_checksum(&pseudo);
        if sum == 0 && self.protocol == UDP {
            sum = u16::MAX;
        }
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Builds the header before each net buffer of `list`, or instead of the one there, which is `old` bytes long.
fn construct(call: &Call<'_>, list: Out<NetBufferList>, old: u32, header: &Header) -> i32 {
    let Some(raw) = list.get() else {
        return NULL_POINTER;
    };
    let buffers: Vec<_> = chain::buffers(&raw).collect();
    if old > 0 && buffers.len() != 1 {
        call.violation(
            &ARGUMENT,
            "a header is rebuilt of a list with several net buffers",
        );
        return INVALID_PARAMETER;
    }
    for (_, data) in &buffers {
        if (old as usize) > data.data_length {
            call.violation(
                &ARGUMENT,
                format!(
                    "a header of {old} bytes in {} bytes of data",
                    data.data_length
                ),
            );
            return INVALID_PARAMETER;
        }
    }
    let lists = &call.machine().ndis.lists;
    if lists.origin(list).is_none() {
        call.violation(
            &OBJECT_STALE,
            format!("net buffer list {list:?} is no driver's"),
        );
        return INVALID_PARAMETER;
    }
    if call.must_fail() {
        return NO_RESOURCES;
    }
    for (at, mut data) in buffers {
        let before = chain::bytes_of(&data);
        let options = header.options(&before[..old as usize]);
        // What is there goes, but for options, which the new header has too.
        data.data_offset += old;
        data.data_length -= old as usize;
        let Some((mdl, inside)) = chain::seek(data.mdl_chain, data.data_offset) else {
            return INVALID_PARAMETER;
        };
        (data.current_mdl, data.current_mdl_offset) = (mdl, inside);
        let segment = chain::bytes_of(&data);
        let mut complete = segment.clone();
        header.checksum(&mut complete);
        chain::set_data(at, data);
        // What a clone shares is not written to: a segment with another checksum is a copy.
        let (mut bytes, changed) = (header.bytes(segment.len(), options), complete != segment);
        if changed {
            bytes.extend_from_slice(&complete);
        }
        if !lists.prepend(list, at, &bytes, changed) {
            return INVALID_PARAMETER;
        }
    }
    SUCCESS
}

/// Reads an address in network order.
fn address(at: In<u8>, family: u16) -> Option<Vec<u8>> {
    if at.is_null() {
        return None;
    }
    let mut bytes = vec![0; if family == AF_INET { 4 } else { 16 }];
    at.copy_to(&mut bytes);
    Some(bytes)
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsconstructipheaderfortransportpacket0>
    fn FwpsConstructIpHeaderForTransportPacket0(
        call, list: Out<NetBufferList>, header_length: u32, family: u16, source: In<u8>, remote: In<u8>,
        protocol: u32, endpoint: u64, control: usize, control_length: u32, flags: u32, reserved: usize,
        interface: u32, sub_interface: u32,
    ) -> i32,
    irql PASSIVE..=DISPATCH, fails NO_RESOURCES => later;
    {
        if list.is_null() {
            return NULL_POINTER;
        }
        if ![AF_INET, AF_INET6].contains(&family) {
            return INVALID_PARAMETER;
        }
        if reserved != 0 {
            call.violation(&ARGUMENT, "reserved is not NULL");
        }
        let (Some(source), Some(destination)) = (address(source, family), address(remote, family)) else {
            return NULL_POINTER;
        };
        let Ok(protocol) = u8::try_from(protocol) else {
            return INVALID_PARAMETER;
        };
        construct(&call, list, header_length, &Header { family, source, destination, protocol })
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsgetpacketlistsecurityinformation0>
    fn FwpsGetPacketListSecurityInformation0(
        call, list: Out<NetBufferList>, query: u32, information: Out<[u32; 2]>,
    ) -> i32,
    irql PASSIVE..=DISPATCH;
    {
        if list.is_null() || information.is_null() {
            return NULL_POINTER;
        }
        let ndis = &call.machine().ndis;
        let packet = ndis.packets.find(list.address());
        if packet.is_none() && ndis.lists.origin(list).is_none() {
            call.violation(&OBJECT_STALE, format!("net buffer list {list:?} is unknown"));
            return INVALID_PARAMETER;
        }
        // Nothing here is protected by IPsec; whether it was injected is known.
        let injected = packet.is_some_and(|packet| packet.injection().is_some());
        information.set([0, injected.into()]);
        SUCCESS
    }
}
