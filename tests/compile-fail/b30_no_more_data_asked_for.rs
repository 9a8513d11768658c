//! B30: a stream that asks for no further byte would starve.
// error[E0308]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::layer::Stream;
use wfp::verdict::StreamVerdict;

pub struct Starver;

impl Callout for Starver {
    type Layer = Stream;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(_: &Classify<'_, Stream>) -> StreamVerdict {
        StreamVerdict::NeedMoreData(0)
    }
}
