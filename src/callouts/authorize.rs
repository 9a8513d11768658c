//! `ALE_AUTH_CONNECT` and `ALE_AUTH_RECV_ACCEPT`: may the connection be?

use portcullis_core::{
    Action, Connection, Decision, Direction, Endpoint, Subject, Transfer, Way, connection::TCP,
};
use portcullis_proto::{Counter, event::Operation};
use wfp::{
    NtStatus, Result,
    callout::{Callout, Classify, Counters},
    layer::{AleAuthConnect, AleAuthRecvAccept, LayerType},
    nbl::Packet,
    schema::{ConditionFlags, IpVersion, flags::ReauthorizeReason},
    verdict::Authorization,
};

use super::{connection, datagram};
use crate::{
    ask::{self, HeldPacket, Kept},
    redirect,
    state::{self, Core},
};

/// Outgoing connections, and first datagrams to a peer.
pub(super) struct Connect;

impl Callout for Connect {
    type Layer = AleAuthConnect;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleAuthConnect>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let mut connection = connection::connection(core, call, Direction::Outbound);
        let way = way(core, call, &mut connection);
        // TCP has no packet to keep: its SYN is sent when the connect goes on.
        let packet = call.data.filter(|_| connection.protocol != TCP);
        let authorizing = Authorizing {
            operation: Operation::Connect,
            connection: &connection,
            way,
            packet,
        };
        let header = call.metadata.transport_header_size().unwrap_or(0);
        let decision = authorizing.decide(core, call, || {
            authorizing.keep(Transfer::Sent, header, |packet| {
                HeldPacket::of_connect(call, packet)
            })
        });
        let flags = call.fields.flags();
        if !flags.contains(ConditionFlags::IS_HONORING_POLICY_AUTHORIZE)
            && call
                .fields
                .reauthorize_reason()
                .contains(ReauthorizeReason::CLASSIFY_COMPLETION)
        {
            ask::resumed();
        }
        keep_origin(core, call, flags, &connection, way, &decision);
        verdict(&decision)
    }
}

/// Incoming connections, and first datagrams from a peer.
pub(super) struct RecvAccept;

impl Callout for RecvAccept {
    type Layer = AleAuthRecvAccept;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleAuthRecvAccept>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let connection = connection::connection(core, call, Direction::Inbound);
        let authorizing = Authorizing {
            operation: Operation::Accept,
            connection: &connection,
            way: Way::Free,
            packet: call.data,
        };
        let decision = authorizing.decide(core, call, || {
            // Without its packet nothing was ever received.
            authorizing.packet.ok_or(NtStatus::UNSUCCESSFUL)?;
            authorizing.keep(Transfer::Received, 0, |packet| {
                HeldPacket::of_accept(call, packet)
            })
        });
        let flags = call.fields.flags();
        keep_origin(core, call, flags, &connection, Way::Free, &decision);
        verdict(&decision)
    }
}

/// What is authorized. The layer says who began the connection, also when it is authorized again by
/// a packet that goes the other way.
struct Authorizing<'c> {
    operation: Operation,
    connection: &'c Connection<'c>,
    way: Way,
    /// The packet that waits with it.
    packet: Option<Packet<'c>>,
}

impl Authorizing<'_> {
    /// Clones the packet of a connection that is held, if it is one datagram, whose payload begins behind `header` bytes.
    fn keep(
        &self,
        transfer: Transfer,
        header: u32,
        clone: impl FnOnce(Packet<'_>) -> Result<HeldPacket>,
    ) -> Result<Kept> {
        let Some(packet) = self.packet else {
            return Ok(Kept::Nothing);
        };
        let offload = packet.offload();
        let is_several = packet.buffers().any(|buffer| {
            let bytes = buffer.length().saturating_sub(header as usize);
            datagram::cut(self.connection.protocol, transfer, bytes, offload).datagrams() > 1
        });
        if is_several {
            return Ok(Kept::Datagrams);
        }
        clone(packet).map(Kept::Packet)
    }

    /// Decides, or asks; `keep` clones the packet for a connection that is held.
    fn decide<L: LayerType>(
        &self,
        core: &Core,
        call: &Classify<'_, L>,
        keep: impl FnOnce() -> Result<Kept>,
    ) -> Decision {
        let again = call.fields.flags().contains(ConditionFlags::IS_REAUTHORIZE);
        core.authorize_or_ask(
            self.way,
            self.operation,
            self.connection,
            again,
            |question| {
                let subject = Subject::connection(self.connection);
                ask::ask(core, call, &subject, question, self.packet, keep)
            },
        )
    }
}

/// How a connection came here. One that was redirected, by whomever, is decided by where it was to go: its remote side
/// becomes that.
fn way(core: &Core, call: &Classify<'_, AleAuthConnect>, connection: &mut Connection<'_>) -> Way {
    let flags = call.fields.flags();
    if flags.contains(ConditionFlags::IS_CONNECTION_REDIRECTED) {
        let target = connection.remote;
        match call.metadata.original_destination() {
            Some(original) => {
                connection.remote = Endpoint::new(original.ip(), original.port());
            }
            None => core.statistics().count(Counter::MetadataMissing),
        }
        return Way::Redirected(target);
    }
    let is_free = flags.contains(ConditionFlags::IS_PROXY_CONNECTION)
        // Asked about where a redirected connection was to go.
        || flags.contains(ConditionFlags::IS_HONORING_POLICY_AUTHORIZE)
        || redirect::is_proxy(connection.process_id);
    if is_free { Way::Free } else { Way::Straight }
}

/// Remembers of a connection that may be what the layers that follow do not show: where it was to go before it was
/// redirected, and the interface that its packets take if another one has its address.
fn keep_origin<L: LayerType>(
    core: &Core,
    call: &Classify<'_, L>,
    flags: ConditionFlags,
    connection: &Connection<'_>,
    way: Way,
    decision: &Decision,
) {
    let is_redirected = matches!(way, Way::Redirected(_));
    let is_elsewhere = !connection::is_local_interface(call, connection.interface);
    let is_again = flags.contains(ConditionFlags::IS_REAUTHORIZE);
    if !(is_redirected || is_elsewhere || is_again)
        || decision.action == Action::Block
        || (is_again && core.is_followed(connection.flow))
    {
        return;
    }
    if is_redirected || is_elsewhere {
        redirect::remember(connection);
    } else {
        // It had taken another way before.
        redirect::origin(connection.flow);
    }
}

/// What the core decided, as WFP says it.
pub(super) const fn verdict(decision: &Decision) -> Authorization {
    if decision.undecided {
        // The next filter decides: that of a protection at boot, if there is any.
        return Authorization::Continue;
    }
    match decision.action {
        Action::Permit => Authorization::Permit,
        Action::Block => Authorization::Block,
        // It is held, or a packet of what is held: neither may leave a trace.
        Action::Ask => Authorization::BlockSilently,
    }
}
