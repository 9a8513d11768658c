//! `INBOUND_ICMP_ERROR` and `OUTBOUND_ICMP_ERROR`: may the error pass?

use portcullis_core::{Direction, Endpoint, Ends, IcmpError};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::{InboundIcmpError, LayerType, OutboundIcmpError},
    schema::{self, IpVersion},
    verdict::Authorization,
};

use super::{
    authorize,
    connection::{expect, unspecified},
};
use crate::state::{self, Core};

/// Errors that come in.
pub(super) struct Inbound;

impl Callout for Inbound {
    type Layer = InboundIcmpError;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, InboundIcmpError>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let fields = &call.fields;
        let message = (fields.icmp_type(), fields.icmp_code());
        let ends = ends(core, call, message);
        let about = fields.embedded_protocol().map(|protocol| Ends {
            protocol,
            local: Endpoint::new(
                ends.local.address,
                fields.embedded_local_port().unwrap_or(0),
            ),
            remote: Endpoint::new(
                fields
                    .embedded_remote_address()
                    .unwrap_or_else(|| unspecified(fields.version())),
                fields.embedded_remote_port().unwrap_or(0),
            ),
        });
        let error = IcmpError {
            direction: Direction::Inbound,
            ends,
            about,
            interface: fields.luid(schema::Direction::Inbound).unwrap_or(0),
        };
        authorize::verdict(&core.icmp_error(&error))
    }
}

/// Errors that go out.
pub(super) struct Outbound;

impl Callout for Outbound {
    type Layer = OutboundIcmpError;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, OutboundIcmpError>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let message = (call.fields.icmp_type(), call.fields.icmp_code());
        let error = IcmpError {
            direction: Direction::Outbound,
            ends: ends(core, call, message),
            about: None,
            interface: call.fields.luid(schema::Direction::Outbound).unwrap_or(0),
        };
        authorize::verdict(&core.icmp_error(&error))
    }
}

/// The ends of the error itself; its type and its code are the ports.
fn ends<L: LayerType>(
    core: &Core,
    call: &Classify<'_, L>,
    message: (Option<u16>, Option<u16>),
) -> Ends {
    let version = call.fields.version();
    let known = call.fields.known();
    let nowhere = unspecified(version);
    Ends {
        protocol: match version {
            IpVersion::V4 => 1,
            IpVersion::V6 => 58,
        },
        local: Endpoint::new(
            expect(core, known.local_address, nowhere),
            expect(core, message.0, 0),
        ),
        remote: Endpoint::new(
            expect(core, known.remote_address, nowhere),
            expect(core, message.1, 0),
        ),
    }
}
