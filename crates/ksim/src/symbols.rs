//! Names of places in an image, from the program database that its linker wrote.

mod read;

use std::fmt::Write as _;
use std::io::Cursor;
use std::ops::Range;

use pdb2::PDB;

/// The functions and source lines of an image, by relative address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// By start; of two at the same place the one that says more comes last.
    functions: Vec<Function>,
    spans: Vec<Span>,
    /// Paths of source files, as the compiler was given them.
    files: Vec<String>,
    /// Names of inlined functions.
    inlined: Vec<String>,
}

#[derive(Debug)]
struct Function {
    start: u32,
    /// 0 if unknown.
    length: u32,
    name: String,
    /// Whether its code is described by lines, rather than being known by its name only.
    is_procedure: bool,
}

/// Code that one line of source was compiled to.
#[derive(Debug, Clone)]
pub struct Span {
    /// The addresses, relative to the image.
    pub code: Range<u32>,
    /// 0 in a function itself, 1 in a function inlined into it, and so on.
    pub depth: u16,
    /// The line, from 1.
    pub line: u32,
    file: usize,
    inlined: Option<usize>,
}

impl Symbols {
    /// Reads a program database. `image` says which one the image asks for.
    ///
    /// # Errors
    /// In words, when it can't be read or belongs to another image.
    pub fn parse(pdb: &[u8], image: Option<&pe_image::Pdb>) -> Result<Self, String> {
        let words = |error: pdb2::Error| error.to_string();
        let mut pdb = PDB::open(Cursor::new(pdb)).map_err(words)?;
        if let Some(image) = image {
            let own = pdb.pdb_information().map_err(words)?.guid.to_string();
            if !own.eq_ignore_ascii_case(&image.guid) {
                return Err(format!(
                    "it belongs to the image with GUID {own}, and this one has {}",
                    image.guid
                ));
            }
        }
        read::read(&mut pdb).map_err(words)
    }

    /// What lies `offset` bytes into the image: the function with the distance from its start, the function that is
    /// inlined there, and the line.
    #[must_use]
    pub fn describe(&self, offset: usize) -> Option<String> {
        let at = u32::try_from(offset).ok()?;
        let index = self
            .functions
            .partition_point(|function| function.start <= at)
            .checked_sub(1)?;
        let function = self.functions.get(index)?;
        if function.length != 0 && at - function.start >= function.length {
            return None;
        }
        let mut words = String::new();
        let span = self
            .spans
            .iter()
            .filter(|span| span.code.contains(&at))
            .max_by_key(|span| span.depth);
        let inlined = span.and_then(|span| self.inlined.get(span.inlined?));
        if let Some(inlined) = inlined {
            words = format!("{inlined} in ");
        }
        words.push_str(&function.name);
        if at > function.start {
            write!(words, "+{:#x}", at - function.start).ok()?;
        }
        if let Some(span) = span {
            let path = self.file(span);
            let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
            write!(words, ", {file}:{}", span.line).ok()?;
        }
        Some(words)
    }

    /// The code of each line, in no particular order; code of inlined functions is also code of their callers' lines.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The path of the source file of `span`, as the compiler was given it.
    #[must_use]
    pub fn file(&self, span: &Span) -> &str {
        self.files.get(span.file).map_or("", String::as_str)
    }

    /// Where functions that are described by lines begin.
    pub fn procedures(&self) -> impl Iterator<Item = u32> {
        self.functions
            .iter()
            .filter(|function| function.is_procedure)
            .map(|function| function.start)
    }
}
