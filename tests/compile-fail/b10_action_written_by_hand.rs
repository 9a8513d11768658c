//! B10, B11: action, rights and flags are written in one place, which no callout reaches.
// error[E0609]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::layer::AleAuthConnect;
use wfp::verdict::Authorization;

pub struct Hand;

impl Callout for Hand {
    type Layer = AleAuthConnect;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(call: &Classify<'_, AleAuthConnect>) -> Authorization {
        call.out.rights ^= 1;
        Authorization::Permit
    }
}
