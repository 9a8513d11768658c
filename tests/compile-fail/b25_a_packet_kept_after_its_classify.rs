//! B22, B25: a packet of the stack is nobody's after the classify.
// error[E0521]
#![no_std]
use wfp::callout::{Callout, Classify, Counters};
use wfp::schema::IpVersion;

fn counters() -> &'static Counters {
    static COUNTERS: Counters = Counters::new();
    &COUNTERS
}

use wfp::layer::DatagramData;
use wfp::nbl::Packet;
use wfp::verdict::Authorization;

pub fn keep(_: Packet<'static>) {}

pub struct Keeper;

impl Callout for Keeper {
    type Layer = DatagramData;

    fn counters(_: IpVersion) -> &'static Counters {
        counters()
    }

    fn classify(call: &Classify<'_, DatagramData>) -> Authorization {
        if let Some(packet) = call.data {
            keep(packet);
        }
        Authorization::Permit
    }
}
