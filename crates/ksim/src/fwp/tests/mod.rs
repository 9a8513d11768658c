//! The ABI as a driver sees it: callouts are Rust functions here, everything else goes through the exports.

mod arguments;
mod bfe;
mod enumerations;
mod flows;
mod injection;
mod objects;
mod out;
mod packets;
mod streams;
mod support;
