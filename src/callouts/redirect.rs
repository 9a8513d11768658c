//! `ALE_CONNECT_REDIRECT` and `ALE_BIND_REDIRECT`: where do connections go, and sockets belong?
//!
//! Nothing is refused here. What could not be redirected goes on as it is, and is decided when it is authorized.

use core::net::SocketAddr;

use portcullis_core::{Binding, Connection, Detour, Direction, Endpoint};
use portcullis_proto::{Counter, redirect::RedirectContext};
use wfp::{
    callout::{Callout, Classify, Counters},
    layer::{AleBindRedirect, AleConnectRedirect},
    redirect::{self, LocalProxy},
    schema::{IpVersion, codes::ConnectionRedirectState},
    verdict::Authorization,
};
use zerocopy::IntoBytes;

use super::connection;
use crate::{
    redirect as redirector,
    state::{self, Core, tag},
};

/// Connections, before they are authorized.
pub(super) struct ConnectRedirect;

impl Callout for ConnectRedirect {
    type Layer = AleConnectRedirect;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleConnectRedirect>) -> Authorization {
        let Some(core) = state::core().filter(|_| !call.decided && !state::is_stopping()) else {
            return Authorization::Continue;
        };
        let connection = connection::connection(core, call, Direction::Outbound);
        let Some(detour) = core.proxy_for(&connection) else {
            return Authorization::Continue;
        };
        if !may_redirect(core, call, &connection) {
            return Authorization::Continue;
        }
        // Without a proxy the rule says what happens, when the connection is authorized.
        let Some(process) = redirector::proxy(detour.target, connection.protocol) else {
            return Authorization::Continue;
        };
        if send(core, call, &connection, &detour, process).is_none() {
            core.statistics().count(Counter::RedirectFailed);
            return Authorization::Continue;
        }
        core.redirected(&connection, &detour, process);
        Authorization::Permit
    }
}

/// Whether nobody has redirected the connection, and it is no proxy's own.
fn may_redirect(
    core: &Core,
    call: &Classify<'_, AleConnectRedirect>,
    connection: &Connection<'_>,
) -> bool {
    let records = call.metadata.redirect_records();
    let by = redirector::handle().and_then(|handle| handle.state(records));
    let earlier = call
        .data
        .is_some_and(redirect::ConnectRequest::is_redirected);
    let counter = match by {
        _ if redirector::is_proxy(connection.process_id) => Counter::RedirectedBefore,
        Some(ConnectionRedirectState::NotRedirected) if !earlier => return true,
        Some(
            ConnectionRedirectState::RedirectedBySelf
            | ConnectionRedirectState::PreviouslyRedirectedBySelf,
        ) => Counter::RedirectedBefore,
        _ => Counter::RedirectedByOthers,
    };
    core.statistics().count(counter);
    false
}

/// Sends a connection to a proxy. `None`: something failed, and it stays as it is.
fn send(
    core: &Core,
    call: &Classify<'_, AleConnectRedirect>,
    connection: &Connection<'_>,
    detour: &Detour,
    process: u32,
) -> Option<()> {
    let socket = |endpoint: Endpoint| SocketAddr::new(endpoint.address, endpoint.port);
    let told = RedirectContext {
        process_id: connection.process_id.into(),
        epoch: detour.epoch.into(),
        rule: portcullis_core::policy::RuleIndex::raw(detour.decision.rule).into(),
        ..RedirectContext::new(
            connection.protocol,
            socket(connection.local),
            socket(connection.remote),
        )
    };
    let context = redirect::RedirectContext::try_copy_of(tag::REDIRECT, told.as_bytes())
        .inspect_err(|_| core.statistics().count(Counter::OutOfMemory))
        .ok()?;
    let proxy = LocalProxy {
        address: socket(detour.target),
        process,
        handle: redirector::handle()?,
        context,
    };
    let mut classify = call.acquire().ok()?;
    classify.writable().ok()?.redirect_to(proxy).then_some(())
}

/// Sockets, before they are bound.
pub(super) struct BindRedirect;

impl Callout for BindRedirect {
    type Layer = AleBindRedirect;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, AleBindRedirect>) -> Authorization {
        let Some(core) = state::core().filter(|_| !call.decided && !state::is_stopping()) else {
            return Authorization::Continue;
        };
        let fields = &call.fields;
        let binding = Binding {
            protocol: connection::expect(core, fields.protocol(), 0),
            local: Endpoint::new(
                // Without an address the system chooses.
                fields
                    .local_address()
                    .unwrap_or_else(|| connection::unspecified(fields.version())),
                fields.local_port().unwrap_or(0),
            ),
            application: connection::application(call),
            user: connection::user(core, call),
            process_id: call.metadata.process_id().unwrap_or(0),
        };
        // Whoever has given the socket another address before is left alone.
        if call.data.is_some_and(redirect::BindRequest::is_redirected) {
            return Authorization::Continue;
        }
        let Some(detour) = core.address_for(&binding) else {
            return Authorization::Continue;
        };
        let bound = call.acquire().and_then(|mut classify| {
            let request = classify.writable()?;
            Ok(request.bind_to(detour.target.address))
        });
        if bound != Ok(true) {
            core.statistics().count(Counter::BindFailed);
            return Authorization::Continue;
        }
        core.bound(&binding, &detour);
        Authorization::Permit
    }
}
