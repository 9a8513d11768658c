//! `ALE_AUTH_CONNECT` and `ALE_AUTH_RECV_ACCEPT`: may the connection be?

use portcullis_core::{Decision, Direction};
use portcullis_proto::event::Operation;
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::{AleAuthConnect, AleAuthRecvAccept, LayerType},
    schema::{ConditionFlags, IpVersion},
    verdict::Authorization,
};

use super::connection;
use crate::state;

/// Outgoing connections, and first datagrams to a peer.
pub(super) struct Connect;

impl Callout for Connect {
    type Layer = AleAuthConnect;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleAuthConnect>) -> Authorization {
        authorize(call, Operation::Connect, Direction::Outbound)
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
        authorize(call, Operation::Accept, Direction::Inbound)
    }
}

/// The layer says who began the connection, also when it is authorized again by a packet that goes
/// the other way.
fn authorize<L: LayerType>(
    call: &Classify<'_, L>,
    operation: Operation,
    direction: Direction,
) -> Authorization {
    let Some(core) = state::core() else {
        return Authorization::Continue;
    };
    let connection = connection::connection(core, call, direction);
    let again = call.fields.flags().contains(ConditionFlags::IS_REAUTHORIZE);
    verdict(&core.authorize(operation, &connection, again))
}

/// What the core decided, as WFP says it.
pub(super) const fn verdict(decision: &Decision) -> Authorization {
    if decision.is_permit() {
        Authorization::Permit
    } else {
        Authorization::Block
    }
}
