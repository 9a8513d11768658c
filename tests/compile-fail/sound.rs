//! What the other cases do wrong, done right: this compiles.
// compiles
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::engine::{EngineSession, Label};
use wfp::irql::Passive;
use wfp::layer::{AleAuthConnect, AleConnectRedirect, AleFlowEstablished, Stream};
use wfp::pend::PendedOperation;
use wfp::redirect::PendedClassify;
use wfp::registration::Registration;
use wfp::verdict::{Authorization, Seen, StreamVerdict};

pub struct Watcher;

impl Callout for Watcher {
    type Layer = AleFlowEstablished;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(call: &Classify<'_, AleFlowEstablished>) -> Seen {
        let _ = call.fields.remote_port();
        Seen
    }
}

pub struct Reader;

impl Callout for Reader {
    type Layer = Stream;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(_: &Classify<'_, Stream>) -> StreamVerdict {
        StreamVerdict::NeedMoreData(core::num::NonZeroU32::MIN)
    }
}

pub fn change(label: &Label<'_>, passive: Passive) -> wfp::Result {
    let mut session = EngineSession::open_dynamic(label, passive)?;
    let transaction = session.transaction(passive)?;
    transaction.commit()?;
    session.close(passive)
}

pub fn leave(registration: Registration, passive: Passive) -> Option<Registration> {
    registration.unregister(passive).err().map(|busy| busy.registration)
}

pub fn hold(call: &Classify<'_, AleAuthConnect>) -> (Option<PendedOperation>, Authorization) {
    (call.pend().ok(), Authorization::Block)
}

pub fn let_go(operation: PendedOperation) {
    operation.complete();
}

pub fn defer(call: &Classify<'_, AleConnectRedirect>) -> wfp::Result<PendedClassify<AleConnectRedirect>> {
    call.acquire()?.pend()
}

pub fn go_on(mut classify: PendedClassify<AleConnectRedirect>, to: core::net::SocketAddr) -> wfp::Result {
    if classify.writable()?.connect_to(to) {
        classify.permit();
    } else {
        classify.block();
    }
    Ok(())
}
