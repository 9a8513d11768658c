//! The drivers in C of `tests/drivers`, as `cargo xtask test-drivers` builds them.

use std::path::{Path, PathBuf};

/// An image and its program database.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its file name.
    pub name: String,
    /// The image.
    pub image: Vec<u8>,
    /// The program database.
    pub pdb: Vec<u8>,
}

/// The driver `name`; `bug` names the mistake that it makes: `free-twice`.
#[must_use]
pub fn built(name: &str, bug: Option<&str>) -> Built {
    let stem = bug.map_or_else(|| name.to_owned(), |bug| format!("{name}-{bug}"));
    let folder = folder();
    let read = |extension: &str| {
        let file = folder.join(format!("{stem}.{extension}"));
        std::fs::read(&file).unwrap_or_else(|error| {
            panic!("{}: {error}: run the tests with `cargo xtask test`, or build these drivers with `cargo xtask test-drivers`", file.display())
        })
    };
    Built {
        name: format!("{name}.sys"),
        image: read("sys"),
        pdb: read("pdb"),
    }
}

/// Where they are: what `cargo xtask test` says, or else where `cargo xtask test-drivers` puts them.
fn folder() -> PathBuf {
    std::env::var_os("PORTCULLIS_TEST_DRIVERS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-drivers"),
        PathBuf::from,
    )
}
