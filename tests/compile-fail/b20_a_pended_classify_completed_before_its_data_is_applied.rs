//! B20: what was changed of a pended classify is applied before it is completed.
// error[E0505]
#![no_std]
use wfp::redirect::{PendedClassify, Redirectable};

pub fn early<L: Redirectable>(mut classify: PendedClassify<L>) {
    let data = classify.writable();
    classify.permit();
    drop(data);
}
