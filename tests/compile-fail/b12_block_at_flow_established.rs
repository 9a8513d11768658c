//! B12: FLOW_ESTABLISHED is too late to block.
// error[E0053]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::layer::AleFlowEstablished;
use wfp::verdict::Authorization;

pub struct Late;

impl Callout for Late {
    type Layer = AleFlowEstablished;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(_: &Classify<'_, AleFlowEstablished>) -> Authorization {
        Authorization::Block
    }
}
