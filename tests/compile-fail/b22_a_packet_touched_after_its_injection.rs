//! B22: what is injected is the stack's until the completion.
// error[E0382]
#![no_std]
use wfp::inject::{Completion, InjectionHandle, Network, Parcels};
use wfp::list::OwnedList;

pub fn touch<T: Completion>(
    handle: &InjectionHandle<Network>,
    parcels: &Parcels<T>,
    list: OwnedList,
    context: T,
) -> usize {
    let _ = handle.send(parcels, list, context, 0);
    list.bytes().len()
}
