//! The ABI as a driver sees it: callouts are Rust functions here, everything else goes through the exports.

mod arguments;
mod bfe;
mod defer;
mod enumerations;
mod failures;
mod flows;
mod injection;
mod lists;
mod objects;
mod out;
mod packets;
mod processors;
mod redirects;
mod rules;
mod security;
mod streams;
mod support;
