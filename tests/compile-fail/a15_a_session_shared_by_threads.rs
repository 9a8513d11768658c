//! A15: one session has one transaction, so no two threads share it.
// error[E0277]
#![no_std]
use wfp::engine::EngineSession;

pub fn share<T: Sync>(_: &T) {}

pub fn all(session: &EngineSession) {
    share(session);
}
