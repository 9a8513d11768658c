//! `ALE_ENDPOINT_CLOSURE`: an endpoint closes.

use portcullis_core::{Connection, Direction, Endpoint};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::AleEndpointClosure,
    schema::IpVersion,
    verdict::Seen,
};

use super::connection;
use crate::state;

/// Endpoints that close.
pub(super) struct EndpointClosure;

impl Callout for EndpointClosure {
    type Layer = AleEndpointClosure;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleEndpointClosure>) -> Seen {
        let Some(core) = state::core() else {
            return Seen;
        };
        let fields = &call.fields;
        // An endpoint that was not connected has no remote side, one that was not bound no local.
        let nowhere = connection::unspecified(fields.version());
        let connection = Connection {
            // The layer does not say who began; the endpoint's flows do.
            direction: Direction::Outbound,
            protocol: fields.protocol().unwrap_or(0),
            local: Endpoint::new(
                fields.local_address().unwrap_or(nowhere),
                fields.local_port().unwrap_or(0),
            ),
            remote: Endpoint::new(
                fields.remote_address().unwrap_or(nowhere),
                fields.remote_port().unwrap_or(0),
            ),
            application: connection::application(call),
            user: fields.user().unwrap_or_default(),
            process_id: call.metadata.process_id().unwrap_or(0),
            flow: 0,
            interface: fields.local_luid().unwrap_or(0),
        };
        core.endpoint_closed(&connection, call.metadata.endpoint().unwrap_or(0));
        Seen
    }
}
