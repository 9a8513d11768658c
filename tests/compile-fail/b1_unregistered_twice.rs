//! B1: a callout is unregistered once; one that is busy is given back.
// error[E0382]
#![no_std]
use wfp::irql::Passive;
use wfp::registration::Registration;

pub fn leave(registration: Registration, passive: Passive) {
    let _ = registration.unregister(passive);
    let _ = registration.unregister(passive);
}
