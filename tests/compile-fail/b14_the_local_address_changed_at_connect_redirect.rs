//! B14: the local address belongs to bind redirect.
// error[E0599]
#![no_std]
use core::net::IpAddr;
use wfp::layer::AleConnectRedirect;
use wfp::redirect::WritableLayerData;

pub fn move_local(data: WritableLayerData<'_, AleConnectRedirect>, to: IpAddr) {
    data.bind_to(to);
}
