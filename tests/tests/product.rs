//! What the driver does, in one program: `cargo test -p portcullis-tests --test product ask::` runs a file's tests.
//!
//! These run under further sets of answers to WFP's open questions, too (`cargo xtask conformance`). Those of `once.rs` do not.

mod ask;
mod bfe;
mod boot;
mod boot_races;
mod callouts;
mod capture;
mod capture_sessions;
mod captured_discards;
mod contents;
mod control;
mod datagrams;
mod events;
mod faults;
mod flows;
mod frames;
mod hostile;
mod hosts;
mod interfaces;
mod layers;
mod lifecycle;
mod lists;
mod live;
mod meant;
mod offloads;
mod packets;
mod policy;
mod power;
mod processors;
mod quoted;
mod redirect;
mod redirectors;
mod reinjected;
mod shaping;
mod split;
mod stream_races;
mod streams;
mod together;
mod unload;
mod windivert;
mod written;

use std::path::Path;

/// A file that no program has would never run.
#[test]
fn each_file_is_a_program_or_in_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |file: &str| std::fs::read_to_string(folder.join(file)).expect("a file");
    let programs = text("Cargo.toml");
    let modules = text("tests/product.rs") + &text("tests/once.rs");
    let entries = std::fs::read_dir(folder.join("tests")).expect("the folder of the tests");
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        let is_module = modules.contains(&format!("\nmod {name};"));
        let is_program = programs.contains(&format!("\nname = \"{name}\""));
        assert!(is_module || is_program, "{}", path.display());
    }
}
