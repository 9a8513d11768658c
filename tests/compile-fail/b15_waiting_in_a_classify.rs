//! B15: a classify may run at DISPATCH_LEVEL, so it has no proof that it may wait, and cannot make one.
// error[E0133]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::irql::Passive;
use wfp::layer::AleAuthConnect;
use wfp::verdict::Authorization;

pub struct Waiter;

impl Callout for Waiter {
    type Layer = AleAuthConnect;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(_: &Classify<'_, AleAuthConnect>) -> Authorization {
        Passive::assume().sleep(core::time::Duration::from_secs(1));
        Authorization::Permit
    }
}
