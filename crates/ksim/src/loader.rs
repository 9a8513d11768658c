//! Puts a driver's image into memory: sections, relocations, protections, security cookie, imports.

pub(crate) mod memory;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use pe_image::{Image, ImageError, ImportName};

use crate::coverage::{self, Watched};
use crate::export;
use crate::kernel::Machine;
use crate::nt::{data, variadic};
use memory::{PAGE, Protection, Region};

/// How a driver is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The image's file name, which names places in reports: `driver.sys`.
    pub name: String,
    /// The service's name; `None` is the file name without its extension.
    pub service: Option<String>,
    /// Imports that are not simulated become functions that stop the machine when they are called. Otherwise they
    /// are all listed in [`LoadError::Unresolved`].
    pub trap_unsimulated: bool,
    /// The linker's program database (`.pdb`), for the names of functions in reports.
    pub pdb: Option<Vec<u8>>,
    /// The folder in which is noted what of the image runs; see [`coverage`](crate::coverage).
    pub coverage: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self::named("driver.sys")
    }
}

impl LoadOptions {
    /// The defaults for an image called `name`. Coverage is noted in the folder that the environment names.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            service: None,
            trap_unsimulated: true,
            pdb: None,
            coverage: std::env::var_os(coverage::VARIABLE).map(PathBuf::from),
        }
    }

    /// The service's name.
    #[must_use]
    pub fn service_name(&self) -> &str {
        self.service.as_deref().unwrap_or_else(|| {
            self.name
                .rsplit_once('.')
                .map_or(&*self.name, |(stem, _)| stem)
        })
    }
}

/// Why an image was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is no driver image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It is for another machine.
    #[error("the image is for {0}, and simulated processors are x64")]
    Machine(pe_image::Machine),
    /// It imports what is not simulated: `module!name` each.
    #[error("not simulated: {}", .0.join(", "))]
    Unresolved(Vec<String>),
    /// The program database cannot be read or belongs to another image.
    #[error("program database: {0}")]
    Symbols(String),
    /// The host gives no memory.
    #[error("no memory for the image: {0}")]
    Memory(#[from] io::Error),
}

/// An image in memory.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Dropped before the region is, so that no breakpoint is looked for where something else lies.
    _watched: Option<Watched>,
    region: Region,
    facts: Image,
}

/// So many unloaded images keep their addresses, and their names in reports. A driver that is loaded thousands of
/// times would use up the host's mappings otherwise.
pub(crate) const REMEMBERED: usize = 64;

/// The images of one machine that were unloaded last, so that nothing else gets their addresses.
#[derive(Debug, Default)]
pub(crate) struct Images(Mutex<VecDeque<std::sync::Arc<Mapped>>>);

impl Images {
    /// An image was unloaded.
    pub(crate) fn keep(&self, image: std::sync::Arc<Mapped>) {
        let mut unloaded = self.0.lock();
        unloaded.push_back(image);
        if unloaded.len() > REMEMBERED {
            unloaded.pop_front();
        }
    }
}

impl Mapped {
    /// Maps `file` and binds its imports to the functions of `machine`.
    pub(crate) fn new(
        machine: &Machine,
        file: &[u8],
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let facts = Image::parse(file)?;
        if facts.machine != pe_image::Machine::X64 {
            return Err(LoadError::Machine(facts.machine));
        }
        let size = facts.image_size as usize;
        let region = Region::reserve(size)?;
        let mut bytes = facts.relocated(region.start() as u64)?;
        bind(machine, &facts, options, &mut bytes)?;
        if let Some(cookie) = facts.load_config.and_then(|config| config.security_cookie) {
            put(&mut bytes, cookie, security_cookie(machine));
        }
        let watched = match &options.coverage {
            Some(folder) => Watched::new(folder, &facts, region.start(), &mut bytes)?,
            None => None,
        };
        region.protect(0, size, Protection::ReadWrite)?;
        region.write(0, &bytes);
        region.protect(0, size, Protection::None)?;
        region.protect(
            0,
            (facts.headers_size as usize).next_multiple_of(PAGE),
            Protection::Read,
        )?;
        for section in &facts.sections {
            // Old linkers mark discardable initialization code writable too, and nothing ever writes there.
            let protection = match (section.execute, section.write) {
                (true, _) => Protection::ReadExecute,
                (false, true) => Protection::ReadWrite,
                (false, false) => Protection::Read,
            };
            region.protect(section.rva as usize, section.size as usize, protection)?;
        }
        Ok(Self {
            region,
            facts,
            _watched: watched,
        })
    }

    pub(crate) fn base(&self) -> usize {
        self.region.start()
    }

    pub(crate) const fn size(&self) -> usize {
        self.region.size()
    }

    pub(crate) fn entry(&self) -> usize {
        self.base() + self.facts.entry as usize
    }

    pub(crate) const fn facts(&self) -> &Image {
        &self.facts
    }

    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.base()..self.base() + self.size()
    }

    /// The addresses of code.
    pub(crate) fn code(&self) -> Vec<std::ops::Range<usize>> {
        let code = self.facts.sections.iter().filter(|section| section.execute);
        code.map(|section| {
            let start = self.base() + section.rva as usize;
            start..start + section.size as usize
        })
        .collect()
    }

    /// Takes the discardable sections away, as the kernel does once the driver's entry has succeeded.
    pub(crate) fn discard_initialization(&self) -> io::Result<()> {
        self.facts
            .sections
            .iter()
            .filter(|section| section.discardable)
            .try_for_each(|section| {
                self.region
                    .discard(section.rva as usize, section.size as usize)
            })
    }

    /// Takes everything away.
    pub(crate) fn discard(&self) -> io::Result<()> {
        self.region.discard(0, self.size())
    }
}

/// Puts the addresses of what is imported into the import address table.
fn bind(
    machine: &Machine,
    facts: &Image,
    options: &LoadOptions,
    bytes: &mut [u8],
) -> Result<(), LoadError> {
    let mut unresolved = Vec::new();
    for import in &facts.imports {
        let known = match &import.name {
            ImportName::Name(name) => address(machine, &import.module, name),
            ImportName::Ordinal(_) => None,
        };
        let address = known.unwrap_or_else(|| {
            let name = format!("{}!{}", import.module, import.name);
            let trap = if options.trap_unsimulated {
                machine.thunks().make_missing(&name)
            } else {
                0
            };
            unresolved.push(name);
            trap
        });
        put(bytes, import.slot, address as u64);
    }
    if unresolved.is_empty() || options.trap_unsimulated {
        Ok(())
    } else {
        Err(LoadError::Unresolved(unresolved))
    }
}

/// What a driver finds at `module!name`: a function's stub, or a variable.
pub(crate) fn address(machine: &Machine, module: &str, name: &str) -> Option<usize> {
    if let Some(variable) = data::address(machine, module, name) {
        return Some(variable);
    }
    let export = export::resolve(module, name)?;
    let target = (export.address)();
    Some(if variadic(export.name) {
        machine.thunks().make_variadic(target)
    } else {
        machine.thunks().make(target)
    })
}

/// The cookie that the compiler links in, which the entry stub takes for "not initialized".
const DEFAULT_COOKIE: u64 = 0x2b99_2ddf_a232;

/// A random cookie whose upper two bytes are zero, so that no string function writes it.
fn security_cookie(machine: &Machine) -> u64 {
    match machine.nt().random() >> 16 {
        0 | DEFAULT_COOKIE => DEFAULT_COOKIE + 1,
        cookie => cookie,
    }
}

/// Writes `value` at `rva`; `Image::parse` has made sure that it is inside.
fn put(bytes: &mut [u8], rva: u32, value: u64) {
    if let Some(slot) = bytes
        .get_mut(rva as usize..)
        .and_then(<[u8]>::first_chunk_mut)
    {
        *slot = value.to_le_bytes();
    }
}
