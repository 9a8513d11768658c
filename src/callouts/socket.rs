//! `ALE_RESOURCE_ASSIGNMENT` and `ALE_RESOURCE_RELEASE`: may the socket be bound, and the end of that.

use portcullis_core::{Endpoint, Listener, Socket};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::{AleResourceAssignment, AleResourceRelease, LayerType},
    schema::{ConditionFlags, IpVersion},
    verdict::{Authorization, Seen},
};

use super::{authorize, connection};
use crate::state::{self, Core};

/// Sockets that are bound, raw ones, and those that are to see all packets of an interface.
pub(super) struct Bind;

impl Callout for Bind {
    type Layer = AleResourceAssignment;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleResourceAssignment>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let promiscuous = call.fields.promiscuous_mode().unwrap_or(0);
        authorize::verdict(&core.bind(&socket(core, call, promiscuous)))
    }
}

/// What a bind had assigned, when it is over.
pub(super) struct Release;

impl Callout for Release {
    type Layer = AleResourceRelease;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleResourceRelease>) -> Seen {
        if let Some(core) = state::core() {
            core.released(&socket(core, call, 0));
        }
        Seen
    }
}

/// The socket that a classify of these layers is about.
fn socket<'a, L: LayerType>(core: &Core, call: &Classify<'a, L>, promiscuous: u32) -> Socket<'a> {
    let known = call.fields.known();
    Socket {
        listener: Listener {
            local: Endpoint::new(
                // Without an address it is bound to all of them.
                known
                    .local_address
                    .unwrap_or_else(|| connection::unspecified(call.fields.version())),
                // A raw socket has no port.
                known.local_port.unwrap_or(0),
            ),
            application: connection::application(call),
            user: connection::user(core, call),
            process_id: call.metadata.process_id().unwrap_or(0),
            interface: known.local_address.and(known.local_luid).unwrap_or(0),
        },
        protocol: known.protocol.unwrap_or(0),
        is_raw: known.flags.contains(ConditionFlags::IS_RAW_ENDPOINT),
        any_port: known.flags.contains(ConditionFlags::IS_WILDCARD_BIND),
        promiscuous,
    }
}
