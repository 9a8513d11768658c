//! B16, B20: a connection that is authorized is held as an operation; a classify is pended at the redirect layers.
// error[E0599]
#![no_std]
use wfp::callout::Classify;
use wfp::layer::AleAuthConnect;

pub fn wrong(call: &Classify<'_, AleAuthConnect>) {
    drop(call.acquire());
}
