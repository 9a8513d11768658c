//! What the framework's functions take and return is what its public headers say.
//!
//! `kmdf-signatures.tsv` holds the sizes of what each function returns and takes, from the headers of KMDF 1.33
//! (<https://github.com/microsoft/Windows-Driver-Frameworks>), in the order of the function table.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;

use ksim::export;

const SIGNATURES: &str = include_str!("kmdf-signatures.tsv");

/// Functions by name: the size of the result, then those of the parameters.
fn documented() -> BTreeMap<&'static str, Vec<usize>> {
    let sizes = |text: &'static str| text.split(['\t', ' ']).filter_map(|size| size.parse().ok());
    SIGNATURES
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, rest)| (name, sizes(rest).collect()))
        .collect()
}

#[test]
fn a_framework_function_takes_and_returns_what_the_headers_say() {
    let documented = documented();
    let (mut compared, mut alone, mut wrong) = (0, Vec::new(), Vec::new());
    for export in export::all().filter(|export| export.module == "kmdf") {
        let mut sizes = vec![export.returns];
        sizes.extend(export.parameters.iter().map(|parameter| parameter.size));
        match documented.get(export.name) {
            Some(known) if *known == sizes => compared += 1,
            Some(known) => wrong.push(format!("{}: {sizes:?} here, {known:?} there", export.name)),
            None => alone.push(export.name),
        }
    }
    println!("{compared} functions compared, without a second source: {alone:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > 130, "only {compared} were compared");
}
