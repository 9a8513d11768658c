//! Which lines of a driver ran.
//!
//! Every instruction of the driver that belongs to a line of source gets a breakpoint, which is removed for good the
//! first time that it is hit: what ran once runs at full speed. Which instructions there are is found out once, by
//! following the code from its functions and lines on ([`instructions`]), and kept in a folder together with what
//! was hit. The file of hits is shared memory, so that any number of machines and processes add to it.
//!
//! [`Coverage::prepare`] makes the folder; whoever loads the image with the folder
//! ([`LoadOptions::coverage`](crate::LoadOptions), by default the one that [`VARIABLE`] names) adds to it;
//! [`Coverage::files`] says what ran.

mod instructions;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pe_image::Image;

use crate::symbols::Symbols;

pub(crate) use watch::{Watched, breakpoint};

/// The environment variable that names the folder in which all machines of a process note what ran.
pub const VARIABLE: &str = "KSIM_COVERAGE";

/// Why there is no coverage.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// The image.
    #[error(transparent)]
    Image(#[from] pe_image::ImageError),
    /// The program database.
    #[error("program database: {0}")]
    Symbols(String),
    /// The image does not say which program database it has, by which its files in the folder are found.
    #[error("the image names no program database")]
    NoDatabase,
    /// A file of the folder.
    #[error("{file}: {source}")]
    File {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A driver image, and the folder in which is kept what of it ran.
#[derive(Debug)]
pub struct Coverage {
    files: Files,
    instructions: Vec<u32>,
    symbols: Symbols,
    size: usize,
}

/// The lines of a source file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Each line that has code, and whether any of it ran.
    pub ran: BTreeMap<u32, bool>,
}

impl Lines {
    /// How many lines have code.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ran.len()
    }

    /// How many of them ran.
    #[must_use]
    pub fn covered(&self) -> usize {
        self.ran.values().filter(|ran| **ran).count()
    }
}

/// The files of an image in a folder.
#[derive(Debug)]
struct Files {
    /// The addresses of instructions, four bytes each.
    plan: PathBuf,
    /// A byte for each byte of the image: 1 where an instruction ran.
    hits: PathBuf,
}

impl Files {
    fn of(folder: &Path, image: &Image) -> Option<Self> {
        let guid = &image.debug.pdb.as_ref()?.guid;
        Some(Self {
            plan: folder.join(format!("{guid}.plan")),
            hits: folder.join(format!("{guid}.hits")),
        })
    }
}

fn named<T>(file: &Path, result: io::Result<T>) -> Result<T, CoverageError> {
    result.map_err(|source| CoverageError::File {
        file: file.display().to_string(),
        source,
    })
}

impl Coverage {
    /// Reads what is needed to tell of the coverage of `image`, whose program database is `pdb`, in `folder`.
    ///
    /// # Errors
    /// [`CoverageError`]
    pub fn new(folder: &Path, image: &[u8], pdb: &[u8]) -> Result<Self, CoverageError> {
        let image = Image::parse(image)?;
        let symbols =
            Symbols::parse(pdb, image.debug.pdb.as_ref()).map_err(CoverageError::Symbols)?;
        Ok(Self {
            files: Files::of(folder, &image).ok_or(CoverageError::NoDatabase)?,
            instructions: instructions::of(&image, &symbols)?,
            symbols,
            size: image.image_size as usize,
        })
    }

    /// Makes the folder's files: nothing ran yet.
    ///
    /// # Errors
    /// [`CoverageError`]
    pub fn prepare(&self) -> Result<(), CoverageError> {
        let Files { plan, hits } = &self.files;
        if let Some(folder) = plan.parent() {
            named(folder, fs::create_dir_all(folder))?;
        }
        named(hits, fs::write(hits, vec![0; self.size]))?;
        let addresses = self.instructions.iter().copied().flat_map(u32::to_le_bytes);
        named(plan, fs::write(plan, addresses.collect::<Vec<u8>>()))
    }

    /// The source files of the image by their paths, with the lines that have code. A line ran when any instruction
    /// of it ran; an instruction of an inlined function belongs to its line and to the line that calls the function.
    ///
    /// # Errors
    /// [`CoverageError`]
    pub fn files(&self) -> Result<BTreeMap<String, Lines>, CoverageError> {
        let hits = named(&self.files.hits, fs::read(&self.files.hits))?;
        let mut files: BTreeMap<String, Lines> = BTreeMap::new();
        for span in self.symbols.spans() {
            let first = self
                .instructions
                .partition_point(|at| *at < span.code.start);
            let inside = self.instructions.iter().skip(first);
            let mut inside = inside.take_while(|at| **at < span.code.end).peekable();
            if inside.peek().is_none() {
                continue;
            }
            let ran = inside.any(|at| hits.get(*at as usize) == Some(&1));
            let lines = files.entry(self.symbols.file(span).to_owned()).or_default();
            *lines.ran.entry(span.line).or_default() |= ran;
        }
        Ok(files)
    }
}

/// What [`lcov`](https://github.com/linux-test-project/lcov) and everything that reads its files takes.
#[must_use]
pub fn lcov(files: &BTreeMap<String, Lines>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (path, lines) in files {
        writeln!(text, "SF:{path}").ok();
        for (line, ran) in &lines.ran {
            writeln!(text, "DA:{line},{}", u8::from(*ran)).ok();
        }
        writeln!(text, "LF:{}\nLH:{}", lines.count(), lines.covered()).ok();
        text.push_str("end_of_record\n");
    }
    text
}
