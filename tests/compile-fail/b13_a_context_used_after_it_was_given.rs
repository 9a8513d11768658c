//! B13: what a proxy is told belongs to WFP once the connection is redirected.
// error[E0382]
#![no_std]
use wfp::layer::AleConnectRedirect;
use wfp::redirect::{LocalProxy, WritableLayerData};

pub fn both(
    first: WritableLayerData<'_, AleConnectRedirect>,
    second: WritableLayerData<'_, AleConnectRedirect>,
    proxy: LocalProxy<'_>,
) -> bool {
    first.redirect_to(proxy) && second.redirect_to(proxy)
}
