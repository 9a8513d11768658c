//! Facts that were gathered beside the repository, for what Microsoft's metadata does not hold.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::model::{Declarations, Record};

fn folder() -> PathBuf {
    std::env::var_os("PORTCULLIS_REFERENCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference"),
        PathBuf::from,
    )
}

fn file(name: &str) -> Map<String, Value> {
    let text = std::fs::read_to_string(folder().join(name)).expect("a file of facts");
    serde_json::from_str(&text).expect("an object")
}

fn entries<'a>(
    file: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    file.get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

/// Reads the facts; `None` where there are none.
pub(crate) fn read() -> Option<Declarations> {
    if !folder().is_dir() {
        return None;
    }
    let mut facts = Declarations::default();
    for (name, fact) in &file("layout-facts.json") {
        if let (Some(size), Some(fields)) = (fact["size"].as_u64(), fact["fields"].as_object()) {
            let fields = fields
                .iter()
                .filter_map(|(name, offset)| Some((name.clone(), offset.as_u64()?)))
                .collect();
            facts.records.insert(name.clone(), Record { size, fields });
        }
    }
    let wfp = file("wfp-constants.json");
    for (group, member) in [
        ("constants", "value"),
        ("layers", "id"),
        ("fields", "index"),
    ] {
        let numbers = entries(&wfp, group)
            .filter_map(|(name, fact)| Some((name.clone(), fact[member].as_u64()?)));
        facts.constants.extend(numbers);
    }
    let statuses = file("ntstatus.json");
    facts.constants.extend(
        statuses
            .iter()
            .filter_map(|(name, fact)| Some((name.clone(), fact["value"].as_u64()?))),
    );
    let framework = file("wdf-functions.json");
    facts.constants.extend(
        entries(&framework, "functions")
            .filter_map(|(name, index)| Some((format!("{name}TableIndex"), index.as_u64()?))),
    );
    let parse = |text: &str| u128::from_str_radix(&text.replace('-', ""), 16).ok();
    let guids = entries(&wfp, "guids")
        .filter_map(|(name, fact)| Some((name.clone(), parse(fact["guid"].as_str()?)?)));
    facts.guids.extend(guids);
    Some(facts)
}

/// How many functions each version of the framework has, by its minor.
pub(crate) fn framework_sizes() -> Vec<(u32, u32)> {
    let framework = file("wdf-functions.json");
    entries(&framework, "counts")
        .filter_map(|(version, count)| {
            let minor = version.strip_prefix("1.")?.parse().ok()?;
            Some((minor, u32::try_from(count.as_u64()?).ok()?))
        })
        .collect()
}
