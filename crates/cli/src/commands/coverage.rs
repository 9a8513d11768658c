//! `portcullis coverage`: which lines of a driver ran.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use ksim::coverage::{Coverage, CoverageError, Lines, lcov};
use serde::Serialize;

use super::{BadInput, Ending};
use crate::arguments::{Coverage as Command, CoverageReport, CoverageTarget};

/// Runs the command.
///
/// # Errors
/// Files that cannot be read or written, or a driver without a program database.
pub fn run(command: &Command) -> Result<Ending, BadInput> {
    match command {
        Command::Prepare(target) => open(&target.folder, &target.file, target.pdb.as_deref())?
            .prepare()
            .map_err(BadInput::new)?,
        Command::Report(report) => tell(report)?,
    }
    Ok(Ending::Clean)
}

/// The coverage of the driver in `file`, kept in `folder`.
pub(super) fn open(folder: &Path, file: &Path, pdb: Option<&Path>) -> Result<Coverage, BadInput> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
    };
    let image = read(file)?;
    let beside = file.with_extension("pdb");
    let pdb = read(pdb.unwrap_or(&beside))?;
    Coverage::new(folder, &image, &pdb)
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
}

fn tell(report: &CoverageReport) -> Result<(), BadInput> {
    let CoverageTarget { folder, file, pdb } = &report.target;
    let mut files = open(folder, file, pdb.as_deref())?
        .files()
        .map_err(|error| match error {
            CoverageError::File { source, .. } if source.kind() == ErrorKind::NotFound => {
                BadInput::new(format!(
                    "{}: nothing is kept of this driver there: `portcullis coverage prepare` comes first",
                    folder.display()
                ))
            }
            error => BadInput::new(error),
        })?;
    if let Some(root) = &report.root {
        files = below(files, root, &report.below);
    }
    if let Some(file) = &report.lcov {
        write(file, &files)?;
    }
    say!("{}", table(&files).trim_end());
    if report.uncovered {
        for (path, lines) in &files {
            let ranges = uncovered(lines);
            if !ranges.is_empty() {
                say!("{path}: {}", ranges.join(", "));
            }
        }
    }
    Ok(())
}

/// The files below `root`, by their paths from there on; if there are `folders`, those below one of these only.
fn below(
    files: BTreeMap<String, Lines>,
    root: &str,
    folders: &[String],
) -> BTreeMap<String, Lines> {
    let named = files.into_iter().filter_map(|(path, lines)| {
        let rest = Path::new(&path).strip_prefix(root).ok()?;
        let wanted = folders.is_empty() || folders.iter().any(|folder| rest.starts_with(folder));
        wanted.then(|| (rest.display().to_string(), lines))
    });
    named.collect()
}

/// Writes an lcov file.
pub(super) fn write(file: &Path, files: &BTreeMap<String, Lines>) -> Result<(), BadInput> {
    std::fs::write(file, lcov(files))
        .map_err(|error| BadInput::new(format!("{}: {error}", file.display())))
}

/// How much of a source file ran, for programs.
#[derive(Debug, Serialize)]
pub(super) struct CoverageEntry<'a> {
    file: &'a str,
    lines: usize,
    covered: usize,
}

/// How much of each file ran.
pub(super) fn entries(files: &BTreeMap<String, Lines>) -> Vec<CoverageEntry<'_>> {
    files
        .iter()
        .map(|(file, lines)| CoverageEntry {
            file,
            lines: lines.count(),
            covered: lines.covered(),
        })
        .collect()
}

/// A line for each file, and one for all.
pub(super) fn table(files: &BTreeMap<String, Lines>) -> String {
    let mut text = String::new();
    let mut row = |covered: usize, count: usize, name: &str| {
        let permille = covered * 1000 / count.max(1);
        writeln!(
            text,
            "{:>4}.{}% {covered:>6} of {count:>6} lines  {name}",
            permille / 10,
            permille % 10
        )
        .ok();
    };
    for (path, lines) in files {
        row(lines.covered(), lines.count(), path);
    }
    let sum = |part: fn(&Lines) -> usize| files.values().map(part).sum();
    row(sum(Lines::covered), sum(Lines::count), "in all");
    text
}

/// The lines that did not run, as `12` and `14-20`; a range skips lines without code.
fn uncovered(lines: &Lines) -> Vec<String> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    let mut open = false;
    for (&line, &ran) in &lines.ran {
        if ran {
            open = false;
        } else if let Some(last) = ranges.last_mut().filter(|_| open) {
            last.1 = line;
        } else {
            ranges.push((line, line));
            open = true;
        }
    }
    ranges
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(ran: &[(u32, bool)]) -> Lines {
        Lines {
            ran: ran.iter().copied().collect(),
        }
    }

    #[test]
    fn lines_that_did_not_run_are_told_in_ranges_over_lines_without_code() {
        let lines = lines(&[(1, false), (3, false), (4, true), (9, false)]);
        assert_eq!(uncovered(&lines), ["1-3", "9"]);
    }

    #[test]
    fn a_file_is_named_from_the_folder_on_that_was_asked_for() {
        let files = ["/source/src/a.rs", "/source/out/c.rs", "/library/b.rs"]
            .map(|path| (path.to_owned(), lines(&[(1, true)])));
        let found = below(files.clone().into(), "/source", &["src".to_owned()]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["src/a.rs"]);
        let all = below(files.into(), "/source", &[]);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["out/c.rs", "src/a.rs"]);
    }

    #[test]
    fn the_table_ends_with_the_sum() {
        let files = [
            ("a.rs".to_owned(), lines(&[(1, true), (2, false)])),
            ("b.rs".to_owned(), lines(&[(1, true)])),
        ];
        let text = table(&files.into());
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "  50.0%      1 of      2 lines  a.rs",
                " 100.0%      1 of      1 lines  b.rs",
                "  66.6%      2 of      3 lines  in all"
            ]
        );
    }
}
