//! A17: a stream verdict says what no other layer understands.
// error[E0053]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::layer::DatagramData;
use wfp::verdict::StreamVerdict;

pub struct Other;

impl Callout for Other {
    type Layer = DatagramData;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(_: &Classify<'_, DatagramData>) -> StreamVerdict {
        StreamVerdict::DropConnection
    }
}
