//! Words for a trap: which bug check Windows would have made of it, what was touched, and who did it.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpAccess, OpKind};

use super::stack::trapped_stack;
use super::{Trap, emulate, vector};
use crate::cpu::{Cpu, DISPATCH};
use crate::kernel::Bugcheck;
use crate::loader::memory::{PAGE, probe};
use crate::nt::pool::Fault;
use crate::verifier::{
    IRP_TOUCHED, POOL_OVERRUN, POOL_PAGED_ACCESS, POOL_UNDERRUN, POOL_USE_AFTER_FREE, Rule,
    STOP_SPIN, STOP_STACK, STOP_TRAP, UNLOAD_CODE,
};

/// Bug check codes that traps become.
///
/// <https://learn.microsoft.com/windows-hardware/drivers/debugger/bug-check-code-reference2>
#[allow(missing_docs, reason = "the names are the documentation's")]
pub(crate) mod code {
    pub(crate) const SPIN_LOCK_ALREADY_OWNED: u32 = 0x0f;
    pub(crate) const SPIN_LOCK_NOT_OWNED: u32 = 0x10;
    pub(crate) const PAGE_FAULT_IN_NONPAGED_AREA: u32 = 0x50;
    pub(crate) const SYSTEM_THREAD_EXCEPTION_NOT_HANDLED: u32 = 0x7e;
    pub(crate) const UNEXPECTED_KERNEL_MODE_TRAP: u32 = 0x7f;
    pub(crate) const ATTEMPTED_SWITCH_FROM_DPC: u32 = 0xb8;
    pub(crate) const ATTEMPTED_WRITE_TO_READONLY_MEMORY: u32 = 0xbe;
    pub(crate) const DRIVER_VERIFIER_DETECTED_VIOLATION: u32 = 0xc4;
    pub(crate) const PAGE_FAULT_IN_FREED_SPECIAL_POOL: u32 = 0xcc;
    pub(crate) const PAGE_FAULT_BEYOND_END_OF_ALLOCATION: u32 = 0xcd;
    pub(crate) const DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS: u32 = 0xce;
    pub(crate) const DRIVER_IRQL_NOT_LESS_OR_EQUAL: u32 = 0xd1;
    pub(crate) const ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY: u32 = 0xfc;
    pub(crate) const DPC_WATCHDOG_VIOLATION: u32 = 0x133;
    pub(crate) const KERNEL_SECURITY_CHECK_FAILURE: u32 = 0x139;
    /// A function that is not simulated was called. Windows would not have loaded the driver.
    pub(crate) const DRIVER_UNMAPPED_IMPORT: u32 = 0xc000_0139;
}

mod status {
    pub(super) const BREAKPOINT: u64 = 0x8000_0003;
    pub(super) const ACCESS_VIOLATION: u64 = 0xc000_0005;
    pub(super) const ILLEGAL_INSTRUCTION: u64 = 0xc000_001d;
    pub(super) const INTEGER_DIVIDE_BY_ZERO: u64 = 0xc000_0094;
    pub(super) const PRIVILEGED_INSTRUCTION: u64 = 0xc000_0096;
    pub(super) const ASSERTION_FAILURE: u64 = 0xc000_0420;
}

/// Bits of a page fault's error code.
const WRITE: u64 = 1 << 1;
const FETCH: u64 = 1 << 4;

/// The bug check that `trap` is, and the rule that was broken.
pub(super) fn bugcheck(cpu: &Cpu, trap: &Trap) -> (&'static Rule, Bugcheck) {
    let mut bytes = [0; 15];
    let readable = probe(trap.rip, &mut bytes);
    let bytes = bytes.get(..readable).unwrap_or(&[]);
    let instruction = Decoder::with_ip(64, bytes, trap.rip as u64, DecoderOptions::NONE).decode();
    let exception = |status: u64, what: &str| {
        (
            code::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
            [status, trap.rip as u64, 0, 0],
            what.to_owned(),
        )
    };
    let mut rule = &STOP_TRAP;
    let (code, parameters, what) = match trap.vector {
        vector::DIVIDE => exception(
            status::INTEGER_DIVIDE_BY_ZERO,
            "division by zero or overflow",
        ),
        vector::BREAKPOINT => exception(status::BREAKPOINT, "breakpoint (int 3)"),
        vector::INVALID_OPCODE => exception(
            status::ILLEGAL_INSTRUCTION,
            "illegal instruction (ud2 is how compilers abort)",
        ),
        vector::GENERAL_PROTECTION | vector::STACK_SEGMENT => match bytes {
            [0xcd, 0x29, ..] => fast_fail(trap),
            [0xcd, 0x2c, ..] => exception(status::ASSERTION_FAILURE, "assertion (int 2Ch)"),
            [0xcd, 0x2d, ..] => exception(
                status::BREAKPOINT,
                "debug service (int 2Dh) and no debugger",
            ),
            _ => match operand(trap, &instruction) {
                Some((access, address)) => exception(
                    status::ACCESS_VIOLATION,
                    &format!(
                        "{access} at {address:#x}, which is no address{}",
                        poison(address)
                    ),
                ),
                None => exception(
                    status::PRIVILEGED_INSTRUCTION,
                    "an instruction that is not simulated",
                ),
            },
        },
        vector::PAGE_FAULT => {
            let fault;
            (rule, fault) = page_fault(cpu, trap, &instruction);
            fault
        }
        other => exception(
            status::ACCESS_VIOLATION,
            &format!("signal {} (vector {other})", trap.signal),
        ),
    };
    let verifier = cpu.machine().verifier();
    let place = cpu
        .last_export()
        .filter(|_| !verifier.is_driver_code(trap.rip))
        .map_or_else(
            || format!("at {}", verifier.place(trap.rip)),
            |export| {
                format!(
                    "in {} called from {}",
                    export.name,
                    verifier.place(cpu.return_address())
                )
            },
        );
    let message = format!(
        "{what}, {place} (processor {}, IRQL {})",
        cpu.index(),
        cpu.irql()
    );
    let bugcheck = Bugcheck {
        code,
        parameters,
        message,
        stack: trapped_stack(cpu, trap),
    };
    (rule, bugcheck)
}

/// The stop of a driver that goes on and on in one place while nobody else can.
pub(super) fn spin(cpu: &Cpu, trap: &Trap) -> (&'static Rule, Bugcheck) {
    let place = cpu.machine().verifier().place(trap.rip);
    let message = format!(
        "driver code goes on without a call into the kernel at {place}, and nobody else can meanwhile \
         (processor {}, IRQL {})",
        cpu.index(),
        cpu.irql()
    );
    let bugcheck = Bugcheck {
        code: code::DPC_WATCHDOG_VIOLATION,
        parameters: [0, 0, 0, 0],
        message,
        stack: trapped_stack(cpu, trap),
    };
    (&STOP_SPIN, bugcheck)
}

fn fast_fail(trap: &Trap) -> (u32, [u64; 4], String) {
    let reason = trap.register(libc::REG_RCX);
    let words = match reason {
        0 | 2 => "stack cookie",
        3 => "corrupt list entry",
        5 => "invalid argument",
        6 => "stack cookie not initialized",
        7 => "fatal application exit",
        10 => "control flow guard",
        _ => "see FAST_FAIL_* in winnt.h",
    };
    (
        code::KERNEL_SECURITY_CHECK_FAILURE,
        [reason, trap.rsp as u64, 0, 0],
        format!("fast fail {reason} ({words})"),
    )
}

/// The rule that a page fault broke, and its bug check: code, parameters, what happened.
fn page_fault(
    cpu: &Cpu,
    trap: &Trap,
    instruction: &Instruction,
) -> (&'static Rule, (u32, [u64; 4], String)) {
    let machine = cpu.machine();
    let address = trap.address;
    let fetch = trap.error & FETCH != 0;
    let write = trap.error & WRITE != 0;
    let access = if fetch {
        "execution".to_owned()
    } else {
        let verb = if write { "write" } else { "read" };
        match instruction.memory_size().size() {
            0 => verb.to_owned(),
            bytes => format!("{verb} of {bytes} bytes"),
        }
    };
    let kind = if fetch { 8 } else { u64::from(write) };
    let wide = [address as u64, u64::from(cpu.irql()), kind, trap.rip as u64];
    let narrow = [address as u64, kind, trap.rip as u64, 0];
    if let Some(place) = machine.nt().pool().place(address) {
        let (rule, code, parameters) = match place.fault() {
            Fault::Freed => (
                &POOL_USE_AFTER_FREE,
                code::PAGE_FAULT_IN_FREED_SPECIAL_POOL,
                narrow,
            ),
            Fault::Paged => (
                &POOL_PAGED_ACCESS,
                code::DRIVER_IRQL_NOT_LESS_OR_EQUAL,
                wide,
            ),
            Fault::Before => (
                &POOL_UNDERRUN,
                code::PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
                narrow,
            ),
            Fault::Behind => (
                &POOL_OVERRUN,
                code::PAGE_FAULT_BEYOND_END_OF_ALLOCATION,
                narrow,
            ),
        };
        let words = format!("{access} {}", place.words(machine));
        return (rule, (code, parameters, words));
    }
    if let Some(place) = machine.io().completed().place(machine, address) {
        let code = code::PAGE_FAULT_IN_FREED_SPECIAL_POOL;
        let words = format!("{access} {place}");
        return (&IRP_TOUCHED, (code, narrow, words));
    }
    if let Some(place) = machine.verifier().unloaded_place(address) {
        let code = code::DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS;
        let words = format!("{access} at {place}, which is unloaded");
        return (&UNLOAD_CODE, (code, narrow, words));
    }
    if let Some(place) = machine.verifier().driver_place(address) {
        let code = match (fetch, write) {
            (true, _) => code::ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY,
            (_, true) => code::ATTEMPTED_WRITE_TO_READONLY_MEMORY,
            _ => code::PAGE_FAULT_IN_NONPAGED_AREA,
        };
        let words = format!("{access} at {place}, whose section does not allow it");
        return (&STOP_TRAP, (code, narrow, words));
    }
    if cpu.trap_stacks().overflowed(address, trap.rsp) {
        let words = format!("stack overflow: {access} at {address:#x}");
        let code = code::UNEXPECTED_KERNEL_MODE_TRAP;
        return (&STOP_STACK, (code, [8, 0, 0, 0], words));
    }
    let words = match address {
        0 => format!("{access} through a null pointer"),
        1..PAGE => format!("{access} through a null pointer plus {address:#x}"),
        _ => format!("{access} at {address:#x}, where no memory is"),
    };
    let fault = if cpu.irql() >= DISPATCH {
        (code::DRIVER_IRQL_NOT_LESS_OR_EQUAL, wide, words)
    } else if address < PAGE {
        (
            code::SYSTEM_THREAD_EXCEPTION_NOT_HANDLED,
            [status::ACCESS_VIOLATION, trap.rip as u64, 0, 0],
            words,
        )
    } else {
        (code::PAGE_FAULT_IN_NONPAGED_AREA, narrow, words)
    };
    (&STOP_TRAP, fault)
}

/// The memory operand of a faulting instruction: how it is accessed, and its address.
fn operand(trap: &Trap, instruction: &Instruction) -> Option<(String, u64)> {
    let index =
        (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory)?;
    let address = instruction.virtual_address(index, 0, |register, _, _| {
        if register.is_segment_register() {
            Some(0)
        } else {
            emulate::get(&trap.registers, register)
        }
    })?;
    let mut factory = iced_x86::InstructionInfoFactory::new();
    let writes = matches!(
        factory.info(instruction).op_access(index),
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    );
    let verb = if writes { "write" } else { "read" };
    Some((
        format!("{verb} of {} bytes", instruction.memory_size().size()),
        address,
    ))
}

/// A hint when an address looks like the fill of freed or fresh memory.
const fn poison(address: u64) -> &'static str {
    match address >> 16 & 0xffff_ffff {
        0xdddd_dddd => " (it looks like the fill of freed memory)",
        0xcdcd_cdcd => " (it looks like the fill of memory that was never initialized)",
        _ => "",
    }
}
