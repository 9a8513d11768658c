//! A socket that listens has no remote side: a field is found in the layer's table, not by a number.
// error[E0080]
#![no_std]
use wfp::layer::{AleAuthListen, Fields};

pub fn remote(fields: &Fields<'_, AleAuthListen>) -> Option<u16> {
    fields.remote_port()
}
