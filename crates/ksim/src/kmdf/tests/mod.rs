//! Tests of the framework with drivers written in Rust, whose callbacks are called as a real driver's are.

mod binding;
mod cancel;
mod devices;
mod driver;
mod later;
mod locks;
mod objects;
mod preprocess;
mod queues;
mod races;
mod requests;
mod scopes;
mod sent;
mod targets;
mod values;
mod versions;
