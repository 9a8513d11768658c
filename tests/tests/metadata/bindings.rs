//! What `wfp-sys` binds, read from what bindgen wrote when the driver was built.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::model::{Declarations, Record};

/// The newest bindings in the driver's target folder; `None` when the driver was not built here.
pub(crate) fn read() -> Option<Declarations> {
    let builds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/driver/x86_64-pc-windows-msvc/release/build");
    let written = |file: &PathBuf| {
        let time = file.metadata().and_then(|metadata| metadata.modified());
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let newest = std::fs::read_dir(builds)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("out/wfp.rs")))
        .filter(|file| file.is_file())
        .max_by_key(written)?;
    Some(parse(&std::fs::read_to_string(newest).ok()?))
}

/// Sizes and offsets from bindgen's assertions, and constants.
fn parse(text: &str) -> Declarations {
    let mut bindings = Declarations::default();
    for (what, rest) in text.split('"').zip(text.split('"').skip(1)) {
        let number = rest
            .split_once(" - ")
            .and_then(|(_, number)| number.split_once("usize"))
            .and_then(|(number, _)| number.trim().parse().ok());
        let Some(number) = number else { continue };
        if let Some(name) = what.strip_prefix("Size of ") {
            record(&mut bindings, name).size = number;
        } else if let Some((name, field)) = what
            .strip_prefix("Offset of field: ")
            .and_then(|place| place.split_once("::"))
        {
            record(&mut bindings, name)
                .fields
                .insert(field.to_owned(), number);
        }
    }
    for line in text.lines() {
        let Some((name, value)) = line
            .strip_prefix("pub const ")
            .and_then(|line| line.split_once(": "))
        else {
            continue;
        };
        let number = value
            .split_once(" = ")
            .and_then(|(_, value)| value.trim_end_matches(';').parse::<i64>().ok());
        if let Some(number) = number {
            bindings
                .constants
                .insert(name.to_owned(), number.cast_unsigned());
        }
    }
    // Members of types without a name are bindgen's own types.
    bindings
        .records
        .retain(|name, _| !name.contains("__bindgen"));
    for record in bindings.records.values_mut() {
        record
            .fields
            .retain(|name, _| !name.starts_with("__bindgen"));
    }
    bindings
}

fn record<'a>(bindings: &'a mut Declarations, name: &str) -> &'a mut Record {
    bindings.records.entry(name.to_owned()).or_default()
}
