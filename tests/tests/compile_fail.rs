//! The documented mistakes that the types of the `wfp` crate make impossible: each case in `tests/compile-fail` is refused by
//! the compiler, for the reason that it names. `docs/pitfalls.md` says which mistake is which.
//!
//! A case is compiled against the library with which the driver was built, so that it needs no build of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Where `cargo xtask build` puts the libraries of the driver.
fn libraries() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver")
}

const TARGET: &str = "x86_64-pc-windows-msvc";

/// The newest build of the `wfp` crate for the driver.
fn wfp() -> PathBuf {
    let folder = libraries().join(TARGET).join("release/deps");
    let age = |file: &PathBuf| {
        file.metadata()
            .and_then(|facts| facts.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            let name = file.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with("libwfp-"))
                && file.extension().is_some_and(|ending| ending == "rlib")
        })
        .max_by_key(age)
        .expect("the driver was built: `cargo xtask build`")
}

/// The errors that the compiler finds, by their codes, and all that it says.
fn compile(case: &Path, wfp: &Path) -> (Vec<String>, String) {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let deps = |folder: PathBuf| format!("dependency={}", folder.display());
    let extern_wfp = format!("wfp={}", wfp.display());
    let object = std::env::temp_dir().join(format!(
        "portcullis-{}-{}.o",
        std::process::id(),
        case.file_stem().expect("a name").to_string_lossy()
    ));
    let output = Command::new(compiler)
        .args(["--edition", "2024", "--target", TARGET])
        // An object, not only metadata: some mistakes are found when generics are filled in.
        .args(["--crate-type", "lib", "--emit", "obj", "-C", "panic=abort"])
        .args(["-L", &deps(libraries().join(TARGET).join("release/deps"))])
        .args(["-L", &deps(libraries().join("release/deps"))])
        .args(["--extern", &extern_wfp, "-o"])
        .arg(&object)
        .arg(case)
        .output()
        .expect("the compiler runs");
    std::fs::remove_file(object).ok();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut codes: Vec<String> = said
        .lines()
        .filter(|line| line.starts_with("error["))
        .filter_map(|line| Some(line.split_once(']')?.0.to_owned() + "]"))
        .collect();
    codes.sort();
    codes.dedup();
    assert_eq!(
        output.status.success(),
        !said.lines().any(|line| line.starts_with("error")),
        "{said}"
    );
    (codes, said)
}

#[test]
fn each_documented_mistake_that_types_can_prevent_does_not_compile() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile-fail");
    let wfp = wfp();
    let mut cases: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    cases.sort();
    assert!(cases.len() > 15);
    for case in cases {
        let source = std::fs::read_to_string(&case).expect("it can be read");
        let name = case
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let expected = source
            .lines()
            .find_map(|line| line.strip_prefix("// "))
            .unwrap_or_else(|| panic!("{name} names its error"));
        let expected: &[&str] = match expected {
            // The one that shows that the others fail for their mistakes, not for how they are compiled.
            "compiles" => &[],
            code => &[code],
        };
        let (codes, said) = compile(&case, &wfp);
        assert_eq!(codes, expected, "{name}: {said}");
        println!("{name}: {}", codes.join(" "));
    }
}

#[test]
fn the_page_about_mistakes_names_every_case_and_every_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/pitfalls.md")).expect("the page");
    for entry in std::fs::read_dir(root.join("tests/compile-fail")).expect("the folder") {
        let name = entry
            .expect("it can be read")
            .file_name()
            .into_string()
            .expect("a name");
        if name != "sound.rs" {
            assert!(
                page.contains(&format!("`{}`", name.trim_end_matches(".rs"))),
                "{name}"
            );
        }
    }
}

#[test]
fn whatever_a_page_calls_a_test_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    let mut folders = vec![root.join("tests/tests"), root.join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(path).expect("a source");
            }
        }
    }
    for name in ["pitfalls", "comparison"] {
        let page = std::fs::read_to_string(root.join(format!("docs/{name}.md"))).expect("the page");
        let codes = page.split('`').skip(1).step_by(2);
        let named = codes.filter_map(|code| code.split_once("::"));
        let is_test = |(file, test): &(&str, &str)| {
            test.starts_with(char::is_lowercase)
                && file.chars().all(|c| c.is_lowercase() || c == '_')
        };
        let mut count = 0;
        for (file, test) in named.filter(is_test) {
            assert!(
                sources.contains(&format!("fn {test}(")),
                "docs/{name}.md: there is no test {file}::{test}"
            );
            count += 1;
        }
        assert!(count > 20, "docs/{name}.md names {count} tests");
    }
}
