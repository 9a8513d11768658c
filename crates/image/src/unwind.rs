//! Unwinding x64 functions by their function table (`.pdata`) and unwind information.
//!
//! <https://learn.microsoft.com/cpp/build/exception-handling-x64>

use serde::Serialize;

use crate::Image;
use crate::view::View;

/// The number of `RSP` in [`Registers::general`].
const RSP: usize = 4;

/// What unwinding needs to know of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// The instruction pointer.
    pub rip: u64,
    /// The general registers by their numbers in machine code: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
}

impl Registers {
    /// The stack pointer.
    #[must_use]
    pub const fn rsp(&self) -> u64 {
        self.general[RSP]
    }

    const fn set_rsp(&mut self, value: u64) {
        self.general[RSP] = value;
    }

    /// Takes the word at the stack pointer off the stack.
    fn pop(&mut self, read: &mut impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        let word = read(self.rsp())?;
        self.set_rsp(self.rsp().wrapping_add(8));
        Some(word)
    }
}

/// What a function, or a part of one that was split off, takes of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Relative address of its code.
    pub begin: u32,
    /// Bytes of pushed registers and of what it allocates.
    pub bytes: u32,
}

/// `RUNTIME_FUNCTION`: a range of code and where its unwind information is, all relative addresses.
#[derive(Debug, Clone, Copy)]
struct Function {
    begin: u32,
    end: u32,
    unwind: u32,
}

/// Bytes of a `RUNTIME_FUNCTION`.
const FUNCTION_SIZE: u32 = 12;
/// `UNW_FLAG_CHAININFO`.
const CHAINED: u8 = 4;
/// More links than this in a chain are taken for a loop.
const LONGEST_CHAIN: usize = 32;

/// `UNWIND_CODE` operations.
mod operation {
    pub(super) const PUSH_NONVOL: u8 = 0;
    pub(super) const ALLOC_LARGE: u8 = 1;
    pub(super) const ALLOC_SMALL: u8 = 2;
    pub(super) const SET_FPREG: u8 = 3;
    pub(super) const SAVE_NONVOL: u8 = 4;
    pub(super) const SAVE_NONVOL_FAR: u8 = 5;
    /// Of version 2: where epilogs are.
    pub(super) const EPILOG: u8 = 6;
    pub(super) const SAVE_XMM128: u8 = 8;
    pub(super) const SAVE_XMM128_FAR: u8 = 9;
    pub(super) const PUSH_MACHFRAME: u8 = 10;
}

/// An `UNWIND_CODE` with the slots that belong to it.
#[derive(Debug, Clone, Copy)]
struct Code {
    /// Where in the prolog the instruction ends.
    offset: u8,
    operation: u8,
    info: u8,
    /// What follows in further slots: scaled or not, as the operation has it.
    operand: u32,
}

impl Code {
    /// Bytes that its instruction takes of the stack.
    const fn stack(self) -> u32 {
        match self.operation {
            operation::PUSH_NONVOL => 8,
            operation::ALLOC_LARGE | operation::ALLOC_SMALL => self.operand,
            _ => 0,
        }
    }
}

/// Where undoing a prolog leads.
enum Undone {
    /// To the caller, at this address.
    Returned(u64),
    /// To the function of which this is a part that was split off.
    Chained(Function),
}

/// `UNWIND_INFO`.
#[derive(Debug)]
struct Unwind {
    frame_register: usize,
    frame_offset: u64,
    codes: Vec<Code>,
    chained: Option<Function>,
}

impl Image {
    /// Turns the registers of a function of this image, which lies at `base`, into those of its caller at the moment
    /// after the call. `read` reads a word of the stack.
    ///
    /// `returned` says that `rip` is a return address, whose call may be the last instruction of its function.
    /// A function without an entry in the table is a leaf: its return address is at the stack pointer. A fault within
    /// an epilog is not told from one in the body.
    ///
    /// `None` when the stack cannot be read or the unwind information is malformed.
    pub fn unwind(
        &self,
        base: u64,
        registers: &Registers,
        returned: bool,
        mut read: impl FnMut(u64) -> Option<u64>,
    ) -> Option<Registers> {
        let mut caller = *registers;
        let at = u32::try_from(registers.rip.checked_sub(base)?).ok()?;
        let looked_up = at.checked_sub(u32::from(returned))?;
        let mut function = self.function_at(looked_up);
        let mut depth = at.checked_sub(function.map_or(0, |function| function.begin));
        for _ in 0..LONGEST_CHAIN {
            let Some(current) = function else {
                caller.rip = caller.pop(&mut read)?;
                return Some(caller);
            };
            let unwind = Unwind::read(&self.view, current.unwind)?;
            match unwind.undo(&mut caller, depth, &mut read)? {
                Undone::Returned(rip) => {
                    caller.rip = rip;
                    return Some(caller);
                }
                Undone::Chained(primary) => function = Some(primary),
            }
            // The primary function's prolog was executed completely.
            depth = None;
        }
        None
    }

    /// What the functions of this image take of the stack. Leaf functions, which take nothing, are not in the table, nor is
    /// what a function calls. What is malformed is left out.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Frame> {
        let (table, size) = self.function_table.unwrap_or_default();
        (0..size / FUNCTION_SIZE).filter_map(move |index| {
            let at = table.checked_add(index * FUNCTION_SIZE)?;
            let function = Function::read(&self.view, at)?;
            let unwind = Unwind::read(&self.view, function.unwind)?;
            let bytes = unwind.codes.iter().copied().map(Code::stack);
            Some(Frame {
                begin: function.begin,
                bytes: bytes.fold(0, u32::saturating_add),
            })
        })
    }

    /// The function whose code is at `rva`.
    fn function_at(&self, rva: u32) -> Option<Function> {
        let (table, size) = self.function_table?;
        let (mut low, mut high) = (0, size / FUNCTION_SIZE);
        while low < high {
            let middle = low.midpoint(high);
            let function = Function::read(&self.view, table + middle * FUNCTION_SIZE)?;
            if rva < function.begin {
                high = middle;
            } else if rva >= function.end {
                low = middle + 1;
            } else {
                return Some(function);
            }
        }
        None
    }
}

impl Function {
    fn read(view: &View, rva: u32) -> Option<Self> {
        Some(Self {
            begin: view.u32(rva)?,
            end: view.u32(rva.checked_add(4)?)?,
            unwind: view.u32(rva.checked_add(8)?)?,
        })
    }
}

impl Unwind {
    fn read(view: &View, rva: u32) -> Option<Self> {
        let &[version_flags, _prolog, count, frame, ..] = view.get(rva, 4)? else {
            return None;
        };
        let (version, flags) = (version_flags & 7, version_flags >> 3);
        if !(1..=2).contains(&version) {
            return None;
        }
        let slots = view.get(rva.checked_add(4)?, 2 * usize::from(count))?;
        let chained = if flags & CHAINED == 0 {
            None
        } else {
            // The slots are padded to an even number.
            let after = 4 + 2 * u32::from(count).next_multiple_of(2);
            Some(Function::read(view, rva.checked_add(after)?)?)
        };
        Some(Self {
            frame_register: usize::from(frame & 15),
            frame_offset: u64::from(frame >> 4) * 16,
            codes: codes(slots)?,
            chained,
        })
    }

    /// Undoes what the prolog has done `depth` bytes into the function, `None` for all of it.
    fn undo(
        &self,
        registers: &mut Registers,
        depth: Option<u32>,
        read: &mut impl FnMut(u64) -> Option<u64>,
    ) -> Option<Undone> {
        let done = |code: &&Code| depth.is_none_or(|depth| u32::from(code.offset) <= depth);
        let has_frame = self.frame_register != 0
            && self
                .codes
                .iter()
                .filter(done)
                .any(|code| code.operation == operation::SET_FPREG);
        // A chained part of a function inherits the frame register that its primary one has set.
        let inherits = self.frame_register != 0 && self.chained.is_some();
        let frame = if has_frame || inherits {
            registers.general[self.frame_register].wrapping_sub(self.frame_offset)
        } else {
            registers.rsp()
        };
        for code in self.codes.iter().filter(done) {
            let register = usize::from(code.info);
            match code.operation {
                operation::PUSH_NONVOL => registers.general[register] = registers.pop(read)?,
                operation::ALLOC_LARGE | operation::ALLOC_SMALL => {
                    registers.set_rsp(registers.rsp().wrapping_add(u64::from(code.operand)));
                }
                operation::SET_FPREG => registers.set_rsp(frame),
                operation::SAVE_NONVOL | operation::SAVE_NONVOL_FAR => {
                    registers.general[register] =
                        read(frame.wrapping_add(u64::from(code.operand)))?;
                }
                operation::PUSH_MACHFRAME => {
                    let top = registers.rsp().wrapping_add(8 * u64::from(code.info));
                    registers.set_rsp(read(top.wrapping_add(24))?);
                    return Some(Undone::Returned(read(top)?));
                }
                _ => {}
            }
        }
        match self.chained {
            Some(primary) => Some(Undone::Chained(primary)),
            None => Some(Undone::Returned(registers.pop(read)?)),
        }
    }
}

/// The unwind codes in these slots.
fn codes(slots: &[u8]) -> Option<Vec<Code>> {
    let mut slots = slots
        .chunks_exact(2)
        .filter_map(|slot| slot.first_chunk::<2>())
        .copied();
    let mut codes = Vec::new();
    while let Some([offset, packed]) = slots.next() {
        let (operation, info) = (packed & 15, packed >> 4);
        let mut word = || slots.next().map(u16::from_le_bytes).map(u32::from);
        let operand = match (operation, info) {
            (operation::ALLOC_SMALL, _) => u32::from(info) * 8 + 8,
            (operation::ALLOC_LARGE, 0) | (operation::SAVE_NONVOL, _) => word()? * 8,
            (
                operation::ALLOC_LARGE | operation::SAVE_NONVOL_FAR | operation::SAVE_XMM128_FAR,
                _,
            ) => word()? | word()? << 16,
            (operation::SAVE_XMM128 | operation::EPILOG, _) => word()?,
            _ => 0,
        };
        codes.push(Code {
            offset,
            operation,
            info,
            operand,
        });
    }
    Some(codes)
}
