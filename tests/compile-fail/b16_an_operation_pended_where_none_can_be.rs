//! B16: at a layer where nothing can be pended, nothing is: it would be too late there to hold what has begun.
// error[E0080]
#![no_std]
use wfp::callout::Classify;
use wfp::layer::AleFlowEstablished;

pub fn late(call: &Classify<'_, AleFlowEstablished>) {
    drop(call.pend());
}
