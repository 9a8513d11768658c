//! Statistics: one counter for every reason that something was dropped, failed, or is worth knowing.

use crate::message::{Header, read_array, read_padded};
use crate::wire::wire_enum;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

wire_enum! {
    /// A counter. Its value is its place in the array of a [`StatisticsReply`].
    pub enum Counter: u16 {
        /// Connections, accepts and listens permitted.
        Permitted = 0, "permitted";
        /// Connections, accepts and listens blocked.
        Blocked = 1, "blocked";
        /// Connections admitted until their host name is known.
        PendingHost = 2, "pending host";
        /// Connections, accepts and listens about which the driver had no opinion: no policy was set.
        NoPolicy = 3, "no policy";
        /// Decisions by the policy's default action.
        DefaultAction = 4, "default action";

        /// Flows that began to be followed.
        FlowsCreated = 5, "flows created";
        /// Followed flows that ended.
        FlowsDeleted = 6, "flows deleted";
        /// Flows not followed because the table was full.
        FlowTableFull = 7, "flow table full";
        /// Flows to be aborted because they could not be followed, and a rule needs their host or their data.
        FlowRefused = 8, "flow refused";
        /// Indications whose flow handle named no living flow.
        FlowStale = 9, "stale flow handle";
        /// Indications without a flow handle.
        FlowMissing = 10, "no flow handle";
        /// `FwpsFlowAssociateContext0` failed.
        FlowAssociateFailed = 11, "flow associate failed";
        /// `FwpsFlowRemoveContext0` failed.
        FlowRemoveFailed = 12, "flow remove failed";
        /// Flows decided again because the policy changed.
        FlowsRedecided = 13, "flows decided again";

        /// Stream connections dropped by a decision made after they began.
        StreamsDropped = 14, "streams dropped";
        /// Datagrams blocked.
        DatagramsBlocked = 15, "datagrams blocked";

        /// Host names from a TLS `ClientHello`.
        HostTls = 16, "host from TLS";
        /// Host names from an HTTP/1 request.
        HostHttp = 17, "host from HTTP";
        /// Host names from a DNS question.
        HostDns = 18, "host from DNS";
        /// Flows whose first bytes are of no protocol that names a host.
        HostNotRecognized = 19, "no host: protocol not recognized";
        /// Flows whose protocol names a host but in which it was left out.
        HostAbsent = 20, "no host: left out";
        /// Flows whose first message broke its protocol's rules.
        HostMalformed = 21, "no host: malformed";
        /// Flows whose first message went on beyond the parser's bound.
        HostTooLong = 22, "no host: beyond the bound";
        /// Flows that ended, or whose responder spoke first, before a host was named.
        HostNeverSent = 23, "no host: never sent";

        /// Events put into the ring.
        EventsWritten = 24, "events written";
        /// Events handed to a reader.
        EventsRead = 25, "events read";
        /// Events dropped because the ring was full.
        EventsDropped = 26, "events dropped";

        /// A layer's field was missing or of another type than documented.
        FieldMissing = 27, "field missing";
        /// Metadata that the callout needs was absent.
        MetadataMissing = 28, "metadata missing";
        /// A packet's or stream's bytes could not be mapped, or a discarded packet's IP header was not found.
        DataUnavailable = 29, "data unavailable";
        /// Application paths longer than a flow keeps.
        PathTruncated = 30, "application path truncated";
        /// Users whose SID could not be read.
        UserUnavailable = 31, "user unavailable";
        /// Verdicts not written because an earlier filter had taken the right.
        RightTaken = 32, "right to decide taken";

        /// Control requests shorter than their fixed part.
        RequestTooShort = 33, "request too short";
        /// Control requests of another protocol version.
        RequestVersion = 34, "request of another version";
        /// Control requests whose sizes, flags or reserved fields are wrong.
        RequestInvalid = 35, "request invalid";
        /// Control requests whose output buffer was too small.
        OutputTooSmall = 36, "output too small";
        /// Control requests of an unknown code.
        RequestUnknown = 37, "request unknown";
        /// Control requests refused because the driver was stopping.
        RequestRefused = 38, "request refused while stopping";
        /// Policies accepted.
        PoliciesSet = 39, "policies set";
        /// Policies that failed validation.
        PolicyRejected = 40, "policies rejected";

        /// Allocations that failed.
        OutOfMemory = 41, "out of memory";
        /// A callout's registration failed.
        RegisterFailed = 42, "register failed";
        /// A callout was busy when it was to be unregistered.
        UnregisterBusy = 43, "unregister busy";
        /// A call of the filter engine's management functions failed.
        EngineFailed = 44, "filter engine call failed";
        /// The base filtering engine came up.
        BfeStarted = 45, "BFE started";
        /// The base filtering engine went away.
        BfeStopped = 46, "BFE stopped";
        /// An endpoint closed.
        EndpointsClosed = 47, "endpoints closed";
        /// DNS responses and other datagrams of a flow's responder, permitted as its last question was.
        RepliesFollowed = 48, "replies followed";
        /// Host names from a QUIC connection's first packets.
        HostQuic = 49, "host from QUIC";
        /// QUIC datagrams that came while as many connections' names were sought as there is room for. Those whose
        /// host decides were discarded, to be sent again.
        QuicNoRoom = 50, "no room for QUIC";
        /// Flows in whose data a rule found a literal.
        ContentMatched = 51, "content found";
        /// Connections, accepts and listens that somebody was asked about.
        Asked = 52, "asked";
        /// Connections sent to a proxy.
        Redirected = 53, "redirected";
        /// Connections that were to be sent to a proxy, and for which there was no memory.
        RedirectFailed = 54, "redirect failed";
        /// Connections of rules with a proxy that was not there, or not for them.
        ProxyMissing = 55, "no proxy";
        /// Connections of rules with a proxy that another product had redirected.
        RedirectedByOthers = 56, "redirected by others";
        /// Connections of rules with a proxy that were a proxy's own, or had been redirected before.
        RedirectedBefore = 57, "not redirected again";
        /// Redirected connections that took the place of another, which then was not yet established.
        OriginalForgotten = 58, "original destination forgotten";
        /// Sockets bound to another address.
        Bound = 59, "bound";
        /// Sockets that were to be bound to another address, and were not.
        BindFailed = 60, "bind failed";
        /// Proxies registered.
        ProxiesRegistered = 61, "proxies registered";
        /// Proxies whose program closed its handle.
        ProxiesGone = 62, "proxies gone";
        /// Proxies refused: another one is there, or there are too many.
        ProxyRefused = 63, "proxies refused";
        /// Processes that began without a place in the table: rules do not take them for children.
        ProcessNoRoom = 64, "no room for process";
        /// Processes that began whose image has no name.
        ProcessNameless = 65, "process without a name";

        /// Packets changed and put back at once.
        PacketsChanged = 66, "packets changed";
        /// Packets that waited.
        PacketsDelayed = 67, "packets delayed";
        /// Packets lost because a rule wants so many to be.
        PacketsLost = 68, "packets lost";
        /// Packets dropped because too much was waiting.
        PacketQueueFull = 69, "packet queue full";
        /// Packets for which there was no memory.
        PacketMemoryFull = 70, "packet memory full";
        /// Packets dropped because they could not be copied or changed, or the driver stopped.
        PacketsDropped = 71, "packets dropped";
        /// Packets that the stack did not take back.
        PacketNotInjected = 72, "packet not injected";
        /// Packets whose headers could not be read; they passed.
        PacketMalformed = 73, "packet malformed";
        /// Packets that another driver injected again and again; they passed.
        PacketLoops = 74, "packet loops";
        /// Connections whose packets could not be followed.
        PathTableFull = 75, "path table full";
        /// Connections whose translated remote side was another's already.
        PathTaken = 76, "path taken";

        /// Questions that were answered in time.
        Answered = 77, "answered";
        /// Questions whose time ran out: the rule's default decided.
        AskTimedOut = 78, "asked, time ran out";
        /// Questions that were open when nobody was there to answer any more: the rule's default decided.
        AskAbandoned = 79, "asked, nobody left";
        /// Operations of rules that ask while nobody was there to answer: the rule's default decided.
        AskNobody = 80, "not asked: nobody there";
        /// Operations of rules that ask while as many were held as there is room for: the rule's default decided.
        AskNoRoom = 81, "not asked: no room";
        /// Operations of rules that ask which the system did not let the driver hold, and about which no answer was
        /// remembered: the rule's default decided.
        AskCannotHold = 82, "not asked: cannot be held";
        /// Packets of operations that were held already.
        AskRepeated = 83, "asked already";
        /// Packets that were held and could not be sent on after a permit. Their senders send them again, or not.
        HeldPacketLost = 84, "held packet lost";
        /// Followed flows that ended because a new policy does not allow them.
        FlowsEnded = 85, "flows ended by a new policy";
        /// Binds, raw and promiscuous sockets blocked.
        BindsBlocked = 86, "binds blocked";
        /// Packets of other machines that were to be forwarded, blocked.
        ForwardBlocked = 87, "forwarded packets blocked";
        /// ICMP errors blocked.
        IcmpErrorsBlocked = 88, "ICMP errors blocked";
        /// Packets and attempts that somebody discarded, as the discard layers show them.
        Discards = 89, "discards seen";
        /// Endpoints whose traffic is not told at their end, because too many were open.
        EndpointTableFull = 90, "endpoint table full";
        /// Records dropped because the capture's ring was full.
        CaptureDropped = 91, "capture records dropped";

        /// Places at which streams were rewritten.
        StreamsRewritten = 92, "places rewritten in streams";
        /// Pieces of streams that were taken out of band.
        StreamPiecesHeld = 93, "pieces of streams held";
        /// Received data that was deferred, because enough waited already.
        StreamsDeferred = 94, "streams deferred";
        /// Injections into streams.
        StreamsInjected = 95, "injections into streams";
        /// Injections into streams that failed, at once or later.
        StreamNotInjected = 96, "injections into streams failed";
        /// Connections dropped because there was no room for what a rule does to their data.
        StreamNoRoom = 97, "no room for a stream";
        /// ICMP errors about packets of translated paths, translated too.
        IcmpErrorsTranslated = 98, "ICMP errors translated";
        /// Connections aborted because BFE stopped while data was out of their streams.
        StreamsInterrupted = 99, "streams interrupted";
        /// Host names in whose `ClientHello` is an encrypted one too, or what looks like one.
        HostEncrypted = 100, "hosts with an encrypted hello";
        /// Indications of streams that the stack was told to collect until the host is known.
        StreamsCollected = 101, "collected for the host";
        /// Buffers of more datagrams than are looked at in one, blocked as a whole.
        DatagramsTooMany = 102, "too many datagrams in one";
        /// A followed flow took another interface, and was decided again by it.
        FlowsMoved = 103, "flows moved to another interface";
    }
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The counter's place in an array of [`COUNT`](Self::COUNT).
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

const _: () = {
    let mut index = 0;
    while index < Counter::COUNT {
        assert!(
            Counter::ALL[index].index() == index,
            "counters are dense and in order"
        );
        index += 1;
    }
};

/// Reply to [`GetStatistics`](crate::device::ControlCode::GetStatistics).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct StatisticsReply {
    /// Size and version; the counters follow at `header.size`.
    pub header: Header,
    /// How many counters follow.
    pub count: U32,
    /// Zero.
    pub reserved: U32,
}

impl StatisticsReply {
    /// Bytes that the reply takes.
    pub const SIZE: usize = size_of::<Self>() + Counter::COUNT * size_of::<U64>();

    /// Writes the reply. Returns the bytes written; `None` if `output` is too small (`STATUS_BUFFER_TOO_SMALL`).
    #[allow(clippy::cast_possible_truncation, reason = "the counters are few")]
    pub fn write(counters: &[u64; Counter::COUNT], output: &mut [u8]) -> Option<usize> {
        let reply = Self {
            header: Header::of::<Self>(),
            count: U32::new(Counter::COUNT as u32),
            reserved: U32::ZERO,
        };
        let (fixed, array) = output
            .get_mut(..Self::SIZE)?
            .split_at_mut_checked(size_of::<Self>())?;
        reply.write_to(fixed).ok()?;
        counters.map(U64::new).write_to(array).ok()?;
        Some(Self::SIZE)
    }

    /// Reads a reply: each counter that both sides know, with its value.
    #[must_use]
    pub fn read(reply: &[u8]) -> Option<impl Iterator<Item = (Counter, u64)>> {
        let (fixed, offset) = read_padded::<Self>(reply)?;
        let count = usize::try_from(fixed.count.get()).ok()?;
        let values = read_array::<U64>(reply.get(offset..)?, size_of::<U64>(), count);
        Some(Counter::ALL.iter().copied().zip(values.map(U64::get)))
    }
}
