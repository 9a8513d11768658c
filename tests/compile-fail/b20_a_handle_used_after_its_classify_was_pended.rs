//! B20: the handle of a classify that is pended is released with what is pended, not by who has pended it.
// error[E0382]
#![no_std]
use wfp::redirect::{ClassifyHandle, Redirectable};

pub fn both<L: Redirectable>(handle: ClassifyHandle<'_, L>) {
    let pended = handle.pend();
    drop(handle);
    drop(pended);
}
