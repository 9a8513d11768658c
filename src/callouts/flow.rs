//! `ALE_FLOW_ESTABLISHED`: a flow begins; from now on it is followed.

use core::num::NonZeroU64;

use portcullis_core::{NotFollowed, Subject};
use portcullis_proto::Counter;
use wfp::{
    callout::{Callout, Classify, Counters},
    flow::{self, FlowId},
    layer::AleFlowEstablished,
    schema::{Direction, IpVersion},
    verdict::Seen,
};

use super::connection;
use crate::{ask, flows, redirect, state};

/// Established connections, and exchanges of datagrams with a peer.
pub(super) struct FlowEstablished;

impl Callout for FlowEstablished {
    type Layer = AleFlowEstablished;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleFlowEstablished>) -> Seen {
        if let Some(core) = state::core().filter(|_| !state::is_stopping()) {
            match call.metadata.flow() {
                Some(flow) => follow(core, call, flow),
                None => core.statistics().count(Counter::MetadataMissing),
            }
        }
        Seen
    }
}

/// Puts the flow into the core's table first and makes the handle the flow's context then: its
/// deletion may come before the association returns.
fn follow(core: &state::Core, call: &Classify<'_, AleFlowEstablished>, id: FlowId) {
    let direction = connection::expect(core, call.fields.direction(), Direction::Outbound);
    let mut connection = connection::connection(core, call, connection::direction(direction));
    if let Some(origin) = redirect::origin(id.get()) {
        connection.remote = origin.remote;
        connection.interface = origin.interface;
    }
    let subject = Subject::connection(&connection);
    let answer = ask::flow_began(&subject);
    let forget = || {
        if answer.is_some() {
            ask::flow_ended(&subject);
        }
    };
    let handle = match core.flow_answered(&connection, answer) {
        Ok(handle) => {
            flows::began(core);
            handle
        }
        // The answer is forgotten before the flow is over: it may be asked about again.
        Err(NotFollowed::Unwatched) => return forget(),
        Err(NotFollowed::MustAbort) => {
            forget();
            return abort(core, id);
        }
    };
    if let Some(endpoint) = call.metadata.endpoint() {
        core.flow_joins(handle, endpoint);
    }
    let version = connection::version_of(connection.local.address);
    let associated = super::association(id.get(), connection.protocol, version)
        .zip(NonZeroU64::new(handle.raw()))
        .is_some_and(|(at, context)| flow::associate(at, context).is_ok());
    if !associated {
        let verdict = core.flow_abandoned(handle);
        forget();
        if verdict == NotFollowed::MustAbort {
            abort(core, id);
        }
    }
}

fn abort(core: &state::Core, id: FlowId) {
    if flow::abort(id).is_err() {
        core.statistics().count(Counter::FlowRemoveFailed);
    }
}
