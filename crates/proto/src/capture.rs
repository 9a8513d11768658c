//! Captures: packets as the network layers show them, what was discarded, and what was decided, in one order.
//!
//! A program starts a capture, reads [`CaptureRecord`]s, and stops it; when it closes its handle, or dies, the capture
//! ends. There is one capture at a time. A packet comes by the layers before it is decided (inbound) or after (outbound),
//! so its record says nothing of its fate: the [events](CaptureKind::Event) and [discards](CaptureKind::Discard) in the
//! same order do.

use crate::event::EventRecord;
use crate::message::{Header, RequestError, read_padded, read_request};
use crate::policy::Range16;
use crate::wire::wire_enum;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most elements of one list of a capture's filter.
pub const MAX_CAPTURE_LIST: usize = 8;
/// Least and greatest size of a capture's ring, in bytes.
pub const RING_SIZES: core::ops::RangeInclusive<u32> = 1 << 16..=1 << 26;
/// Greatest snap length, in bytes.
pub const MAX_SNAP_LENGTH: u32 = 1 << 16;

wire_enum! {
    /// What a record of a capture is.
    pub enum CaptureKind: u8 {
        /// A packet that came by a network layer.
        Packet = 1, "packet";
        /// A packet, or an attempt, that was discarded; the record says by whom, and why.
        Discard = 2, "discard";
        /// A decision, or what else an event tells: an [`EventRecord`] is the data.
        Event = 3, "event";
    }
}

wire_enum! {
    /// Where a record's data begins.
    pub enum CaptureStart: u8 {
        /// There is none.
        Nothing = 0, "nothing";
        /// With the IP header.
        IpHeader = 1, "IP header";
        /// With the transport header.
        TransportHeader = 2, "transport header";
    }
}

/// Addresses whose first `length` bits are those of `address`; IPv4 as IPv4-mapped IPv6.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CapturePrefix {
    /// The address, in network order.
    pub address: [u8; 16],
    /// Bits, at most 128.
    pub length: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// Request [`StartCapture`](crate::device::ControlCode::StartCapture). A packet is taken when of each list that is not
/// empty one element fits it: an address or a port on either side.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct StartCaptureRequest {
    /// Size and version.
    pub header: Header,
    /// Most bytes of a packet that are kept, 1 to [`MAX_SNAP_LENGTH`].
    pub snap_length: U32,
    /// Bytes of the ring, one of [`RING_SIZES`].
    pub ring_size: U32,
    /// How many of `addresses` there are.
    pub address_count: u8,
    /// How many of `ports` there are.
    pub port_count: u8,
    /// How many of `protocols` there are.
    pub protocol_count: u8,
    /// Zero.
    pub reserved: u8,
    /// IP protocol numbers; zero beyond `protocol_count`.
    pub protocols: [u8; MAX_CAPTURE_LIST],
    /// Ports; zero beyond `port_count`.
    pub ports: [Range16; MAX_CAPTURE_LIST],
    /// Addresses; zero beyond `address_count`.
    pub addresses: [CapturePrefix; MAX_CAPTURE_LIST],
}

impl StartCaptureRequest {
    /// The request for all packets.
    #[must_use]
    pub fn new(snap_length: u32, ring_size: u32) -> Self {
        let mut request = Self::new_zeroed();
        request.header = Header::of::<Self>();
        request.snap_length = U32::new(snap_length);
        request.ring_size = U32::new(ring_size);
        request
    }

    /// Checks an input buffer.
    ///
    /// # Errors
    /// What is wrong with the request; see [`RequestError`] for the status of each. A size, a count or a length that is
    /// out of its bounds is [`RequestError::Reserved`].
    pub fn parse(input: &[u8]) -> Result<Self, RequestError> {
        let (request, _) = read_request::<Self>(input)?;
        let is_valid = (1..=MAX_SNAP_LENGTH).contains(&request.snap_length.get())
            && RING_SIZES.contains(&request.ring_size.get())
            && request.reserved == 0
            && is_list(&request.protocols, request.protocol_count)
            && is_list(&request.ports, request.port_count)
            && is_list(&request.addresses, request.address_count)
            && request
                .ports()
                .iter()
                .all(|range| range.first <= range.last)
            && request
                .addresses()
                .iter()
                .all(|prefix| prefix.length <= 128 && prefix.reserved == [0; 3]);
        is_valid.then_some(request).ok_or(RequestError::Reserved)
    }

    /// The protocols.
    #[must_use]
    pub fn protocols(&self) -> &[u8] {
        list(&self.protocols, self.protocol_count)
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> &[Range16] {
        list(&self.ports, self.port_count)
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[CapturePrefix] {
        list(&self.addresses, self.address_count)
    }
}

/// The elements of a list that there are.
fn list<T>(elements: &[T], count: u8) -> &[T] {
    elements.get(..usize::from(count)).unwrap_or_default()
}

/// Whether the count is within the list, and the rest of it zero.
fn is_list<T: IntoBytes + Immutable>(elements: &[T], count: u8) -> bool {
    elements
        .get(usize::from(count)..)
        .is_some_and(|rest| rest.as_bytes().iter().all(|&byte| byte == 0))
}

/// What a capture has counted.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct CaptureCounts {
    /// Packets that came by, those that the filter did not take included.
    pub seen: U64,
    /// Packets, discards and events that the filter took.
    pub taken: U64,
    /// Of these, those that were dropped because the ring was full.
    pub dropped: U64,
}

/// The fixed part of the reply to [`ReadCapture`](crate::device::ControlCode::ReadCapture). `bytes` of records follow at
/// `header.size`, oldest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CaptureReply {
    /// Size and version.
    pub header: Header,
    /// How many records follow.
    pub count: U32,
    /// Bytes of these.
    pub bytes: U32,
    /// [`MORE`](Self::MORE), [`ENDED`](Self::ENDED).
    pub flags: U32,
    /// Zero.
    pub reserved: U32,
    /// What the capture has counted by now.
    pub counts: CaptureCounts,
}

impl CaptureReply {
    /// Records still wait.
    pub const MORE: u32 = 1;
    /// The capture was stopped, and these are its last records.
    pub const ENDED: u32 = 2;

    /// The fixed part.
    #[must_use]
    pub const fn new(count: u32, bytes: u32, flags: u32, counts: CaptureCounts) -> Self {
        Self {
            header: Header::of::<Self>(),
            count: U32::new(count),
            bytes: U32::new(bytes),
            flags: U32::new(flags),
            reserved: U32::ZERO,
            counts,
        }
    }

    /// The least output buffer that a read takes: a reply with the largest record that a capture with this snap length
    /// can have. A shorter one is refused (`STATUS_BUFFER_TOO_SMALL`).
    #[must_use]
    pub const fn size_for(snap_length: u32) -> usize {
        let event = size_of::<EventRecord>();
        let data = snap_length as usize;
        size_of::<Self>() + CaptureRecord::size_with(if data > event { data } else { event })
    }

    /// Reads a reply and its records. `None` if it isn't one of this major version.
    #[must_use]
    pub fn read(reply: &[u8]) -> Option<(Self, CaptureRecords<'_>)> {
        let (fixed, at) = read_padded::<Self>(reply)?;
        let length = usize::try_from(fixed.bytes.get()).ok()?;
        let records = reply.get(at..)?.get(..length)?;
        Some((fixed, CaptureRecords { rest: records }))
    }
}

/// One record of a capture; `captured` bytes of data follow, then zeros up to `size`. Fields that its kind doesn't speak
/// of are zero.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CaptureRecord {
    /// Bytes of the record with its data: a multiple of eight.
    pub size: U32,
    /// Bytes of this header.
    pub header_size: U16,
    /// A [`CaptureKind`].
    pub kind: u8,
    /// A [`CaptureStart`].
    pub start: u8,
    /// Rises by one with every record, those dropped included; from 1.
    pub sequence: U64,
    /// When, in units of 100 ns since 1601-01-01 UTC (Windows system time).
    pub time: U64,
    /// Bytes of the packet from its start on.
    pub original: U32,
    /// Bytes of data here.
    pub captured: U32,
    /// The run-time identifier of the layer.
    pub layer: U16,
    /// A [`Family`](crate::Family).
    pub family: u8,
    /// 0 forwarded, else a [`Direction`](crate::policy::Direction): the packet's, not the connection's.
    pub direction: u8,
    /// IP protocol number; 0 where the layer does not know.
    pub protocol: u8,
    /// Who discarded (`FWPS_DISCARD_MODULE0`).
    pub module: u8,
    /// [`MIRRORED`](Self::MIRRORED), [`LOOPBACK`](Self::LOOPBACK).
    pub flags: U16,
    /// The index of the interface; 0 unknown.
    pub interface: U32,
    /// Why it was discarded, in the terms of `module`.
    pub reason: U32,
    /// The filter that discarded it; 0 none.
    pub filter: U64,
    /// WFP's handle of the flow; 0 unknown.
    pub flow: U64,
    /// Local IP address in network order; IPv4 in the first four bytes. The source's of a forwarded packet.
    pub local_address: [u8; 16],
    /// Remote IP address, likewise. The destination's of a forwarded packet.
    pub remote_address: [u8; 16],
    /// Local port; for ICMP the message's type.
    pub local_port: U16,
    /// Remote port; for ICMP the message's code.
    pub remote_port: U16,
    /// Zero.
    pub reserved: U32,
}

impl CaptureRecord {
    /// The packet is here because of a rule with the effect `mirror`; the filter did not take it.
    pub const MIRRORED: u16 = 1;
    /// The packet is from this machine and for it.
    pub const LOOPBACK: u16 = 2;

    /// A record of zeros.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a header is far smaller than 64 KiB"
    )]
    pub fn zeroed(kind: CaptureKind) -> Self {
        Self {
            header_size: U16::new(size_of::<Self>() as u16),
            kind: kind.raw(),
            ..Self::new_zeroed()
        }
    }

    /// Bytes of a record with so much data.
    #[must_use]
    pub const fn size_with(data: usize) -> usize {
        (size_of::<Self>() + data).next_multiple_of(8)
    }
}

const _: () = assert!(size_of::<CaptureRecord>() == 104);

/// The records of a reply, each with its data. Ends early where a record contradicts itself.
#[derive(Clone, Debug)]
pub struct CaptureRecords<'r> {
    rest: &'r [u8],
}

impl<'r> Iterator for CaptureRecords<'r> {
    type Item = (CaptureRecord, &'r [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (size, _) = U32::read_from_prefix(self.rest).ok()?;
        let (record, rest) = self
            .rest
            .split_at_checked(usize::try_from(size.get()).ok()?)?;
        self.rest = rest;
        let (header, _) = CaptureRecord::read_from_prefix(record).ok()?;
        let data = record.get(usize::from(header.header_size.get())..)?;
        Some((
            header,
            data.get(..usize::try_from(header.captured.get()).ok()?)?,
        ))
    }
}
