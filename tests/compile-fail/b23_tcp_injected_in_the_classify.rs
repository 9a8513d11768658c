//! B23: an injection at a transport layer is made outside of the classify, and takes the proof of that.
// error[E0061]
#![no_std]

use wfp::inject::{Completion, Destination, InjectionHandle, Parcels, Transport};
use wfp::list::OwnedList;

pub fn inline<T: Completion>(
    handle: &InjectionHandle<Transport>,
    parcels: &Parcels<T>,
    list: OwnedList,
    context: T,
    to: &Destination<'_>,
) {
    let _ = handle.send(parcels, list, context, to);
}
