//! Executable stubs between a driver and the simulated functions.
//!
//! A stub notes, through GS, where in the driver it was called from (see [`Cpu`](crate::Cpu)), then jumps to the
//! function: the function sees the driver's own stack frame and returns straight to the driver. Pages of stubs are
//! never writable and executable at the same time.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::cpu::{Cpu, SCRATCH_OFFSET};
use crate::kernel::Bugcheck;
use crate::loader::memory::Twin;
use crate::verifier::STOP_UNSIMULATED;

/// The stubs of one machine.
#[derive(Debug, Default)]
pub struct Thunks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    memory: Vec<Twin>,
    /// Bytes used of the last one.
    used: usize,
    by_target: HashMap<(usize, Kind), usize>,
    /// The functions that are not simulated, by the number that their stub passes.
    missing: Vec<String>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Plain,
    Variadic,
}

/// `mov r11, [rsp]`, `mov gs:[SCRATCH], r11`, `mov gs:[SCRATCH + 8], rsp`, and the nonvolatile registers behind, by
/// which the driver's frames are unwound: RBX, RBP, RSI, RDI, R12 to R15.
///
/// R11 is volatile and carries no argument in the x64 calling convention.
fn note_caller(code: &mut Vec<u8>) {
    /// `mov gs:[address], register`: the prefixes, the opcode and the bytes that name the register.
    const STORES: [[u8; 5]; 10] = [
        [0x65, 0x4c, 0x89, 0x1c, 0x25],
        [0x65, 0x48, 0x89, 0x24, 0x25],
        [0x65, 0x48, 0x89, 0x1c, 0x25],
        [0x65, 0x48, 0x89, 0x2c, 0x25],
        [0x65, 0x48, 0x89, 0x34, 0x25],
        [0x65, 0x48, 0x89, 0x3c, 0x25],
        [0x65, 0x4c, 0x89, 0x24, 0x25],
        [0x65, 0x4c, 0x89, 0x2c, 0x25],
        [0x65, 0x4c, 0x89, 0x34, 0x25],
        [0x65, 0x4c, 0x89, 0x3c, 0x25],
    ];
    code.extend([0x4c, 0x8b, 0x1c, 0x24]);
    for (store, slot) in STORES.into_iter().zip((SCRATCH_OFFSET..).step_by(8)) {
        code.extend(store);
        code.extend(slot.to_le_bytes());
    }
}

/// `mov r11, target`, `jmp r11`.
fn jump(code: &mut Vec<u8>, target: usize) {
    code.extend([0x49, 0xbb]);
    code.extend((target as u64).to_le_bytes());
    code.extend([0x41, 0xff, 0xe3]);
}

/// Stubs begin at multiples of this.
const ALIGNMENT: usize = 16;

/// Memory for stubs is taken in pieces of so many bytes: enough for the functions of a driver.
const SIZE: usize = 1 << 17;

impl Thunks {
    /// The stub for the `extern "win64"` function at `target`; one target always has the same stub.
    ///
    /// # Panics
    /// When the host gives no memory.
    #[must_use]
    pub fn make(&self, target: usize) -> usize {
        self.cached(target, Kind::Plain)
    }

    /// The stub for a function with variable arguments: `target` is called with the address of the argument list,
    /// eight bytes each, and all arguments lie there.
    #[must_use]
    pub fn make_variadic(&self, target: usize) -> usize {
        self.cached(target, Kind::Variadic)
    }

    /// A stub that stops the machine and says that `name` is not simulated; one name always has the same stub.
    #[must_use]
    pub fn make_missing(&self, name: &str) -> usize {
        let mut inner = self.0.lock();
        if let Some(&stub) = inner.by_name.get(name) {
            return stub;
        }
        let mut code = Vec::new();
        note_caller(&mut code);
        // mov ecx, number
        code.push(0xb9);
        code.extend(
            u32::try_from(inner.missing.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        jump(&mut code, missing as *const () as usize);
        inner.missing.push(name.to_owned());
        let stub = inner.emit(&code);
        inner.by_name.insert(name.to_owned(), stub);
        stub
    }

    fn cached(&self, target: usize, kind: Kind) -> usize {
        let mut inner = self.0.lock();
        if let Some(&stub) = inner.by_target.get(&(target, kind)) {
            return stub;
        }
        let mut code = Vec::new();
        note_caller(&mut code);
        if kind == Kind::Variadic {
            // The caller has left room for the register arguments right below the others: put them there.
            // mov [rsp+8], rcx; mov [rsp+10h], rdx; mov [rsp+18h], r8; mov [rsp+20h], r9; lea rcx, [rsp+8]
            code.extend([0x48, 0x89, 0x4c, 0x24, 0x08, 0x48, 0x89, 0x54, 0x24, 0x10]);
            code.extend([0x4c, 0x89, 0x44, 0x24, 0x18, 0x4c, 0x89, 0x4c, 0x24, 0x20]);
            code.extend([0x48, 0x8d, 0x4c, 0x24, 0x08]);
        }
        jump(&mut code, target);
        let stub = inner.emit(&code);
        inner.by_target.insert((target, kind), stub);
        stub
    }

    fn missing_name(&self, number: u32) -> String {
        self.0
            .lock()
            .missing
            .get(number as usize)
            .cloned()
            .unwrap_or_default()
    }
}

impl Inner {
    /// Puts `code` behind what is there and returns its address.
    fn emit(&mut self, code: &[u8]) -> usize {
        let has_room = |memory: &Twin| self.used + code.len() <= memory.size();
        if !self.memory.last().is_some_and(has_room) {
            self.memory.push(Twin::new(SIZE).expect("memory"));
            self.used = 0;
        }
        let memory = self.memory.last().expect("just made sure");
        let address = memory.put(self.used, code);
        self.used = (self.used + code.len()).next_multiple_of(ALIGNMENT);
        address
    }
}

/// Where the stubs of functions that are not simulated go.
extern "win64" fn missing(number: u32) {
    let Some(cpu) = Cpu::current() else {
        std::process::abort();
    };
    let machine = cpu.machine();
    let name = machine.thunks().missing_name(number);
    let place = machine.verifier().place(cpu.return_address());
    let mut bugcheck = Bugcheck::new(
        crate::trap::code::DRIVER_UNMAPPED_IMPORT,
        [u64::from(number), cpu.return_address() as u64, 0, 0],
        format!("{name} is not simulated, and was called from {place}"),
    );
    bugcheck.stack = crate::trap::driver_stack(machine, &cpu.driver_registers());
    machine.crash_by(&STOP_UNSIMULATED, bugcheck)
}
