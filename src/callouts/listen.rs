//! `ALE_AUTH_LISTEN`: may the socket listen?

use portcullis_core::{Endpoint, Listener, Subject};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::AleAuthListen,
    schema::IpVersion,
    verdict::Authorization,
};

use super::{authorize, connection};
use crate::{
    ask::{self, Kept},
    state,
};

/// TCP sockets that begin to listen.
pub(super) struct Listen;

impl Callout for Listen {
    type Layer = AleAuthListen;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleAuthListen>) -> Authorization {
        let Some(core) = state::core() else {
            return Authorization::Continue;
        };
        let fields = &call.fields;
        let address = fields.local_address();
        let listener = Listener {
            local: Endpoint::new(
                // Without an address it listens on all of them.
                address.unwrap_or_else(|| connection::unspecified(fields.version())),
                connection::expect(core, fields.local_port(), 0),
            ),
            application: connection::application(call),
            user: connection::user(core, call),
            process_id: call.metadata.process_id().unwrap_or(0),
            interface: address.and_then(|_| fields.local_luid()).unwrap_or(0),
        };
        let decision = core.listen_or_ask(&listener, |question| {
            let subject = Subject::listener(&listener);
            ask::ask(core, call, &subject, question, None, || Ok(Kept::Nothing))
        });
        authorize::verdict(&decision)
    }
}
