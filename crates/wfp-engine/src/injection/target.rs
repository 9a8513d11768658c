//! Where what is injected goes.

use wfp_schema::StreamFlags;
use wfp_schema::flags::InjectionType;

/// Where an injected packet comes in, and which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectionPoint {
    /// `FwpsInjectNetworkSendAsync0`: on from `OUTBOUND_IPPACKET`.
    NetworkSend,
    /// `FwpsInjectNetworkReceiveAsync0`: on from `INBOUND_IPPACKET`.
    NetworkReceive,
    /// `FwpsInjectTransportSendAsync0`: on from ALE and `DATAGRAM_DATA`, TCP from `OUTBOUND_TRANSPORT`.
    TransportSend,
    /// `FwpsInjectTransportReceiveAsync0`: on from `INBOUND_TRANSPORT`.
    TransportReceive,
    /// `FwpsInjectForwardAsync0`: on its way to another host, no layer sees it.
    Forward,
    /// `FwpsInjectMacSendAsync0`: a frame, on from the outbound layers of the data link.
    MacSend,
    /// `FwpsInjectMacReceiveAsync0`: a frame, on from the inbound layers of the data link.
    MacReceive,
    /// `FwpsInjectvSwitchEthernetIngressAsync0`: a frame, on from the ingress layers of a virtual switch.
    VSwitchIngress,
}

impl InjectionPoint {
    /// Whether it leaves the host, or this part of it.
    #[must_use]
    pub const fn is_outbound(self) -> bool {
        matches!(
            self,
            Self::NetworkSend | Self::TransportSend | Self::Forward | Self::MacSend
        )
    }

    /// Whether it is a path of the stack on which a list has one net buffer.
    /// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-0x1d3--wfp-invalid-operation>
    #[must_use]
    pub const fn is_receive(self) -> bool {
        matches!(self, Self::NetworkReceive | Self::TransportReceive)
    }

    /// Whether what is injected begins with an IP header.
    #[must_use]
    pub const fn begins_with_ip(self) -> bool {
        matches!(
            self,
            Self::NetworkSend | Self::NetworkReceive | Self::TransportReceive | Self::Forward
        )
    }

    /// Whether TCP packets may not be injected here in the classify.
    #[must_use]
    pub const fn is_transport(self) -> bool {
        matches!(self, Self::TransportSend | Self::TransportReceive)
    }
}

/// What an injection goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectionTarget {
    /// The way of packets or frames.
    Packet(InjectionPoint),
    /// A stream, with the direction and the kind of the data.
    Stream(StreamFlags),
}

impl InjectionTarget {
    /// The types of handles with which this can be injected.
    #[must_use]
    pub const fn handle_types(self) -> InjectionType {
        match self {
            Self::Packet(InjectionPoint::NetworkSend | InjectionPoint::NetworkReceive) => {
                InjectionType::NETWORK
            }
            Self::Packet(InjectionPoint::TransportSend | InjectionPoint::TransportReceive) => {
                InjectionType::TRANSPORT
            }
            Self::Packet(InjectionPoint::Forward) => InjectionType::FORWARD,
            Self::Packet(
                InjectionPoint::MacSend
                | InjectionPoint::MacReceive
                | InjectionPoint::VSwitchIngress,
            ) => InjectionType::L2,
            Self::Stream(_) => InjectionType::STREAM,
        }
    }

    /// Whether a list may hold one net buffer only.
    #[must_use]
    pub const fn is_receive(self) -> bool {
        match self {
            Self::Packet(point) => point.is_receive(),
            Self::Stream(_) => false,
        }
    }

    /// Whether this ends a direction of a stream, which needs no data.
    #[must_use]
    pub fn closes(self) -> bool {
        match self {
            Self::Packet(_) => false,
            Self::Stream(flags) => {
                flags.intersects(StreamFlags::RECEIVE_DISCONNECT | StreamFlags::SEND_DISCONNECT)
            }
        }
    }
}
