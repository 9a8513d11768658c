//! What the stand-in WDK's headers declare, as clang understands them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::model::{Declarations, Record, Signature, plain_name};

/// Every header that a driver includes; the others are included by these.
const SOURCE: &str = "
#define NDIS650 1
#define KMDF_VERSION_MAJOR 1
#define KMDF_VERSION_MINOR 33
#include <ntifs.h>
#include <fwpsk.h>
#include <fwpmk.h>
#include <wdf.h>
";

/// The compiler that `cargo xtask setup` installs, or another one of this machine.
fn clang() -> &'static str {
    ["clang-19", "clang"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
        .expect("clang is installed: cargo xtask setup")
}

fn kit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kit/include")
}

fn compile(source: &str, arguments: &[&str]) -> Output {
    static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("kit-{}-{serial}.c", std::process::id()));
    std::fs::write(&file, source).expect("the target folder is writable");
    let mut command = Command::new(clang());
    command
        .args(["--target=x86_64-pc-windows-msvc", "-w", "-ferror-limit=0"])
        .args(["-D_AMD64_", "-D_WIN64"])
        .args(arguments);
    for folder in ["km", "km/crt", "shared", "wdf/kmdf/1.31"] {
        command.arg("-I").arg(kit().join(folder));
    }
    let output = command.arg(&file).output().expect("clang runs");
    std::fs::remove_file(&file).ok();
    output
}

fn compile_well(source: &str, arguments: &[&str]) -> String {
    let output = compile(source, arguments);
    assert!(
        output.status.success(),
        "the kit's headers do not compile: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("clang prints text")
}

/// Reads all headers.
pub(crate) fn read() -> Declarations {
    let tree = compile_well(SOURCE, &["-fsyntax-only", "-Xclang", "-ast-dump=json"]);
    let tree: Value = serde_json::from_str(&tree).expect("clang prints JSON");
    let layouts = compile_well(
        SOURCE,
        &["-fsyntax-only", "-Xclang", "-fdump-record-layouts-complete"],
    );
    let mut types = Types::default();
    let mut declarations = Declarations {
        records: records(&layouts),
        ..Declarations::default()
    };
    let items = tree["inner"].as_array().expect("declarations");
    let mut enumerators = BTreeSet::new();
    for item in items {
        let name = item["name"].as_str().unwrap_or_default();
        match item["kind"].as_str() {
            Some("TypedefDecl") => types.add(name, spelled(&item["type"])),
            Some("EnumDecl") => enumerators.extend(
                children(item).filter_map(|member| Some(member["name"].as_str()?.to_owned())),
            ),
            _ => {}
        }
    }
    // What everybody calls a structure is a typedef of its tag.
    for (name, meaning) in &types.0 {
        let tag = meaning
            .trim_start_matches("struct ")
            .trim_start_matches("union ");
        if let Some(record) = declarations.records.get(tag).cloned() {
            declarations.records.insert(name.clone(), record);
        }
    }
    for item in items.iter().filter(|item| item["kind"] == "FunctionDecl") {
        let name = item["name"].as_str().unwrap_or_default();
        let whole = spelled(&item["type"]);
        let returns = whole.split_once('(').map_or(whole, |(returns, _)| returns);
        let parameters = children(item)
            .filter(|child| child["kind"] == "ParmVarDecl")
            .map(|parameter| types.size(spelled(&parameter["type"]), &declarations.records))
            .collect();
        let returns = types.size(returns, &declarations.records);
        // An inline function is no import.
        let inline = children(item).any(|child| child["kind"] == "CompoundStmt");
        if !inline && !name.starts_with("__builtin") {
            declarations.functions.insert(
                name.to_owned(),
                Signature {
                    parameters,
                    returns,
                },
            );
        }
    }
    // The framework's functions are reached through pointers of these types.
    let pointers: Vec<(&String, &String)> = types
        .0
        .iter()
        .filter(|(name, _)| name.starts_with("PFN_WDF"))
        .collect();
    for (name, meaning) in pointers {
        let Some((returns, parameters)) = meaning.split_once("(*)(") else {
            continue;
        };
        let parameters = parameters
            .split(')')
            .next()
            .unwrap_or_default()
            .split(',')
            .map(|parameter| types.size(parameter, &declarations.records))
            .collect();
        let returns = types.size(returns, &declarations.records);
        declarations.functions.insert(
            name.clone(),
            Signature {
                parameters,
                returns,
            },
        );
    }
    declarations.constants = constants(enumerators);
    declarations.guids = guids();
    declarations
}

fn children(item: &Value) -> impl Iterator<Item = &Value> {
    item["inner"].as_array().into_iter().flatten()
}

/// A type as it is written.
fn spelled(ty: &Value) -> &str {
    ty["qualType"].as_str().unwrap_or_default()
}

/// Typedefs by name.
#[derive(Debug, Default)]
struct Types(BTreeMap<String, String>);

impl Types {
    fn add(&mut self, name: &str, meaning: &str) {
        self.0.insert(name.to_owned(), meaning.to_owned());
    }

    fn size(&self, ty: &str, records: &BTreeMap<String, Record>) -> u64 {
        let ty = ty.trim();
        if ty.ends_with('*') || ty.contains("(*)") || ty.contains('[') || ty.ends_with("*const") {
            return 8;
        }
        let words: Vec<&str> = ty
            .split_whitespace()
            .filter(|word| !matches!(*word, "const" | "volatile" | "signed"))
            .collect();
        match &*words.join(" ") {
            "void" => 0,
            "char" | "unsigned char" | "_Bool" | "bool" => 1,
            "short" | "unsigned short" | "wchar_t" => 2,
            "int" | "unsigned int" | "unsigned" | "long" | "unsigned long" | "float" => 4,
            "long long" | "unsigned long long" | "__int64" | "double" => 8,
            other if other.starts_with("enum ") => 4,
            other => {
                let tag = other
                    .trim_start_matches("struct ")
                    .trim_start_matches("union ");
                if let Some(record) = records.get(tag) {
                    return record.size;
                }
                let meaning = self
                    .0
                    .get(other)
                    .unwrap_or_else(|| panic!("what is `{ty}`?"));
                // A typedef of an enumeration names it by itself.
                if meaning == other {
                    4
                } else {
                    self.size(meaning, records)
                }
            }
        }
    }
}

/// Reads clang's table of structures: each line an offset, two spaces a level, a type and a name.
fn records(text: &str) -> BTreeMap<String, Record> {
    let mut records = BTreeMap::new();
    for dump in text.split("*** Dumping AST Record Layout").skip(1) {
        let mut lines = dump.lines().filter(|line| line.contains(" | "));
        let Some((_, name)) = lines.next().and_then(|line| line.split_once(" | ")) else {
            continue;
        };
        let name = name
            .trim_start_matches("struct ")
            .trim_start_matches("union ");
        if name.contains('(') {
            continue;
        }
        let mut record = Record::default();
        // Names of the enclosing members, `None` below a member whose type has a name.
        let mut prefixes: Vec<Option<String>> = vec![Some(String::new())];
        for line in lines {
            let (offset, rest) = line.split_once(" | ").expect("filtered");
            if let Some(size) = rest.trim().strip_prefix("[sizeof=") {
                record.size = size
                    .split(',')
                    .next()
                    .and_then(|size| size.parse().ok())
                    .unwrap_or(0);
                continue;
            }
            let depth = (rest.len() - rest.trim_start().len()) / 2;
            prefixes.truncate(depth.max(1));
            let prefix = prefixes.last().cloned().flatten();
            let (ty, member) = member(rest.trim_start());
            let bit_field = offset.contains(':');
            let unnamed = ty.contains("::(");
            if let Some(prefix) = prefix {
                if !member.is_empty() && !bit_field {
                    let offset = offset.trim().parse().unwrap_or(u64::MAX);
                    record.fields.insert(format!("{prefix}{member}"), offset);
                }
                let below = match (unnamed, member) {
                    // Microsoft's extension: a member that only has a type stands for that type's members.
                    (_, "") => Some(prefix),
                    (false, _) => None,
                    (true, member) => Some(format!("{prefix}{member}.")),
                };
                prefixes.push(below);
            } else {
                prefixes.push(None);
            }
        }
        records.insert(name.to_owned(), record);
    }
    records
}

/// Splits `struct X::(unnamed at f.h:1:2) u` and `unsigned char[8] Data4`.
fn member(text: &str) -> (&str, &str) {
    if let Some(end) = text
        .find("):")
        .or_else(|| text.rfind(") "))
        .filter(|_| text.contains("::("))
    {
        return (&text[..=end], text[end + 1..].trim());
    }
    if text.contains("::(") {
        return (text, "");
    }
    text.rsplit_once(' ').unwrap_or((text, ""))
}

/// Values of enumerators and of macros that are numbers.
fn constants(enumerators: BTreeSet<String>) -> BTreeMap<String, u64> {
    let before = compile_well("", &["-dM", "-E"]);
    let predefined: BTreeSet<&str> = before.lines().filter_map(macro_name).collect();
    let all = compile_well(SOURCE, &["-dM", "-E"]);
    let mut names = enumerators;
    names.extend(
        all.lines()
            .filter_map(macro_name)
            .filter(|name| !predefined.contains(name) && !name.starts_with("KMDF_VERSION"))
            .map(str::to_owned),
    );
    // A macro that is no number is an error in its own line; what is left compiles.
    let names: Vec<String> = names.into_iter().collect();
    let declare =
        |names: &[String]| {
            names.iter().fold(format!("{SOURCE}\n#line 1 \"probe\"\n"), |text, name| {
            format!("{text}const unsigned long long value_{name} = (unsigned long long)({name});\n")
        })
        };
    let output = compile(
        &declare(&names),
        &["-fsyntax-only", "-fno-caret-diagnostics"],
    );
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let bad: BTreeSet<usize> = errors
        .lines()
        .filter_map(|line| line.strip_prefix("probe:")?.split(':').next()?.parse().ok())
        .collect();
    let good: Vec<String> = names
        .into_iter()
        .enumerate()
        .filter(|(index, _)| !bad.contains(&(index + 1)))
        .map(|(_, name)| name)
        .collect();
    let code = compile_well(&declare(&good), &["-S", "-emit-llvm", "-o", "-"]);
    code.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("@value_")?.split_once(" = ")?;
            let value: i64 = rest
                .split_once("constant i64 ")?
                .1
                .split(',')
                .next()?
                .parse()
                .ok()?;
            Some((name.to_owned(), value.cast_unsigned()))
        })
        .collect()
}

/// The name of a macro without parameters and with a meaning.
fn macro_name(line: &str) -> Option<&str> {
    let (name, meaning) = line.strip_prefix("#define ")?.split_once(' ')?;
    (!name.contains('(') && !meaning.is_empty()).then_some(name)
}

/// The GUIDs that headers define, read from their text: a declaration alone carries no value.
fn guids() -> BTreeMap<String, u128> {
    let mut guids = BTreeMap::new();
    for folder in ["km", "km/kit", "shared"] {
        for file in std::fs::read_dir(kit().join(folder)).expect("the kit is there") {
            let file = file.expect("an entry").path();
            let Ok(text) = std::fs::read_to_string(&file) else {
                continue;
            };
            for definition in text.split("\nDEFINE_GUID(").skip(1) {
                let inside = definition.split(')').next().unwrap_or_default();
                let mut parts = inside.split(',').map(str::trim);
                let name = parts.next().unwrap_or_default();
                let numbers: Vec<u128> = parts
                    .filter_map(|part| u128::from_str_radix(part.trim_start_matches("0x"), 16).ok())
                    .collect();
                assert_eq!(numbers.len(), 11, "{name} in {}", file.display());
                let guid = numbers.iter().enumerate().fold(0, |guid, (index, part)| {
                    let width = [32, 16, 16].get(index).copied().unwrap_or(8);
                    guid << width | part
                });
                guids.insert(plain_name(name).to_owned(), guid);
            }
        }
    }
    guids
}
