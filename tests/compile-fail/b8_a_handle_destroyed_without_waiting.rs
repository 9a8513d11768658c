//! B8: destroying an injection handle waits for its injections: it takes the proof that waiting is allowed.
// error[E0061]
#![no_std]
use wfp::inject::{InjectionHandle, Network};

pub fn destroy(handle: InjectionHandle<Network>) {
    let _ = handle.destroy();
}
