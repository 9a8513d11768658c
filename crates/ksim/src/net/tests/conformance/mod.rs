//! Rows of the conformance list that are about the network stack, by their ids.
//!
//! Not here, since they are about functions of the ABI alone: ALE-06 to ALE-09 (what classify handles and redirect
//! handles answer), STR-11 to STR-13 and INJ-01 to INJ-06, INJ-08, INJ-09 (what injection functions answer).

mod ale;
mod discards;
mod injection;
mod streams;
