//! A15: a session has one transaction at a time.
// error[E0499]
#![no_std]
use wfp::engine::EngineSession;
use wfp::irql::Passive;

pub fn both(session: &mut EngineSession, passive: Passive) -> wfp::Result {
    let first = session.transaction(passive)?;
    let second = session.transaction(passive)?;
    first.commit()?;
    second.commit()
}
