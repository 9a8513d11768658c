//! B15: the proof that a thread may wait is no proof for another.
// error[E0277]
#![no_std]
use wfp::irql::Passive;

pub fn send<T: Send>(_: T) {}

pub fn give(passive: Passive) {
    send(passive);
}
