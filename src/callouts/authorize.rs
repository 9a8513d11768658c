//! `ALE_AUTH_CONNECT` and `ALE_AUTH_RECV_ACCEPT`: may the connection be?

use portcullis_core::{Action, Connection, Decision, Direction, Endpoint, Way};
use portcullis_proto::{Counter, event::Operation};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::{AleAuthConnect, AleAuthRecvAccept, LayerType},
    schema::{ConditionFlags, IpVersion},
    verdict::Authorization,
};

use super::connection;
use crate::{
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
        let decision = authorize(core, call, Operation::Connect, &connection, way);
        if matches!(way, Way::Redirected(_)) && decision.action != Action::Block {
            // The layers that follow show where it goes, not where it was to go.
            redirect::remember(connection.flow, connection.remote);
        }
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
        verdict(&authorize(
            core,
            call,
            Operation::Accept,
            &connection,
            Way::Free,
        ))
    }
}

/// The layer says who began the connection, also when it is authorized again by a packet that goes
/// the other way.
fn authorize<L: LayerType>(
    core: &Core,
    call: &Classify<'_, L>,
    operation: Operation,
    connection: &Connection<'_>,
    way: Way,
) -> Decision {
    let again = call.fields.flags().contains(ConditionFlags::IS_REAUTHORIZE);
    core.authorize_on(way, operation, connection, again)
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

/// What the core decided, as WFP says it.
pub(super) const fn verdict(decision: &Decision) -> Authorization {
    if decision.is_permit() {
        Authorization::Permit
    } else {
        Authorization::Block
    }
}
