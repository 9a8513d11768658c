//! The export table.

use object::read::pe::ExportTable;
use serde::Serialize;

use crate::ImageError;
use crate::view::{View, malformed};

/// One function or variable that an image gives to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its ordinal.
    pub ordinal: u16,
    /// Where it is; that of a string when it is forwarded to another image.
    pub rva: u32,
}

/// Reads the export directory of `size` bytes at `rva`.
pub(crate) fn read(view: &View, rva: u32, size: u32) -> Result<Vec<Export>, ImageError> {
    let table = "export table";
    let data = usize::try_from(size)
        .ok()
        .and_then(|size| view.get(rva, size))
        .ok_or_else(|| malformed(table, rva, "outside the image"))?;
    let bad = |_| malformed(table, rva, "malformed");
    let parsed = ExportTable::parse(data, rva).map_err(bad)?;
    let mut exports: Vec<Export> = parsed
        .address_iter()
        .filter(|(_, _, address)| *address != 0)
        .map(|(_, ordinal, rva)| Export {
            name: None,
            ordinal: ordinal.0,
            rva,
        })
        .collect();
    for (pointer, index) in parsed.name_iter() {
        let ordinal = parsed.ordinal_from_index(index).map_err(bad)?.0;
        let name =
            String::from_utf8_lossy(parsed.name_from_pointer(pointer).map_err(bad)?).into_owned();
        if let Ok(at) = exports.binary_search_by_key(&ordinal, |export| export.ordinal)
            && let Some(export) = exports.get_mut(at)
        {
            export.name = Some(name);
        }
    }
    Ok(exports)
}
