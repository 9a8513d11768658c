//! The drivers of `examples/`, as `cargo xtask examples` builds them.

use std::path::{Path, PathBuf};

use crate::foreign::test_drivers::Built;

/// The example driver `name`.
#[must_use]
pub fn built(name: &str) -> Built {
    let read = |file: String| {
        let file = folder().join(file);
        std::fs::read(&file).unwrap_or_else(|error| {
            panic!("{}: {error}: run the tests with `cargo xtask test`, or build the examples with `cargo xtask examples`", file.display())
        })
    };
    Built {
        name: format!("{name}.sys"),
        image: read(format!("{name}.sys")),
        pdb: read(format!("{name}_driver.pdb")),
    }
}

/// Where they are: what `cargo xtask test` says, or else where `cargo xtask examples` puts them.
fn folder() -> PathBuf {
    std::env::var_os("PORTCULLIS_EXAMPLES").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../target/driver/x86_64-pc-windows-msvc/release")
        },
        PathBuf::from,
    )
}
