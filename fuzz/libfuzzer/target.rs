//! A target under libFuzzer, which looks for input that takes new ways through the code:
//!
//! ```sh
//! PORTCULLIS_FUZZ=dns cargo +nightly fuzz run --fuzz-dir fuzz/libfuzzer target
//! ```
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::{TARGETS, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("PORTCULLIS_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        panic!("PORTCULLIS_FUZZ is to be one of {}", names.join(", "))
    })
});

fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
