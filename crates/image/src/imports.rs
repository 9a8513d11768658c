//! The import table.

use serde::Serialize;

use crate::ImageError;
use crate::view::{View, malformed};

/// How an import is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum ImportName {
    /// By name.
    Name(String),
    /// By ordinal.
    Ordinal(u16),
}

impl std::fmt::Display for ImportName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ordinal(ordinal) => write!(f, "#{ordinal}"),
        }
    }
}

/// One function or variable that an image takes from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// The other image's file name as written in the table, such as `ntoskrnl.exe`.
    pub module: String,
    /// Its name there.
    pub name: ImportName,
    /// Where the loader puts its address.
    pub slot: u32,
}

/// `IMAGE_IMPORT_DESCRIPTOR`.
const DESCRIPTOR_SIZE: u32 = 20;
/// More than all functions of all the kernel's modules.
const MOST_IMPORTS: usize = 65_536;
const LONGEST_NAME: usize = 4_096;
const BY_ORDINAL: u64 = 1 << 63;
const TABLE: &str = "import table";

/// Reads the import table at `rva`.
pub(crate) fn read(view: &View, rva: u32) -> Result<Vec<Import>, ImageError> {
    let mut imports = Vec::new();
    let mut at = rva;
    loop {
        let outside = malformed(TABLE, at, "the descriptor is outside the image");
        let field = |offset: u32| at.checked_add(offset).and_then(|rva| view.u32(rva));
        let (Some(names), Some(module), Some(slots)) = (field(0), field(12), field(16)) else {
            return Err(outside);
        };
        if module == 0 && slots == 0 {
            return Ok(imports);
        }
        let module = view
            .ascii(module, LONGEST_NAME)
            .ok_or_else(|| malformed(TABLE, at, "bad module name"))?;
        // Old linkers leave the name table out; the slots hold the names until they are bound.
        let names = if names == 0 { slots } else { names };
        read_module(view, &module, names, slots, &mut imports)?;
        at = at.checked_add(DESCRIPTOR_SIZE).ok_or(outside)?;
    }
}

fn read_module(
    view: &View,
    module: &str,
    names: u32,
    slots: u32,
    imports: &mut Vec<Import>,
) -> Result<(), ImageError> {
    for index in 0.. {
        let at = |table: u32| {
            8u32.checked_mul(index)
                .and_then(|offset| table.checked_add(offset))
        };
        let (Some(thunk), Some(slot)) = (at(names), at(slots)) else {
            return Err(malformed(TABLE, names, "the name table has no end"));
        };
        let value = view
            .u64(thunk)
            .ok_or_else(|| malformed(TABLE, thunk, "the name table leaves the image"))?;
        if value == 0 {
            break;
        }
        if view.u64(slot).is_none() {
            return Err(malformed(TABLE, slot, "the address table leaves the image"));
        }
        let name = if value & BY_ORDINAL == 0 {
            // The low 31 bits are the address of a hint, a u16, and the name.
            u32::try_from(value & 0x7fff_ffff)
                .ok()
                .and_then(|hint| hint.checked_add(2))
                .and_then(|rva| view.ascii(rva, LONGEST_NAME))
                .map(ImportName::Name)
                .ok_or_else(|| malformed(TABLE, thunk, "bad name"))?
        } else {
            let [low, high, ..] = value.to_le_bytes();
            ImportName::Ordinal(u16::from_le_bytes([low, high]))
        };
        imports.push(Import {
            module: module.to_owned(),
            name,
            slot,
        });
        if imports.len() > MOST_IMPORTS {
            return Err(malformed(TABLE, names, "there are too many imports"));
        }
    }
    Ok(())
}
