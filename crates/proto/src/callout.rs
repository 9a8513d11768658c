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
pub const CALLOUTS: [CalloutInfo; 22] = [
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
