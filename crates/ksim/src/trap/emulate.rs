//! Instructions of a kernel that a Linux process cannot execute, done by hand.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

use super::{Registers, vector, word};
use crate::access::address;
use crate::cpu::{Cpu, HIGH};
use crate::loader::memory::probe;
use crate::nt::shared_data;

/// The longest x86 instruction, in bytes.
const LONGEST: usize = 15;

/// Does the trapping instruction by hand and steps over it; `false` when it is not one of ours.
pub(super) fn instruction(cpu: &Cpu, registers: &mut Registers) -> bool {
    let trap = word(registers, libc::REG_TRAPNO);
    let address = address(word(registers, libc::REG_CR2));
    let shared = trap == vector::PAGE_FAULT && shared_data::contains(address);
    if !shared && trap != vector::GENERAL_PROTECTION {
        return false;
    }
    let rip = word(registers, libc::REG_RIP);
    let mut bytes = [0; LONGEST];
    let readable = probe(crate::access::address(rip), &mut bytes);
    let mut decoder = Decoder::with_ip(
        64,
        bytes.get(..readable).unwrap_or(&[]),
        rip,
        DecoderOptions::NONE,
    );
    let instruction = decoder.decode();
    let done = if shared {
        read_shared_data(cpu, &instruction, address, registers)
    } else {
        privileged(cpu, &instruction, registers)
    };
    if done {
        registers[libc::REG_RIP as usize] = instruction.next_ip().cast_signed();
    }
    done
}

fn privileged(cpu: &Cpu, instruction: &Instruction, registers: &mut Registers) -> bool {
    match instruction.code() {
        // Interrupts are never delivered in the middle of simulated code, so there is nothing to mask.
        Code::Cli | Code::Sti => true,
        Code::Mov_r64_cr if instruction.op1_register() == Register::CR8 => {
            set(registers, instruction.op0_register(), u64::from(cpu.irql()))
        }
        Code::Mov_cr_r64 if instruction.op0_register() == Register::CR8 => {
            let Some(irql) = get(registers, instruction.op1_register()) else {
                return false;
            };
            let Some(irql) = u8::try_from(irql).ok().filter(|&irql| irql <= HIGH) else {
                return false;
            };
            cpu.set_irql(irql);
            true
        }
        _ => false,
    }
}

/// Loads, comparisons and tests of `KUSER_SHARED_DATA`, which Windows maps read-only at a fixed address.
fn read_shared_data(
    cpu: &Cpu,
    instruction: &Instruction,
    address: usize,
    registers: &mut Registers,
) -> bool {
    let size = instruction.memory_size().size();
    let Some(value) = shared_data::read(cpu.machine(), address, size) else {
        return false;
    };
    let memory_is = |operand: u32| matches!(instruction.op_kind(operand), OpKind::Memory);
    match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx if memory_is(1) => {
            set(registers, instruction.op0_register(), value)
        }
        Mnemonic::Movsx | Mnemonic::Movsxd if memory_is(1) => set(
            registers,
            instruction.op0_register(),
            sign_extend(value, size),
        ),
        Mnemonic::Cmp | Mnemonic::Test => {
            let other = if memory_is(0) {
                operand(instruction, 1, registers)
            } else {
                operand(instruction, 0, registers)
            };
            let Some(other) = other else { return false };
            let (left, right) = if memory_is(0) {
                (value, other)
            } else {
                (other, value)
            };
            let subtract = instruction.mnemonic() == Mnemonic::Cmp;
            let flags = flags_of(left, right, size, subtract);
            let all = flag::CARRY | flag::PARITY | flag::ZERO | flag::SIGN | flag::OVERFLOW;
            let efl = &mut registers[libc::REG_EFL as usize];
            *efl = (*efl & !all) | flags;
            true
        }
        _ => false,
    }
}

/// The value of a register or immediate operand.
fn operand(instruction: &Instruction, index: u32, registers: &Registers) -> Option<u64> {
    match instruction.op_kind(index) {
        OpKind::Register => get(registers, instruction.op_register(index)),
        OpKind::Memory => None,
        _ => instruction.try_immediate(index).ok(),
    }
}

mod flag {
    pub(super) const CARRY: i64 = 1;
    pub(super) const PARITY: i64 = 1 << 2;
    pub(super) const ZERO: i64 = 1 << 6;
    pub(super) const SIGN: i64 = 1 << 7;
    pub(super) const OVERFLOW: i64 = 1 << 11;
}

/// The flags after `left - right` or `left & right` of `size` bytes.
fn flags_of(left: u64, right: u64, size: usize, subtract: bool) -> i64 {
    let bits = u32::try_from(size * 8).unwrap_or(64).clamp(8, 64);
    let mask = u64::MAX >> (64 - bits);
    let (left, right) = (left & mask, right & mask);
    let result = if subtract {
        left.wrapping_sub(right)
    } else {
        left & right
    } & mask;
    let sign = |value: u64| value >> (bits - 1) & 1 != 0;
    let mut flags = 0;
    for (set, flag) in [
        (subtract && left < right, flag::CARRY),
        ((result & 0xff).count_ones().is_multiple_of(2), flag::PARITY),
        (result == 0, flag::ZERO),
        (sign(result), flag::SIGN),
        (
            subtract && sign(left) != sign(right) && sign(result) != sign(left),
            flag::OVERFLOW,
        ),
    ] {
        if set {
            flags |= flag;
        }
    }
    flags
}

const fn sign_extend(value: u64, size: usize) -> u64 {
    let unused = 64 - 8 * size;
    ((value << unused).cast_signed() >> unused).cast_unsigned()
}

/// Where in the context a general register lies.
#[allow(
    clippy::cast_sign_loss,
    reason = "the constants are small and positive"
)]
const fn slot(register: Register) -> Option<usize> {
    let index = match register {
        Register::RAX => libc::REG_RAX,
        Register::RCX => libc::REG_RCX,
        Register::RDX => libc::REG_RDX,
        Register::RBX => libc::REG_RBX,
        Register::RSP => libc::REG_RSP,
        Register::RBP => libc::REG_RBP,
        Register::RSI => libc::REG_RSI,
        Register::RDI => libc::REG_RDI,
        Register::R8 => libc::REG_R8,
        Register::R9 => libc::REG_R9,
        Register::R10 => libc::REG_R10,
        Register::R11 => libc::REG_R11,
        Register::R12 => libc::REG_R12,
        Register::R13 => libc::REG_R13,
        Register::R14 => libc::REG_R14,
        Register::R15 => libc::REG_R15,
        _ => return None,
    };
    Some(index as usize)
}

/// Whether the register is one of AH, CH, DH, BH.
const fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// The value of a general register.
pub(super) fn get(registers: &Registers, register: Register) -> Option<u64> {
    let whole = registers
        .get(slot(register.full_register())?)?
        .cast_unsigned();
    let value = if is_high_byte(register) {
        whole >> 8
    } else {
        whole
    };
    Some(value & (u64::MAX >> (64 - 8 * register.size())))
}

/// Writes a register as an instruction does: a 32-bit write clears the upper half, smaller ones keep the rest.
fn set(registers: &mut Registers, register: Register, value: u64) -> bool {
    let Some(whole) = slot(register.full_register()).and_then(|slot| registers.get_mut(slot))
    else {
        return false;
    };
    let old = whole.cast_unsigned();
    let new = match register.size() {
        8 => value,
        4 => value & 0xffff_ffff,
        2 => (old & !0xffff) | (value & 0xffff),
        _ if is_high_byte(register) => (old & !0xff00) | ((value & 0xff) << 8),
        _ => (old & !0xff) | (value & 0xff),
    };
    *whole = new.cast_signed();
    true
}

#[cfg(test)]
mod tests {
    use super::{flag, flags_of, get, set, sign_extend};
    use iced_x86::Register;

    #[test]
    fn comparisons_set_the_flags_that_a_processor_sets() {
        assert_eq!(flags_of(5, 5, 4, true), flag::ZERO | flag::PARITY);
        assert_eq!(
            flags_of(0, 1, 1, true),
            flag::CARRY | flag::SIGN | flag::PARITY
        );
        assert_eq!(flags_of(0x80, 1, 1, true), flag::OVERFLOW);
        assert_eq!(flags_of(0xf0, 0x0f, 8, false), flag::ZERO | flag::PARITY);
    }

    #[test]
    fn narrow_writes_keep_the_rest_of_the_register_and_32_bit_writes_clear_it() {
        let mut registers = [0x1122_3344_5566_7788; 23];
        assert!(set(&mut registers, Register::AH, 0xaa));
        assert_eq!(get(&registers, Register::RAX), Some(0x1122_3344_5566_aa88));
        assert!(set(&mut registers, Register::R9D, 1));
        assert_eq!(get(&registers, Register::R9), Some(1));
        assert_eq!(sign_extend(0x80, 1), 0xffff_ffff_ffff_ff80);
    }
}
