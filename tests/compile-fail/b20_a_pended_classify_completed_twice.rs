//! B20: a classify that was pended is completed once.
// error[E0382]
#![no_std]
use wfp::redirect::{PendedClassify, Redirectable};

pub fn twice<L: Redirectable>(classify: PendedClassify<L>) {
    classify.permit();
    classify.block();
}
