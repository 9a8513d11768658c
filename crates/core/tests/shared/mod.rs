//! What several tests and benchmarks need.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod classbench;
pub mod driver;
pub mod messages;
pub mod quic;
