//! Names of places in an image, from the program database that its linker wrote.

use std::io::Cursor;

use pdb2::{FallibleIterator, PDB, SymbolData};

/// The functions of an image, by relative address.
#[derive(Debug)]
pub struct Symbols {
    /// Start, length (0 if unknown) and name; by start.
    functions: Vec<Function>,
    /// Start, file and line of the statements; by start.
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Function {
    start: u32,
    length: u32,
    name: String,
}

#[derive(Debug)]
struct Line {
    start: u32,
    file: String,
    number: u32,
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
        Self::read(&mut pdb).map_err(words)
    }

    fn read<'s>(pdb: &mut PDB<'s, Cursor<&'s [u8]>>) -> pdb2::Result<Self> {
        let addresses = pdb.address_map()?;
        let strings = pdb.string_table().ok();
        let mut functions = Vec::new();
        let mut lines = Vec::new();
        let table = pdb.global_symbols()?;
        let mut symbols = table.iter();
        while let Some(symbol) = symbols.next()? {
            if let Ok(SymbolData::Public(public)) = symbol.parse()
                && public.function
                && let Some(start) = public.offset.to_rva(&addresses)
            {
                functions.push(Function {
                    start: start.0,
                    length: 0,
                    name: public.name.to_string().into_owned(),
                });
            }
        }
        let debug = pdb.debug_information()?;
        let mut modules = debug.modules()?;
        while let Some(module) = modules.next()? {
            let Some(info) = pdb.module_info(&module)? else {
                continue;
            };
            let mut symbols = info.symbols()?;
            while let Some(symbol) = symbols.next()? {
                if let Ok(SymbolData::Procedure(procedure)) = symbol.parse()
                    && let Some(start) = procedure.offset.to_rva(&addresses)
                {
                    let name = procedure.name.to_string().into_owned();
                    functions.push(Function {
                        start: start.0,
                        length: procedure.len,
                        name,
                    });
                }
            }
            let Some(strings) = &strings else { continue };
            let program = info.line_program()?;
            let mut statements = program.lines();
            while let Some(line) = statements.next()? {
                if let Some(start) = line.offset.to_rva(&addresses)
                    && let Ok(file) = program.get_file_info(line.file_index)
                    && let Ok(path) = strings.get(file.name)
                {
                    let path = path.to_string();
                    let file = path.rsplit(['/', '\\']).next().unwrap_or(&path).to_owned();
                    lines.push(Line {
                        start: start.0,
                        file,
                        number: line.line_start,
                    });
                }
            }
        }
        // A procedure says more than a public symbol at the same place.
        functions.sort_by_key(|function| (function.start, function.length));
        lines.sort_by_key(|line| line.start);
        Ok(Self { functions, lines })
    }

    /// What lies `offset` bytes into the image: the function with the distance from its start, and the line.
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
        let distance = match at - function.start {
            0 => String::new(),
            distance => format!("+{distance:#x}"),
        };
        let line = self
            .lines
            .partition_point(|line| line.start <= at)
            .checked_sub(1)
            .and_then(|at| self.lines.get(at));
        let line = line
            .filter(|line| line.start >= function.start)
            .map(|line| format!(", {}:{}", line.file, line.number))
            .unwrap_or_default();
        Some(format!("{}{distance}{line}", function.name))
    }
}
