//! Four processors at once, and an unload in the middle of it, under many seeds: the kinds of which no other file shows it.

mod datagrams;
mod held;
mod interfaces;
mod platform;
mod protection;
mod quoted;
mod split;
mod starts;
mod traffic;
