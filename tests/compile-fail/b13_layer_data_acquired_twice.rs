//! B13: layer data is written by one at a time.
// error[E0499]
#![no_std]
use wfp::redirect::{ClassifyHandle, Redirectable};

pub fn both<L: Redirectable>(handle: &mut ClassifyHandle<'_, L>) {
    let first = handle.writable();
    let second = handle.writable();
    drop((first, second));
}
