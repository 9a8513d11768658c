//! B13: changed layer data is applied once.
// error[E0382]
#![no_std]
use wfp::redirect::{Redirectable, WritableLayerData};

pub fn twice<L: Redirectable>(data: WritableLayerData<'_, L>) {
    data.apply();
    data.apply();
}
