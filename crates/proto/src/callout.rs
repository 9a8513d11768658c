//! The driver's callouts by name: what a status reply's entries mean.

use crate::wire::wire_enum;

wire_enum! {
    /// What a callout does, whatever the IP version.
    pub enum CalloutKind: u8 {
        /// Authorizes outgoing connections.
        Connect = 1, "connect";
        /// Authorizes incoming connections.
        RecvAccept = 2, "accept";
        /// Authorizes listening.
        Listen = 3, "listen";
        /// Begins to follow a flow.
        FlowEstablished = 4, "flow-established";
        /// Sees a TCP flow's data.
        Stream = 5, "stream";
        /// Sees the datagrams of a flow that is not TCP.
        Datagram = 6, "datagram";
        /// Sees an endpoint's end.
        EndpointClosure = 7, "endpoint-closure";
        /// Sends outgoing connections to a proxy.
        ConnectRedirect = 8, "connect-redirect";
        /// Gives sockets another local address.
        BindRedirect = 9, "bind-redirect";
        /// Changes and shapes packets that arrive.
        InboundPacket = 10, "inbound-packet";
        /// Changes and shapes packets that are sent.
        OutboundPacket = 11, "outbound-packet";
        /// Authorizes binds, raw sockets and those that are to see all packets.
        Bind = 32, "bind";
        /// Sees the end of what a bind has assigned.
        Release = 33, "release";
        /// Decides about ICMP errors that come in.
        InboundIcmpError = 34, "inbound-icmp-error";
        /// Decides about ICMP errors that go out.
        OutboundIcmpError = 35, "outbound-icmp-error";
        /// Decides about forwarded packets, and copies them to who captures.
        Forward = 36, "forward";
        /// Copies packets that come in to who captures.
        InboundCapture = 37, "inbound-capture";
        /// Copies packets that go out to who captures.
        OutboundCapture = 38, "outbound-capture";
        /// Sees what is discarded at its layer, as all that follow.
        InboundPacketDiscard = 40, "inbound-packet-discard";
        /// See above.
        OutboundPacketDiscard = 41, "outbound-packet-discard";
        /// See above.
        ForwardDiscard = 42, "forward-discard";
        /// See above.
        InboundTransportDiscard = 43, "inbound-transport-discard";
        /// See above.
        OutboundTransportDiscard = 44, "outbound-transport-discard";
        /// See above.
        DatagramDiscard = 45, "datagram-discard";
        /// See above.
        InboundIcmpErrorDiscard = 46, "inbound-icmp-error-discard";
        /// See above.
        OutboundIcmpErrorDiscard = 47, "outbound-icmp-error-discard";
        /// See above.
        BindDiscard = 48, "bind-discard";
        /// See above.
        ListenDiscard = 49, "listen-discard";
        /// See above.
        AcceptDiscard = 50, "accept-discard";
        /// See above.
        ConnectDiscard = 51, "connect-discard";
    }
}

wire_enum! {
    /// An IP version.
    pub enum Family: u8 {
        /// IPv4.
        V4 = 4, "v4";
        /// IPv6.
        V6 = 6, "v6";
    }
}

/// One callout of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CalloutInfo {
    /// What it does.
    pub kind: CalloutKind,
    /// For which IP version.
    pub family: Family,
    /// Its name, which is also its display name in the filter engine after "Portcullis ".
    pub name: &'static str,
    /// The name of its layer, as in `fwpmk.h` without the `FWPM_LAYER_` in front.
    pub layer: &'static str,
}

/// Every callout, in the order of registration and of a status reply.
pub const CALLOUTS: [CalloutInfo; 60] = [
    callout(
        CalloutKind::Connect,
        Family::V4,
        "connect-v4",
        "ALE_AUTH_CONNECT_V4",
    ),
    callout(
        CalloutKind::Connect,
        Family::V6,
        "connect-v6",
        "ALE_AUTH_CONNECT_V6",
    ),
    callout(
        CalloutKind::RecvAccept,
        Family::V4,
        "accept-v4",
        "ALE_AUTH_RECV_ACCEPT_V4",
    ),
    callout(
        CalloutKind::RecvAccept,
        Family::V6,
        "accept-v6",
        "ALE_AUTH_RECV_ACCEPT_V6",
    ),
    callout(
        CalloutKind::Listen,
        Family::V4,
        "listen-v4",
        "ALE_AUTH_LISTEN_V4",
    ),
    callout(
        CalloutKind::Listen,
        Family::V6,
        "listen-v6",
        "ALE_AUTH_LISTEN_V6",
    ),
    callout(
        CalloutKind::FlowEstablished,
        Family::V4,
        "flow-established-v4",
        "ALE_FLOW_ESTABLISHED_V4",
    ),
    callout(
        CalloutKind::FlowEstablished,
        Family::V6,
        "flow-established-v6",
        "ALE_FLOW_ESTABLISHED_V6",
    ),
    callout(CalloutKind::Stream, Family::V4, "stream-v4", "STREAM_V4"),
    callout(CalloutKind::Stream, Family::V6, "stream-v6", "STREAM_V6"),
    callout(
        CalloutKind::Datagram,
        Family::V4,
        "datagram-v4",
        "DATAGRAM_DATA_V4",
    ),
    callout(
        CalloutKind::Datagram,
        Family::V6,
        "datagram-v6",
        "DATAGRAM_DATA_V6",
    ),
    callout(
        CalloutKind::EndpointClosure,
        Family::V4,
        "endpoint-closure-v4",
        "ALE_ENDPOINT_CLOSURE_V4",
    ),
    callout(
        CalloutKind::EndpointClosure,
        Family::V6,
        "endpoint-closure-v6",
        "ALE_ENDPOINT_CLOSURE_V6",
    ),
    callout(
        CalloutKind::ConnectRedirect,
        Family::V4,
        "connect-redirect-v4",
        "ALE_CONNECT_REDIRECT_V4",
    ),
    callout(
        CalloutKind::ConnectRedirect,
        Family::V6,
        "connect-redirect-v6",
        "ALE_CONNECT_REDIRECT_V6",
    ),
    callout(
        CalloutKind::BindRedirect,
        Family::V4,
        "bind-redirect-v4",
        "ALE_BIND_REDIRECT_V4",
    ),
    callout(
        CalloutKind::BindRedirect,
        Family::V6,
        "bind-redirect-v6",
        "ALE_BIND_REDIRECT_V6",
    ),
    callout(
        CalloutKind::InboundPacket,
        Family::V4,
        "inbound-packet-v4",
        "INBOUND_IPPACKET_V4",
    ),
    callout(
        CalloutKind::InboundPacket,
        Family::V6,
        "inbound-packet-v6",
        "INBOUND_IPPACKET_V6",
    ),
    callout(
        CalloutKind::OutboundPacket,
        Family::V4,
        "outbound-packet-v4",
        "OUTBOUND_IPPACKET_V4",
    ),
    callout(
        CalloutKind::OutboundPacket,
        Family::V6,
        "outbound-packet-v6",
        "OUTBOUND_IPPACKET_V6",
    ),
    callout(
        CalloutKind::Bind,
        Family::V4,
        "bind-v4",
        "ALE_RESOURCE_ASSIGNMENT_V4",
    ),
    callout(
        CalloutKind::Bind,
        Family::V6,
        "bind-v6",
        "ALE_RESOURCE_ASSIGNMENT_V6",
    ),
    callout(
        CalloutKind::Release,
        Family::V4,
        "release-v4",
        "ALE_RESOURCE_RELEASE_V4",
    ),
    callout(
        CalloutKind::Release,
        Family::V6,
        "release-v6",
        "ALE_RESOURCE_RELEASE_V6",
    ),
    callout(
        CalloutKind::InboundIcmpError,
        Family::V4,
        "inbound-icmp-error-v4",
        "INBOUND_ICMP_ERROR_V4",
    ),
    callout(
        CalloutKind::InboundIcmpError,
        Family::V6,
        "inbound-icmp-error-v6",
        "INBOUND_ICMP_ERROR_V6",
    ),
    callout(
        CalloutKind::OutboundIcmpError,
        Family::V4,
        "outbound-icmp-error-v4",
        "OUTBOUND_ICMP_ERROR_V4",
    ),
    callout(
        CalloutKind::OutboundIcmpError,
        Family::V6,
        "outbound-icmp-error-v6",
        "OUTBOUND_ICMP_ERROR_V6",
    ),
    callout(
        CalloutKind::Forward,
        Family::V4,
        "forward-v4",
        "IPFORWARD_V4",
    ),
    callout(
        CalloutKind::Forward,
        Family::V6,
        "forward-v6",
        "IPFORWARD_V6",
    ),
    callout(
        CalloutKind::InboundCapture,
        Family::V4,
        "inbound-capture-v4",
        "INBOUND_IPPACKET_V4",
    ),
    callout(
        CalloutKind::InboundCapture,
        Family::V6,
        "inbound-capture-v6",
        "INBOUND_IPPACKET_V6",
    ),
    callout(
        CalloutKind::OutboundCapture,
        Family::V4,
        "outbound-capture-v4",
        "OUTBOUND_IPPACKET_V4",
    ),
    callout(
        CalloutKind::OutboundCapture,
        Family::V6,
        "outbound-capture-v6",
        "OUTBOUND_IPPACKET_V6",
    ),
    callout(
        CalloutKind::InboundPacketDiscard,
        Family::V4,
        "inbound-packet-discard-v4",
        "INBOUND_IPPACKET_V4_DISCARD",
    ),
    callout(
        CalloutKind::InboundPacketDiscard,
        Family::V6,
        "inbound-packet-discard-v6",
        "INBOUND_IPPACKET_V6_DISCARD",
    ),
    callout(
        CalloutKind::OutboundPacketDiscard,
        Family::V4,
        "outbound-packet-discard-v4",
        "OUTBOUND_IPPACKET_V4_DISCARD",
    ),
    callout(
        CalloutKind::OutboundPacketDiscard,
        Family::V6,
        "outbound-packet-discard-v6",
        "OUTBOUND_IPPACKET_V6_DISCARD",
    ),
    callout(
        CalloutKind::ForwardDiscard,
        Family::V4,
        "forward-discard-v4",
        "IPFORWARD_V4_DISCARD",
    ),
    callout(
        CalloutKind::ForwardDiscard,
        Family::V6,
        "forward-discard-v6",
        "IPFORWARD_V6_DISCARD",
    ),
    callout(
        CalloutKind::InboundTransportDiscard,
        Family::V4,
        "inbound-transport-discard-v4",
        "INBOUND_TRANSPORT_V4_DISCARD",
    ),
    callout(
        CalloutKind::InboundTransportDiscard,
        Family::V6,
        "inbound-transport-discard-v6",
        "INBOUND_TRANSPORT_V6_DISCARD",
    ),
    callout(
        CalloutKind::OutboundTransportDiscard,
        Family::V4,
        "outbound-transport-discard-v4",
        "OUTBOUND_TRANSPORT_V4_DISCARD",
    ),
    callout(
        CalloutKind::OutboundTransportDiscard,
        Family::V6,
        "outbound-transport-discard-v6",
        "OUTBOUND_TRANSPORT_V6_DISCARD",
    ),
    callout(
        CalloutKind::DatagramDiscard,
        Family::V4,
        "datagram-discard-v4",
        "DATAGRAM_DATA_V4_DISCARD",
    ),
    callout(
        CalloutKind::DatagramDiscard,
        Family::V6,
        "datagram-discard-v6",
        "DATAGRAM_DATA_V6_DISCARD",
    ),
    callout(
        CalloutKind::InboundIcmpErrorDiscard,
        Family::V4,
        "inbound-icmp-error-discard-v4",
        "INBOUND_ICMP_ERROR_V4_DISCARD",
    ),
    callout(
        CalloutKind::InboundIcmpErrorDiscard,
        Family::V6,
        "inbound-icmp-error-discard-v6",
        "INBOUND_ICMP_ERROR_V6_DISCARD",
    ),
    callout(
        CalloutKind::OutboundIcmpErrorDiscard,
        Family::V4,
        "outbound-icmp-error-discard-v4",
        "OUTBOUND_ICMP_ERROR_V4_DISCARD",
    ),
    callout(
        CalloutKind::OutboundIcmpErrorDiscard,
        Family::V6,
        "outbound-icmp-error-discard-v6",
        "OUTBOUND_ICMP_ERROR_V6_DISCARD",
    ),
    callout(
        CalloutKind::BindDiscard,
        Family::V4,
        "bind-discard-v4",
        "ALE_RESOURCE_ASSIGNMENT_V4_DISCARD",
    ),
    callout(
        CalloutKind::BindDiscard,
        Family::V6,
        "bind-discard-v6",
        "ALE_RESOURCE_ASSIGNMENT_V6_DISCARD",
    ),
    callout(
        CalloutKind::ListenDiscard,
        Family::V4,
        "listen-discard-v4",
        "ALE_AUTH_LISTEN_V4_DISCARD",
    ),
    callout(
        CalloutKind::ListenDiscard,
        Family::V6,
        "listen-discard-v6",
        "ALE_AUTH_LISTEN_V6_DISCARD",
    ),
    callout(
        CalloutKind::AcceptDiscard,
        Family::V4,
        "accept-discard-v4",
        "ALE_AUTH_RECV_ACCEPT_V4_DISCARD",
    ),
    callout(
        CalloutKind::AcceptDiscard,
        Family::V6,
        "accept-discard-v6",
        "ALE_AUTH_RECV_ACCEPT_V6_DISCARD",
    ),
    callout(
        CalloutKind::ConnectDiscard,
        Family::V4,
        "connect-discard-v4",
        "ALE_AUTH_CONNECT_V4_DISCARD",
    ),
    callout(
        CalloutKind::ConnectDiscard,
        Family::V6,
        "connect-discard-v6",
        "ALE_AUTH_CONNECT_V6_DISCARD",
    ),
];

const fn callout(
    kind: CalloutKind,
    family: Family,
    name: &'static str,
    layer: &'static str,
) -> CalloutInfo {
    CalloutInfo {
        kind,
        family,
        name,
        layer,
    }
}
