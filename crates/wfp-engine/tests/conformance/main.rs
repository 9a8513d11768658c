//! The engine's behaviour, row by row: a test's name begins with the
//! identifier of the row of the conformance list that it checks.

#![allow(
    clippy::significant_drop_tightening,
    reason = "a test's locks are short-lived anyway"
)]

mod arbitration;
mod bfe;
mod callouts;
mod concurrency;
mod conditions;
mod flow_races;
mod flows;
mod index;
mod injection;
mod matching;
mod objects;
mod properties;
mod provenance;
mod provider_contexts;
mod security;
mod sessions;
mod settings;
mod stream;
mod templates;
mod transactions;
mod world;
