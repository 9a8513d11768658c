//! The driver's stack: its frames, unwound by the function tables of the images that they are in.

use pe_image::unwind::Registers;

use super::{Trap, word};
use crate::cpu::Cpu;
use crate::kernel::Machine;
use crate::loader::memory::probe;

/// How many frames are reported.
const FRAMES: usize = 64;

/// The numbers of the general registers in a signal's context, in the order of machine code.
const GENERAL: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// The driver's frames from which the call into the kernel that left `registers` came, innermost first. It ends where
/// the driver was called.
pub(crate) fn driver_stack(machine: &Machine, registers: &Registers) -> Vec<String> {
    frames(machine, *registers, true)
}

/// The driver's frames at a trap: from where it happened, or from the call into the kernel within which it happened.
pub(super) fn trapped_stack(cpu: &Cpu, trap: &Trap) -> Vec<String> {
    let machine = cpu.machine();
    let registers = Registers {
        rip: trap.rip as u64,
        general: GENERAL.map(|index| word(&trap.registers, index)),
    };
    if machine.verifier().image_at(trap.rip).is_some() {
        return frames(machine, registers, false);
    }
    if probe(trap.rip, &mut [0]) == 0 {
        // A call to where no code is: the return address is on top of the stack.
        let mut caller = registers;
        caller.rip = read_word(registers.rsp()).unwrap_or(0);
        caller.general[4] = registers.rsp().wrapping_add(8);
        return frames(machine, caller, true);
    }
    // Simulated code. The registers that its caller had are those of the last call, unless that has returned.
    let called = cpu.driver_registers();
    let in_progress = called.rsp() > registers.rsp()
        && read_word(called.rsp().wrapping_sub(8)) == Some(called.rip);
    if in_progress {
        frames(machine, called, true)
    } else {
        Vec::new()
    }
}

/// The word at `address` of a stack of which nothing is known.
fn read_word(address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let read = probe(usize::try_from(address).ok()?, &mut bytes);
    (read == bytes.len()).then(|| u64::from_le_bytes(bytes))
}

/// The places of the frames from `registers` outwards, as long as they are in images. `returned` says that the first
/// is a return address, as all others are.
fn frames(machine: &Machine, mut registers: Registers, mut returned: bool) -> Vec<String> {
    let mut places = Vec::new();
    while places.len() < FRAMES {
        let Ok(rip) = usize::try_from(registers.rip) else {
            break;
        };
        // A call may be the last instruction of its function: what is before the return address is meant.
        let Some(image) = machine
            .verifier()
            .image_at(rip - usize::from(returned && rip > 0))
        else {
            break;
        };
        places.push(image.place(rip, returned));
        let base = image.range.start as u64;
        let facts = image.mapped.facts();
        let Some(caller) = facts.unwind(base, &registers, returned, read_word) else {
            break;
        };
        // The stack grows down: a caller's frame is above.
        if caller.rsp() <= registers.rsp() {
            break;
        }
        registers = caller;
        returned = true;
    }
    places
}
