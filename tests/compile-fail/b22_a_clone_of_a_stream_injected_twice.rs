//! B22: what was cloned of a stream is injected once, and not touched any more.
// error[E0382]
#![no_std]
use wfp::inject::{InjectionHandle, Parcels, StreamData, StreamPlace};
use wfp::list::CloneList;

pub fn twice(
    handle: &InjectionHandle<StreamData>,
    parcels: &Parcels<()>,
    clone: CloneList,
    at: StreamPlace,
) {
    drop(handle.inject(parcels, clone, (), at));
    drop(handle.inject(parcels, clone, (), at));
}
