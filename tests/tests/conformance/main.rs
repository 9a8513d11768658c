//! The conformance list, row by row, on a driver image: a test's name begins with the row's identifier.
//!
//! The rows are those of the model's suite (`crates/wfp-engine/tests/conformance`); here they go through the
//! import table, by real calls of the conformance driver and with real packets. What documentation leaves
//! open is answered by [`OPTIONS_VARIABLE`](portcullis_tests::world::OPTIONS_VARIABLE); `cargo xtask conformance`
//! runs the suite under a covering array of answers.
#![forbid(unsafe_code)]
#![allow(
    clippy::large_types_passed_by_value,
    reason = "a filter is made once and handed over"
)]

mod agent;
mod answers;
mod traffic;
mod world;

mod ale;
mod arbitration;
mod bfe;
mod callouts;
mod conditions;
mod discards;
mod flows;
mod injection;
mod irql;
mod objects;
mod sessions;
mod streams;
mod transactions;
