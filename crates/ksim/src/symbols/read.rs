//! From a program database to [`Symbols`].

use std::collections::HashMap;
use std::io::Cursor;

use pdb2::{
    AddressMap, FallibleIterator, IdData, IdIndex, Inlinee, LineInfo, LineProgram, ModuleInfo, PDB,
    PdbInternalSectionOffset, StringTable, SymbolData,
};

use super::{Function, Span, Symbols};

type Database<'s> = PDB<'s, Cursor<&'s [u8]>>;

/// What lines are collected with.
struct Reader<'a, 's> {
    addresses: AddressMap<'s>,
    strings: Option<StringTable<'s>>,
    /// Names of functions that were inlined, by what inline sites call them.
    names: HashMap<IdIndex, usize>,
    files: HashMap<String, usize>,
    symbols: &'a mut Symbols,
}

pub(super) fn read(pdb: &mut Database<'_>) -> pdb2::Result<Symbols> {
    let mut symbols = Symbols::default();
    let names = inlined_names(pdb, &mut symbols.inlined)?;
    let mut reader = Reader {
        addresses: pdb.address_map()?,
        strings: pdb.string_table().ok(),
        names,
        files: HashMap::new(),
        symbols: &mut symbols,
    };
    let table = pdb.global_symbols()?;
    let mut publics = table.iter();
    while let Some(symbol) = publics.next()? {
        if let Ok(SymbolData::Public(public)) = symbol.parse()
            && public.function
            && let Some(start) = public.offset.to_rva(&reader.addresses)
        {
            reader.symbols.functions.push(Function {
                start: start.0,
                length: 0,
                name: public.name.to_string().into_owned(),
                is_procedure: false,
            });
        }
    }
    let debug = pdb.debug_information()?;
    let mut modules = debug.modules()?;
    while let Some(module) = modules.next()? {
        if let Some(info) = pdb.module_info(&module)? {
            reader.module(&info)?;
        }
    }
    // A procedure says more than a public symbol at the same place.
    symbols
        .functions
        .sort_by_key(|function| (function.start, function.length));
    Ok(symbols)
}

/// The names of all functions that have an identifier, which inline sites go by.
fn inlined_names(
    pdb: &mut Database<'_>,
    names: &mut Vec<String>,
) -> pdb2::Result<HashMap<IdIndex, usize>> {
    let mut by_id = HashMap::new();
    // Databases of old linkers have none.
    let Ok(ids) = pdb.id_information() else {
        return Ok(by_id);
    };
    let mut iterator = ids.iter();
    while let Some(id) = iterator.next()? {
        let name = match id.parse() {
            Ok(IdData::Function(function)) => function.name.to_string().into_owned(),
            Ok(IdData::MemberFunction(function)) => function.name.to_string().into_owned(),
            _ => continue,
        };
        by_id.insert(id.index(), names.len());
        names.push(name);
    }
    Ok(by_id)
}

impl Reader<'_, '_> {
    fn module(&mut self, info: &ModuleInfo<'_>) -> pdb2::Result<()> {
        let program = info.line_program()?;
        let mut inlinees: HashMap<IdIndex, Inlinee<'_>> = HashMap::new();
        let mut iterator = info.inlinees()?;
        while let Some(inlinee) = iterator.next()? {
            inlinees.insert(inlinee.index(), inlinee);
        }
        self.lines(&program, program.lines(), 0, None)?;
        // Inline sites lie in the procedure that was begun last; their own ends tell how deep they are nested.
        let mut procedure: Option<PdbInternalSectionOffset> = None;
        let mut ends = Vec::new();
        let mut symbols = info.symbols()?;
        while let Some(symbol) = symbols.next()? {
            ends.retain(|end| *end > symbol.index());
            match symbol.parse() {
                Ok(SymbolData::Procedure(found)) => {
                    procedure = Some(found.offset);
                    ends.clear();
                    if let Some(start) = found.offset.to_rva(&self.addresses) {
                        self.symbols.functions.push(Function {
                            start: start.0,
                            length: found.len,
                            name: found.name.to_string().into_owned(),
                            is_procedure: true,
                        });
                    }
                }
                Ok(SymbolData::InlineSite(site)) => {
                    ends.push(site.end);
                    let depth = u16::try_from(ends.len()).unwrap_or(u16::MAX);
                    if let (Some(procedure), Some(inlinee)) =
                        (procedure, inlinees.get(&site.inlinee))
                    {
                        let name = self.names.get(&site.inlinee).copied();
                        self.lines(&program, inlinee.lines(procedure, &site), depth, name)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Collects the lines of a module, or of one inline site.
    fn lines<'l>(
        &mut self,
        program: &LineProgram<'_>,
        mut lines: impl FallibleIterator<Item = LineInfo, Error = pdb2::Error> + 'l,
        depth: u16,
        inlined: Option<usize>,
    ) -> pdb2::Result<()> {
        while let Some(line) = lines.next()? {
            let Some(start) = line.offset.to_rva(&self.addresses) else {
                continue;
            };
            let length = line.length.unwrap_or(0);
            // Line 0 is code that the compiler made for no line.
            if line.line_start == 0 || length == 0 {
                continue;
            }
            let Some(file) = self.file(program, &line) else {
                continue;
            };
            self.symbols.spans.push(Span {
                code: start.0..start.0.saturating_add(length),
                depth,
                line: line.line_start,
                file,
                inlined,
            });
        }
        Ok(())
    }

    /// The number of the line's file.
    fn file(&mut self, program: &LineProgram<'_>, line: &LineInfo) -> Option<usize> {
        let file = program.get_file_info(line.file_index).ok()?;
        let path = self.strings.as_ref()?.get(file.name).ok()?.to_string();
        if let Some(&known) = self.files.get(&*path) {
            return Some(known);
        }
        let number = self.symbols.files.len();
        self.symbols.files.push(path.clone().into_owned());
        self.files.insert(path.into_owned(), number);
        Some(number)
    }
}
