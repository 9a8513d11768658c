//! B8: nobody injects with a handle that is destroyed.
// error[E0382]
#![no_std]
use wfp::inject::{InjectionHandle, Network};
use wfp::irql::Passive;
use wfp::nbl::Packet;

pub fn late(handle: InjectionHandle<Network>, packet: Packet<'_>, passive: Passive) {
    let _ = handle.destroy(passive);
    let _ = handle.state(packet);
}
