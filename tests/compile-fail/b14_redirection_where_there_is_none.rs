//! B14, B20: only the redirect layers have layer data that can be changed.
// error[E0277]
#![no_std]
use wfp::layer::AleAuthConnect;
use wfp::redirect::WritableLayerData;

pub fn wrong(_: WritableLayerData<'_, AleAuthConnect>) {}
