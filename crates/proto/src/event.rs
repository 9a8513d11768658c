//! Events: what the driver tells of connections, hosts, flows and itself.

use crate::message::{Header, read_array, read_padded};
use crate::wire::wire_enum;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Longest host name, in bytes (RFC 1035, section 2.3.4, in its text form without the trailing dot).
pub const MAX_HOST: usize = 253;
/// Longest application path kept, in UTF-16 code units: a Win32 path of `MAX_PATH` in its NT form, with some to spare.
pub const MAX_PATH_UNITS: usize = 320;
/// Longest SID, in bytes (`SECURITY_MAX_SID_SIZE`).
pub const MAX_SID: usize = 68;
/// [`EventRecord::rule`] when no rule matched and the default action decided.
pub const NO_RULE: u32 = u32::MAX;

wire_enum! {
    /// What an event tells.
    pub enum EventKind: u8 {
        /// A connection, an accept or a listen was decided; `operation` says which.
        Authorize = 1, "authorize";
        /// A flow's host name became known (or, for DNS, a datagram's), and what was decided with it.
        HostName = 2, "host-name";
        /// A followed flow was decided again: the policy changed, or its host name will never be known.
        Reauthorize = 3, "reauthorize";
        /// A followed flow ended; the counts are final. `value`: at how many places rules have changed what was sent, and
        /// what was received.
        FlowClosed = 4, "flow-closed";
        /// An endpoint closed; the counts are those of its flows, `value[0]` is their number. It is told when the last
        /// of them has ended.
        EndpointClosed = 5, "endpoint-closed";
        /// The driver's state changed from `value[0]` to `value[1]` (each a [`DriverState`](crate::DriverState)).
        StateChanged = 6, "state-changed";
        /// A policy came into force: `value[0]` is its hash, `value[1]` its number of rules.
        PolicyChanged = 7, "policy-changed";
        /// `value[0]` events were dropped here because nobody read them in time.
        Dropped = 8, "dropped";
        /// A literal that a rule looks for was found in a flow's data.
        Content = 9, "content";
        /// A connection was sent to a proxy of this machine, at `target`; `value[0]` is the proxy's process. The remote
        /// side is where it was to go.
        Redirected = 10, "redirected";
        /// A socket was given another local address, `target`.
        Bound = 11, "bound";
        /// A connection, an accept or a listen is held, and somebody is asked about it: see [`ask`](crate::ask).
        Asked = 12, "asked";
        /// The question of number `value[0]` was answered.
        Answered = 13, "answered";
        /// The question of number `value[0]` was not answered, and its rule's default decided: its time ran out, or
        /// (`value[1]` is 1) nobody was there to answer any more.
        Unanswered = 14, "unanswered";
        /// A rule has changed a flow's stream for the first time. `value`: at how many places of what was sent, and of what
        /// was received.
        StreamEdited = 15, "stream-edited";
        /// A direction of a flow's stream has gone out of band: sent (`value[0]` is 1), or received (2).
        OutOfBand = 16, "out-of-band";
        /// What a bind had assigned was released.
        Released = 32, "released";
        /// An ICMP error came, or is about to be sent; `verdict` says whether it passes. The addresses, ports and the
        /// protocol are those of the packet that it complains about, as its sender sees them, where the layer tells
        /// (inbound), else those of the error itself; [`icmp`](EventRecord::icmp) says what it says.
        IcmpError = 33, "icmp-error";
        /// A packet, or an attempt, was discarded, by whomever; [`discard`](EventRecord::discard) says why.
        Discarded = 34, "discarded";
        /// The first packet of a connection was changed as its rule says; `target` is the remote side that its packets have
        /// on the wire, if that is another one, and [`packet_change`](EventRecord::packet_change) says what else.
        PacketsChanged = 36, "packets-changed";
        /// The first packet of a connection was dropped because its rule shapes them; `value[0]` is a [`PacketDrop`].
        PacketsDropped = 37, "packets-dropped";
        /// The filters that hold while the driver does not decide were changed: `value[0]` of them are persistent,
        /// `value[1]` hold from the start of the network stack on.
        ProtectionChanged = 40, "protection-changed";
        /// The system is about to sleep (`value[0]` is 1), or has come back (0).
        PowerChanged = 41, "power-changed";
    }
}

wire_enum! {
    /// What was authorized.
    pub enum Operation: u8 {
        /// An outgoing connection, or the first datagram to a peer.
        Connect = 1, "connect";
        /// An incoming connection, or the first datagram from a peer.
        Accept = 2, "accept";
        /// A TCP `listen`.
        Listen = 3, "listen";
        /// A socket that is bound, a raw socket, or one that is to see all packets of an interface.
        Bind = 4, "bind";
        /// A packet of other machines that this one forwards; local is where it comes from, remote where it goes.
        Forward = 5, "forward";
        /// An ICMP error.
        IcmpError = 6, "icmp-error";
    }
}

wire_enum! {
    /// Where a host name was found, or why there is none.
    pub enum HostSource: u8 {
        /// The server name of a TLS `ClientHello`.
        Tls = 1, "tls";
        /// An HTTP/1 request.
        Http = 2, "http";
        /// A DNS question.
        Dns = 3, "dns";
        /// The server name of the `ClientHello` in a QUIC connection's first packets.
        Quic = 4, "quic";
        /// None: the first bytes are of no protocol that names a host.
        NotRecognized = 16, "not-recognized";
        /// None: the protocol's host was left out.
        Absent = 17, "absent";
        /// None: the message breaks its protocol's rules.
        Malformed = 18, "malformed";
        /// None: the message goes on beyond the parser's bound.
        TooLong = 19, "too-long";
        /// None: the responder spoke first, or the flow ended, or nothing was ever sent.
        NeverSent = 20, "never-sent";
    }
}

/// The fixed part of the reply to [`ReadEvents`](crate::device::ControlCode::ReadEvents). `count` records of
/// `record_size` bytes follow at `header.size`, oldest first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EventsReply {
    /// Size and version.
    pub header: Header,
    /// How many records follow.
    pub count: U32,
    /// Size in bytes of one record.
    pub record_size: U32,
    /// Events that still wait.
    pub remaining: U32,
    /// Zero.
    pub reserved: U32,
}

impl EventsReply {
    /// The fixed part for `count` records.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a record is far smaller than 4 GiB"
    )]
    pub const fn new(count: u32, remaining: u32) -> Self {
        Self {
            header: Header::of::<Self>(),
            count: U32::new(count),
            record_size: U32::new(size_of::<EventRecord>() as u32),
            remaining: U32::new(remaining),
            reserved: U32::ZERO,
        }
    }

    /// Bytes of a reply with `count` records; an output buffer shorter than that of one record is refused
    /// (`STATUS_BUFFER_TOO_SMALL`).
    #[must_use]
    pub const fn size_with(count: usize) -> usize {
        size_of::<Self>() + count * size_of::<EventRecord>()
    }

    /// Reads a reply and its events. `None` if it isn't one of this major version.
    #[must_use]
    pub fn read(reply: &[u8]) -> Option<(Self, impl Iterator<Item = EventRecord>)> {
        let (events, fixed) = read_padded::<Self>(reply)?;
        let stride = usize::try_from(events.record_size.get()).ok()?;
        let count = usize::try_from(events.count.get()).ok()?;
        let records = reply.get(fixed..)?;
        (records.len() >= stride.checked_mul(count)?)
            .then(|| (events, read_array(records, stride, count)))
    }
}

impl EventKind {
    /// Whether it always tells of something else than a connection.
    #[must_use]
    pub const fn is_observation(self) -> bool {
        matches!(self, Self::Released | Self::IcmpError | Self::Discarded)
    }
}

/// One event. Fields that an event's kind doesn't speak of are zero.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EventRecord {
    /// Rises by one with every event, those dropped included; from 1.
    pub sequence: U64,
    /// When, in units of 100 ns since 1601-01-01 UTC (Windows system time).
    pub time: U64,
    /// An [`EventKind`].
    pub kind: u8,
    /// An [`Operation`], of an `Authorize`.
    pub operation: u8,
    /// The decision: 0 none, else an [`Action`](crate::policy::Action).
    pub verdict: u8,
    /// Who began the connection: 0 unknown, else a [`Direction`](crate::policy::Direction).
    pub direction: u8,
    /// 0 none, else a [`Family`](crate::callout::Family).
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`HostSource`]; 0 while not known.
    pub host_source: u8,
    /// Length of `user` in bytes; 0 unknown.
    pub user_length: u8,
    /// [`PROVISIONAL`](Self::PROVISIONAL) and so on.
    pub flags: U16,
    /// Length of `application` in code units.
    pub application_length: U16,
    /// Index of the rule that decided, [`NO_RULE`] for the default action.
    pub rule: U32,
    /// Epoch of the policy that decided; 0 without a policy.
    pub epoch: U64,
    /// WFP's handle of the flow, the same in all events of it; 0 where there is no flow.
    pub flow: U64,
    /// The process that owns the endpoint; 0 unknown.
    pub process_id: U64,
    /// Local IP address in network order; IPv4 in the first four bytes.
    pub local_address: [u8; 16],
    /// Remote IP address, likewise.
    pub remote_address: [u8; 16],
    /// Local port; for ICMP the message's type, as WFP has it.
    pub local_port: U16,
    /// Remote port; for ICMP the message's code.
    pub remote_port: U16,
    /// Indications of sent data (stream segments or datagrams).
    pub packets_sent: U64,
    /// Indications of received data.
    pub packets_received: U64,
    /// Bytes sent: TCP payload, or datagram payload.
    pub bytes_sent: U64,
    /// Bytes received.
    pub bytes_received: U64,
    /// As the kind says.
    pub value: [U64; 2],
    /// The user's SID as Windows lays it out; `user_length` bytes.
    pub user: [u8; MAX_SID],
    /// Length of `host` in bytes.
    pub host_length: u8,
    /// The host name, lower-case ASCII without the trailing dot; `host_length` bytes.
    pub host: [u8; MAX_HOST],
    /// The application's path in NT form (`\device\harddiskvolume…`), UTF-16; `application_length` units.
    pub application: [U16; MAX_PATH_UNITS],
    /// Where a redirected connection goes instead of its remote side, or a socket is bound instead of its local one, in
    /// network order; IPv4 in the first four bytes.
    pub target_address: [u8; 16],
    /// The port there; 0 where nothing was redirected, and of a bind whose port the system chooses.
    pub target_port: U16,
    /// Zero.
    pub reserved: [u8; 6],
    /// Of an ICMP error, who reports it: an address in network order, IPv4 in the first four bytes.
    pub reporter: [u8; 16],
    /// The LUID of the network interface that the packets take, its type in the highest 16 bits; 0 unknown.
    pub interface: U64,
}

wire_enum! {
    /// Why shaping drops a packet.
    pub enum PacketDrop: u8 {
        /// The rule wants so many to be lost.
        Lost = 1, "lost";
        /// More waits than the rule allows.
        QueueFull = 2, "queue full";
    }
}

/// What of a packet was changed besides its ends, in an event's [`value`](EventRecord::value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketChange {
    /// The differentiated services code point that it has now.
    pub dscp: Option<u8>,
    /// The time to live, or hop limit, that it has now.
    pub hop_limit: Option<u8>,
}

impl PacketChange {
    /// What an event carries: the code point with bit 8, then the limit with bit 24.
    #[must_use]
    pub fn to_value(self) -> u64 {
        let part = |part: Option<u8>| part.map_or(0, |part| 0x100 | u64::from(part));
        part(self.dscp) | part(self.hop_limit) << 16
    }
}

/// Why something was discarded, in an event's [`value`](EventRecord::value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// The filter that did it; 0 if none did.
    pub filter: u64,
    /// The run-time identifier of the layer that shows it.
    pub layer: u16,
    /// `FWPS_DISCARD_MODULE0`: 0 the IP layer, 1 the transport, 2 WFP.
    pub module: u8,
    /// Why, in the terms of the module: `IP_DISCARD_REASON`, `INET_DISCARD_REASON`, `FWPS_GENERAL_DISCARD_REASON`.
    pub reason: u32,
}

impl Discard {
    /// What an event carries.
    #[must_use]
    pub fn to_value(self) -> [U64; 2] {
        let place = u64::from(self.layer) << 48 | u64::from(self.module) << 32;
        [
            U64::new(self.filter),
            U64::new(place | u64::from(self.reason)),
        ]
    }
}

impl EventRecord {
    /// The verdict may be changed when the host name is known.
    pub const PROVISIONAL: u16 = 1;
    /// `application` is cut off.
    pub const APPLICATION_TRUNCATED: u16 = 2;
    /// WFP asked again for a connection it had asked about before.
    pub const REAUTHORIZATION: u16 = 4;
    /// The matching rule asks for its matches to be logged.
    pub const LOGGED: u16 = 8;
    /// The host is the name in a `ClientHello` that has an encrypted one in it too (RFC 9849), or what looks like one: it is
    /// the name of who decrypts that, and need not be the server that is meant.
    pub const ENCRYPTED_HELLO: u16 = 0x0010;
    /// It was found, or decided, out of band.
    pub const OUT_OF_BAND: u16 = 0x0020;
    /// A raw socket is bound.
    pub const RAW_SOCKET: u16 = 0x0100;
    /// The socket is to see all packets of an interface; `value[0]` is what it asks for (`SIO_RCVALL`).
    pub const PROMISCUOUS: u16 = 0x0200;
    /// The system chose the port that is bound.
    pub const ANY_PORT: u16 = 0x0400;

    /// The host name, if there is one and it is text.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let host = self
            .host
            .get(..usize::from(self.host_length))
            .filter(|host| !host.is_empty())?;
        core::str::from_utf8(host).ok()
    }

    /// The application path's code units.
    pub fn application(&self) -> impl Iterator<Item = u16> {
        self.application
            .iter()
            .take(usize::from(self.application_length.get()))
            .map(|unit| unit.get())
    }

    /// The user's SID; empty if unknown.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        self.user
            .get(..usize::from(self.user_length))
            .unwrap_or_default()
    }

    /// Whether it tells of something else than a connection: those events a policy asks for with `observe`.
    #[must_use]
    pub const fn is_observation(&self) -> bool {
        matches!(EventKind::from_raw(self.kind), Some(kind) if kind.is_observation())
            || self.operation == Operation::Bind.raw()
    }

    /// Why it was discarded, of a [`Discarded`](EventKind::Discarded).
    #[must_use]
    pub fn discard(&self) -> Option<Discard> {
        let [filter, place] = self.value.map(U64::get);
        let [layer_high, layer_low, _, module, reason @ ..] = place.to_be_bytes();
        (self.kind == EventKind::Discarded.raw()).then(|| Discard {
            filter,
            layer: u16::from_be_bytes([layer_high, layer_low]),
            module,
            reason: u32::from_be_bytes(reason),
        })
    }

    /// The type and the code of the message, of an [`IcmpError`](EventKind::IcmpError).
    #[must_use]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        let [kind, code, ..] = self.value[0].to_bytes();
        (self.kind == EventKind::IcmpError.raw()).then_some((kind, code))
    }

    /// What was changed, of a [`PacketsChanged`](EventKind::PacketsChanged).
    #[must_use]
    pub fn packet_change(&self) -> Option<PacketChange> {
        let [dscp, has_dscp, limit, has_limit, ..] = self.value[0].to_bytes();
        (self.kind == EventKind::PacketsChanged.raw()).then_some(PacketChange {
            dscp: (has_dscp & 1 != 0).then_some(dscp),
            hop_limit: (has_limit & 1 != 0).then_some(limit),
        })
    }

    /// Why, of a [`PacketsDropped`](EventKind::PacketsDropped).
    #[must_use]
    pub fn packet_drop(&self) -> Option<PacketDrop> {
        let [why, ..] = self.value[0].to_bytes();
        (self.kind == EventKind::PacketsDropped.raw())
            .then_some(why)
            .and_then(PacketDrop::from_raw)
    }

    /// The index of the rule that decided.
    #[must_use]
    pub fn rule(&self) -> Option<u32> {
        Some(self.rule.get()).filter(|&rule| rule != NO_RULE)
    }
}

impl Default for EventRecord {
    fn default() -> Self {
        let mut record = Self::new_zeroed();
        record.rule = U32::new(NO_RULE);
        record
    }
}

impl core::fmt::Debug for EventRecord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EventRecord")
            .field("sequence", &self.sequence.get())
            .field("kind", &EventKind::from_raw(self.kind))
            .field("verdict", &crate::policy::Action::from_raw(self.verdict))
            .field("rule", &self.rule())
            .field("flow", &self.flow.get())
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}
