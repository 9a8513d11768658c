//! Builds small driver images, for tests of what reads or runs them.
//!
//! ```
//! use pe_image::build::Builder;
//!
//! let mut builder = Builder::x64();
//! let print = builder.import("ntoskrnl.exe", "DbgBreakPoint");
//! builder.code(&[0x48, 0x83, 0xec, 0x28]); // sub rsp, 28h
//! builder.call_through(print);
//! builder.code(&[0x31, 0xc0, 0x48, 0x83, 0xc4, 0x28, 0xc3]); // xor eax, eax; add rsp, 28h; ret
//! let file = builder.build();
//! assert_eq!(pe_image::Image::parse(&file).unwrap().imports.len(), 1);
//! ```

use crate::{Machine, checksum};

const TEXT: u32 = 0x1000;
const RDATA: u32 = 0x2000;
const DATA: u32 = 0x3000;
const RELOC: u32 = 0x4000;
const IMAGE_SIZE: u32 = 0x5000;
const PAGE: usize = 0x1000;
const HEADERS: usize = 0x400;
const BASE: u64 = 0x1_4000_0000;
const NT_HEADERS: usize = 0x80;
const OPTIONAL: usize = NT_HEADERS + 24;
/// Where in the file the checksum is.
const CHECKSUM: usize = OPTIONAL + 64;
/// Where the import address table's room ends and the descriptors begin, relative to `.rdata`.
const DESCRIPTORS: usize = 0x400;
const NAMES: usize = 0x800;
/// Where the function table and the unwind information are, relative to `.rdata`.
const FUNCTIONS: u32 = 0xb00;
const UNWIND: u32 = 0xc00;
const LOAD_CONFIG: u32 = 0xf00;

/// A driver image in the making: code, imports, data.
///
/// Its sections are one page each: code at 0x1000, imports and the load configuration at 0x2000, writable data at
/// 0x3000, relocations at 0x4000.
#[derive(Debug, Clone)]
pub struct Builder {
    machine: Machine,
    code: Vec<u8>,
    data: Vec<u8>,
    imports: Vec<(String, String)>,
    pointers: Vec<u32>,
    cookie: Option<u32>,
    /// Begin, end and unwind information of functions.
    functions: Vec<(u32, u32, Vec<u8>)>,
    entry: u32,
    /// `DllCharacteristics`.
    pub characteristics: u16,
    /// `Characteristics` of the sections, in order.
    pub section_flags: [u32; 4],
}

impl Builder {
    /// An empty x64 image with every flag that a driver is to have.
    #[must_use]
    pub const fn x64() -> Self {
        Self::new(Machine::X64)
    }

    /// An empty image.
    #[must_use]
    pub const fn new(machine: Machine) -> Self {
        Self {
            machine,
            code: Vec::new(),
            data: Vec::new(),
            imports: Vec::new(),
            pointers: Vec::new(),
            cookie: None,
            functions: Vec::new(),
            entry: TEXT,
            characteristics: 0x1e0,
            section_flags: [0x6800_0020, 0x4800_0040, 0xc800_0040, 0x4200_0040],
        }
    }

    /// Imports `module!name`; the address of its slot in the import address table.
    pub fn import(&mut self, module: &str, name: &str) -> u32 {
        self.imports.push((module.to_owned(), name.to_owned()));
        // Each import is a table of its own: the slot and a terminator.
        RDATA + 16 * (u32::try_from(self.imports.len()).unwrap_or(0) - 1)
    }

    /// Appends code; the address where it begins.
    pub fn code(&mut self, bytes: &[u8]) -> u32 {
        let at = self.here();
        self.code.extend_from_slice(bytes);
        at
    }

    /// The address of the code that comes next.
    #[must_use]
    pub fn here(&self) -> u32 {
        TEXT + u32::try_from(self.code.len()).unwrap_or(0)
    }

    /// The image's entry is the code that comes next. Without this it is the first.
    pub fn entry_here(&mut self) {
        self.entry = self.here();
    }

    /// Appends x64 code: `prefix` and the 32-bit distance from its end to `target`, such as `FF 15` for a call
    /// through a pointer.
    pub fn relative(&mut self, prefix: &[u8], target: u32) {
        self.code(prefix);
        let distance = target.wrapping_sub(self.here() + 4);
        self.code(&distance.to_le_bytes());
    }

    /// Appends x64 code: a call through the pointer at `slot`.
    pub fn call_through(&mut self, slot: u32) {
        self.relative(&[0xff, 0x15], slot);
    }

    /// Appends x64 code: `lea rcx, [target]`.
    pub fn lea_rcx(&mut self, target: u32) {
        self.relative(&[0x48, 0x8d, 0x0d], target);
    }

    /// Appends writable data, aligned to 8 bytes; its address.
    pub fn data(&mut self, bytes: &[u8]) -> u32 {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = DATA + u32::try_from(self.data.len()).unwrap_or(0);
        self.data.extend_from_slice(bytes);
        at
    }

    /// Appends to the data a pointer to `target`, with its relocation; its address.
    pub fn pointer(&mut self, target: u32) -> u32 {
        let at = self.data(&(BASE + u64::from(target)).to_le_bytes());
        self.pointers.push(at);
        at
    }

    /// The security cookie is the eight bytes of data at `at`.
    pub const fn security_cookie(&mut self, at: u32) {
        self.cookie = Some(at);
    }

    /// The code from `begin` up to here is a function with this unwind information (`UNWIND_INFO`).
    pub fn function(&mut self, begin: u32, unwind: &[u8]) {
        self.functions.push((begin, self.here(), unwind.to_vec()));
    }

    /// The file.
    ///
    /// # Panics
    /// When a section has more than its page.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut file = vec![0; HEADERS + 4 * PAGE];
        self.headers(&mut file);
        let section = |index: usize| HEADERS + index * PAGE;
        put(&mut file, section(0), &self.code);
        self.import_tables(&mut file, section(1));
        put(&mut file, section(2), &self.data);
        self.function_table(&mut file, section(1));
        self.relocations(&mut file, section(3));
        let sum = checksum::compute(&file, CHECKSUM);
        put(&mut file, CHECKSUM, &sum.to_le_bytes());
        file
    }

    fn headers(&self, file: &mut [u8]) {
        put(file, 0, b"MZ");
        put(
            file,
            0x3c,
            &u32::try_from(NT_HEADERS).unwrap_or(0).to_le_bytes(),
        );
        put(file, NT_HEADERS, b"PE\0\0");
        let machine: u16 = match self.machine {
            Machine::X64 => 0x8664,
            Machine::Arm64 => 0xaa64,
        };
        put(file, NT_HEADERS + 4, &machine.to_le_bytes());
        put(file, NT_HEADERS + 6, &4u16.to_le_bytes());
        put(file, NT_HEADERS + 20, &240u16.to_le_bytes());
        put(file, NT_HEADERS + 22, &0x22u16.to_le_bytes());
        put(file, OPTIONAL, &0x20bu16.to_le_bytes());
        for (offset, value) in [
            (16, self.entry),
            (20, TEXT),
            (32, 0x1000),
            (36, 0x200),
            (56, IMAGE_SIZE),
            (60, 0x400),
            (108, 16),
        ] {
            put(file, OPTIONAL + offset, &value.to_le_bytes());
        }
        put(file, OPTIONAL + 24, &BASE.to_le_bytes());
        put(file, OPTIONAL + 68, &1u16.to_le_bytes());
        put(file, OPTIONAL + 70, &self.characteristics.to_le_bytes());
        let mut directory = |index: usize, rva: u32, size: usize| {
            put(file, OPTIONAL + 112 + index * 8, &rva.to_le_bytes());
            put(
                file,
                OPTIONAL + 116 + index * 8,
                &u32::try_from(size).unwrap_or(0).to_le_bytes(),
            );
        };
        if !self.imports.is_empty() {
            directory(1, RDATA + 0x400, 20 * (self.imports.len() + 1));
        }
        if !self.functions.is_empty() {
            directory(3, RDATA + FUNCTIONS, 12 * self.functions.len());
        }
        if !self.pointers.is_empty() {
            directory(5, RELOC, 8 + (self.pointers.len() * 2).next_multiple_of(4));
        }
        if self.cookie.is_some() {
            directory(10, RDATA + LOAD_CONFIG, 0x94);
        }
        let names = [b".text\0\0\0", b".rdata\0\0", b".data\0\0\0", b".reloc\0\0"];
        for (index, (name, flags)) in names.iter().zip(self.section_flags).enumerate() {
            let header = OPTIONAL + 240 + index * 40;
            let rva = TEXT * u32::try_from(index + 1).unwrap_or(0);
            let raw = u32::try_from(HEADERS + index * PAGE).unwrap_or(0);
            put(file, header, &name[..]);
            for (offset, value) in [(8, 0x1000), (12, rva), (16, 0x1000), (20, raw), (36, flags)] {
                put(file, header + offset, &value.to_le_bytes());
            }
        }
    }

    fn import_tables(&self, file: &mut [u8], section: usize) {
        let mut names = NAMES;
        for (index, (module, name)) in self.imports.iter().enumerate() {
            let rva = |offset: usize| RDATA + u32::try_from(offset).unwrap_or(0);
            let slot = index * 16;
            let hint = names;
            put(file, section + hint + 2, name.as_bytes());
            let library = (hint + 2 + name.len() + 1).next_multiple_of(2);
            put(file, section + library, module.as_bytes());
            names = (library + module.len() + 1).next_multiple_of(2);
            assert!(
                names < FUNCTIONS as usize && slot < DESCRIPTORS,
                "the imports fit into their page"
            );
            put(file, section + slot, &u64::from(rva(hint)).to_le_bytes());
            let descriptor = section + DESCRIPTORS + index * 20;
            put(file, descriptor + 12, &rva(library).to_le_bytes());
            put(file, descriptor + 16, &rva(slot).to_le_bytes());
        }
        if let Some(cookie) = self.cookie {
            let config = section + LOAD_CONFIG as usize;
            put(file, config, &0x94u32.to_le_bytes());
            put(
                file,
                config + 0x58,
                &(BASE + u64::from(cookie)).to_le_bytes(),
            );
        }
    }

    fn function_table(&self, file: &mut [u8], section: usize) {
        let (mut entry, mut at) = (FUNCTIONS, UNWIND);
        for (begin, end, unwind) in &self.functions {
            for word in [*begin, *end, RDATA + at] {
                put(file, section + entry as usize, &word.to_le_bytes());
                entry += 4;
            }
            put(file, section + at as usize, unwind);
            at += u32::try_from(unwind.len().next_multiple_of(4)).unwrap_or(LOAD_CONFIG);
            assert!(
                entry <= UNWIND && at <= LOAD_CONFIG,
                "the functions fit into their page"
            );
        }
    }

    fn relocations(&self, file: &mut [u8], section: usize) {
        let size = 8 + (self.pointers.len() * 2).next_multiple_of(4);
        put(file, section, &DATA.to_le_bytes());
        put(
            file,
            section + 4,
            &u32::try_from(size).unwrap_or(0).to_le_bytes(),
        );
        for (index, pointer) in self.pointers.iter().enumerate() {
            let entry = 0xa000 | u16::try_from(pointer - DATA).unwrap_or(0);
            put(file, section + 8 + index * 2, &entry.to_le_bytes());
        }
    }
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
