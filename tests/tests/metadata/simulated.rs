//! What ksim and the schema declare: exports as they are compiled, layouts and numbers as their sources say.
//!
//! A structure or constant of ours carries the Windows name at the beginning of its documentation, and a layout's
//! offsets are asserted when it is compiled; so the source says under which names it is to be found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ksim::export;
use wfp_schema::{Layer, condition, provider, sublayer};

use crate::model::{Declarations, Record, Signature};

/// One of our structures beside the Windows structure that it is.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Where it is declared.
    pub(crate) file: String,
    /// The names in its documentation.
    pub(crate) names: Vec<String>,
    /// Members by our names.
    pub(crate) record: Record,
}

/// Exports by name; those of the framework's table are in upper case, as their function types are.
pub(crate) fn exports() -> BTreeMap<String, Signature> {
    export::all()
        .filter(|export| !export.is_variadic())
        .map(|export| {
            let parameters = export
                .parameters
                .iter()
                .map(|parameter| parameter.size as u64);
            let signature = Signature {
                parameters: parameters.collect(),
                returns: export.returns as u64,
            };
            let name = if export.module == "kmdf" {
                format!("PFN_{}", export.name.to_ascii_uppercase())
            } else {
                export.name.to_owned()
            };
            (name, signature)
        })
        .collect()
}

/// Everything else that has a Windows name.
pub(crate) fn constants() -> Declarations {
    let mut declarations = Declarations::default();
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("a source file");
        documented_numbers(&text, &mut declarations.constants);
    }
    let groups = [
        ("FWPM_CONDITION_", condition::ALL),
        ("FWPM_SUBLAYER_", sublayer::ALL),
        ("FWPM_PROVIDER_", provider::ALL),
    ];
    for (prefix, guids) in groups {
        let named = guids
            .iter()
            .map(|(name, guid)| (format!("{prefix}{name}"), guid.to_u128()));
        declarations.guids.extend(named);
    }
    for layer in Layer::all() {
        let name = layer.name();
        declarations
            .guids
            .insert(format!("FWPM_LAYER_{name}"), layer.key().to_u128());
        declarations
            .constants
            .insert(format!("FWPS_LAYER_{name}"), layer.id().get().into());
        // A discard layer has the fields of the layer that discards.
        for field in layer.fields().iter().filter(|_| !layer.is_discard()) {
            let index = field.index().get() as u64;
            declarations
                .constants
                .insert(format!("FWPS_FIELD_{name}_{}", field.name()), index);
        }
    }
    declarations
}

/// The structures that `layout!` asserts.
pub(crate) fn layouts() -> Vec<Layout> {
    let mut layouts = Vec::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let Some(table) = text
            .split("\nlayout! {")
            .nth(1)
            .and_then(|rest| rest.split("\n}").next())
        else {
            continue;
        };
        for entry in table.split('}') {
            let Some((head, members)) = entry.split_once('{') else {
                continue;
            };
            let mut head = head.split_whitespace();
            let (Some(name), Some(size)) = (head.next(), head.next()) else {
                continue;
            };
            let fields = members
                .split(',')
                .filter_map(|member| member.split_once('@'))
                .map(|(name, offset)| {
                    (
                        name.trim().to_owned(),
                        offset.trim().parse().expect("an offset"),
                    )
                })
                .collect();
            let size = size.parse().expect("a size");
            layouts.push(Layout {
                file: file
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                names: documented_names(&text, name),
                record: Record { size, fields },
            });
        }
    }
    layouts
}

fn sources() -> Vec<PathBuf> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut found = Vec::new();
    let mut folders = vec![
        crates.join("ksim/src"),
        crates.join("wfp-schema/src"),
        crates.join("wfp/src"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The names in backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The Windows names in the documentation of the structure `name`; `A0` to `A3` are those between, too.
fn documented_names(text: &str, name: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declaration = format!("struct {name} ");
    let Some(at) = lines.iter().position(|line| line.contains(&declaration)) else {
        return Vec::new();
    };
    let documentation: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("///") || line.starts_with('#'))
        .copied()
        .collect();
    let Some(first) = documentation
        .iter()
        .rev()
        .find(|line| line.starts_with("///"))
    else {
        return Vec::new();
    };
    let list = first.split(['.', ':', ',']).next().unwrap_or_default();
    let mut names: Vec<String> = quoted(list).map(str::to_owned).collect();
    if let [from, to, ..] = &names[..]
        && list.contains("` to `")
        && let (Some(low), Some(high)) = (version(from), version(to))
    {
        let stem = &from[..from.len() - 1];
        names = (low..=high)
            .map(|version| format!("{stem}{version}"))
            .collect();
    }
    names
}

fn version(name: &str) -> Option<u32> {
    name.chars().last()?.to_digit(10)
}

/// Numbers whose documentation begins with their Windows name.
fn documented_numbers(text: &str, into: &mut BTreeMap<String, u64>) {
    let mut name: Option<&str> = None;
    for line in text.lines().map(str::trim) {
        if let Some(documentation) = line.strip_prefix("/// ") {
            if name.is_none() && documentation.starts_with('`') {
                name = quoted(documentation).next();
            }
            continue;
        }
        if line.starts_with("///") || line.starts_with('#') {
            continue;
        }
        let documented = name.take();
        if let Some(status) = status(line) {
            into.insert(status.0.to_owned(), status.1);
        } else if let Some(name) = documented
            && name
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || character == '_')
            && let Some(value) = assigned(line)
        {
            into.insert(name.to_owned(), value);
        }
    }
}

/// A line of the schema's table of statuses.
fn status(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split_whitespace();
    let number = number(words.next()?)?;
    words.next()?;
    let name = words.next()?.strip_prefix('"')?.strip_suffix('"')?;
    name.starts_with("STATUS_").then_some((name, number))
}

/// The literal that a line gives a name to.
fn assigned(line: &str) -> Option<u64> {
    let (_, value) = line.split_once(" = ")?;
    let value = value
        .trim_start_matches("NtStatus::from_u32(")
        .trim_start_matches("Self(");
    number(value.split([';', ',', ')']).next()?)
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    text.strip_prefix("0x").map_or_else(
        || text.parse().ok(),
        |hexadecimal| u64::from_str_radix(hexadecimal, 16).ok(),
    )
}
