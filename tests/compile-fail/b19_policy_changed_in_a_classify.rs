//! B19: a change of filters inside a classify is a loop; the management interface takes the proof that waiting is allowed.
// error[E0061]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::engine::{EngineSession, Label};
use wfp::layer::AleAuthConnect;
use wfp::verdict::Authorization;

pub struct Changer;

static LABEL: Label<'static> = Label {
    name: wfp::wide!("name"),
    description: wfp::wide!("description"),
    provider: None,
};

impl Callout for Changer {
    type Layer = AleAuthConnect;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(_: &Classify<'_, AleAuthConnect>) -> Authorization {
        let _ = EngineSession::open_dynamic(&LABEL);
        Authorization::Permit
    }
}
