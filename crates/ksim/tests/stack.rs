//! The driver's stack in reports, unwound by the function table of its image.
#![allow(missing_docs, reason = "tests name what they show")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use ksim::{Bugcheck, Config, Kernel, LoadOptions, Report};
use pe_image::build::Builder;

/// `sub rsp, 28h`, its unwind information, and what undoes it and returns.
const FIXED: &[u8] = &[0x48, 0x83, 0xec, 0x28];
const FIXED_UNWIND: &[u8] = &[1, 4, 1, 0, 4, 0x42, 0, 0];
const FIXED_END: &[u8] = &[0x48, 0x83, 0xc4, 0x28, 0xc3];

/// `push rbp; sub rsp, 20h; lea rbp, [rsp+20h]`, then `sub rsp, 40h`, of which the unwind information knows nothing.
const FRAMED: &[u8] = &[
    0x55, 0x48, 0x83, 0xec, 0x20, 0x48, 0x8d, 0x6c, 0x24, 0x20, 0x48, 0x83, 0xec, 0x40,
];
const FRAMED_UNWIND: &[u8] = &[1, 10, 3, 0x25, 10, 0x03, 5, 0x32, 1, 0x50, 0, 0];
/// `lea rsp, [rbp]; pop rbp; ret`.
const FRAMED_END: &[u8] = &[0x48, 0x8d, 0x65, 0x00, 0x5d, 0xc3];

/// A driver whose entry calls a function with a frame pointer, which calls one that does `innermost`.
///
/// Returns the places of the calls, innermost first, without that in the innermost function.
fn nested(innermost: impl FnOnce(&mut Builder)) -> (Builder, Vec<String>) {
    let mut builder = Builder::x64();
    let inner = builder.code(FIXED);
    innermost(&mut builder);
    builder.code(FIXED_END);
    builder.function(inner, FIXED_UNWIND);
    let framed = builder.code(FRAMED);
    builder.relative(&[0xe8], inner);
    let from_framed = builder.here();
    builder.code(FRAMED_END);
    builder.function(framed, FRAMED_UNWIND);
    builder.entry_here();
    let entry = builder.code(FIXED);
    builder.relative(&[0xe8], framed);
    let from_entry = builder.here();
    // xor eax, eax
    builder.code(&[0x31, 0xc0]);
    builder.code(FIXED_END);
    builder.function(entry, FIXED_UNWIND);
    let place = |rva: u32| format!("nested.sys+{rva:#x}");
    (builder, vec![place(from_framed), place(from_entry)])
}

fn run(builder: &Builder) -> Result<Report, Bugcheck> {
    let kernel = Kernel::new(&Config::default()).unwrap();
    let options = LoadOptions::named("nested.sys");
    let driver = kernel.load(&builder.build(), &options).unwrap();
    driver.start()?;
    Ok(kernel.verifier().report())
}

#[test]
fn a_violation_shows_every_frame_of_the_driver_up_to_where_it_was_called() {
    let (builder, outer) = nested(|builder| {
        let free = builder.import("ntoskrnl.exe", "ExFreePoolWithTag");
        // xor ecx, ecx; mov edx, 'Tag '
        builder.code(&[0x31, 0xc9, 0xba, b'T', b'a', b'g', b' ']);
        builder.call_through(free);
    });
    let report = run(&builder).unwrap();
    let violation = &report.violations[0];
    assert_eq!(violation.rule, "pool-double-free");
    assert_eq!(violation.driver.as_deref(), Some("nested.sys"));
    let arguments = [
        ("block", "0x0".to_owned()),
        ("tag", "0x20676154".to_owned()),
    ];
    assert_eq!(violation.arguments, arguments);
    // sub, xor, mov, call: 4, 2, 5 and 6 bytes.
    assert_eq!(violation.stack[0], "nested.sys+0x1011");
    assert_eq!(violation.site.as_ref(), violation.stack.first());
    assert_eq!(violation.stack[1..], outer);
    let words = violation.to_string();
    assert!(
        words.starts_with(
            "pool-double-free: a null pointer is freed, in ExFreePoolWithTag(block: 0x0, tag: 0x20676154), called from \
             nested.sys+0x1011 (processor 0, IRQL 0)\n  at nested.sys+0x1011\n  at nested.sys+0x"
        ),
        "{words}"
    );
}

#[test]
fn a_trap_shows_the_instruction_and_the_frames_above_it() {
    let (builder, outer) = nested(|builder| {
        // xor eax, eax; mov al, [rax]
        builder.code(&[0x31, 0xc0, 0x8a, 0x00]);
    });
    let bugcheck = run(&builder).unwrap_err();
    assert_eq!(bugcheck.stack[0], "nested.sys+0x1006");
    assert_eq!(bugcheck.stack[1..], outer);
}

#[test]
fn a_trap_within_the_prolog_undoes_as_much_of_it_as_was_done() {
    let mut builder = Builder::x64();
    // push rbp; mov al, [0] (a prolog with a fault in it); the rest of the prolog is not reached.
    let faulting = builder.code(&[0x55, 0x8a, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x83, 0xec, 0x20]);
    builder.code(&[0x48, 0x83, 0xc4, 0x20, 0x5d, 0xc3]);
    builder.function(faulting, &[1, 12, 2, 0, 12, 0x32, 1, 0x50]);
    builder.entry_here();
    let entry = builder.code(FIXED);
    builder.relative(&[0xe8], faulting);
    let from_entry = builder.here();
    builder.code(FIXED_END);
    builder.function(entry, FIXED_UNWIND);
    let bugcheck = run(&builder).unwrap_err();
    assert_eq!(
        bugcheck.stack,
        [
            "nested.sys+0x1001".to_owned(),
            format!("nested.sys+{from_entry:#x}")
        ]
    );
}

#[test]
fn a_call_to_nowhere_shows_who_called() {
    let (builder, outer) = nested(|builder| {
        // xor eax, eax; call rax
        builder.code(&[0x31, 0xc0, 0xff, 0xd0]);
    });
    let bugcheck = run(&builder).unwrap_err();
    assert_eq!(bugcheck.stack[0], "nested.sys+0x1008");
    assert_eq!(bugcheck.stack[1..], outer);
}

#[test]
fn a_trap_in_a_simulated_function_shows_the_driver_that_called_it() {
    let (builder, outer) = nested(|builder| {
        let initialize = builder.import("ntoskrnl.exe", "KeInitializeSpinLock");
        // mov ecx, 1000h
        builder.code(&[0xb9, 0, 0x10, 0, 0]);
        builder.call_through(initialize);
    });
    let bugcheck = run(&builder).unwrap_err();
    assert!(
        bugcheck
            .message
            .contains("in KeInitializeSpinLock called from nested.sys+0x100f"),
        "{bugcheck}"
    );
    assert_eq!(bugcheck.stack[0], "nested.sys+0x100f");
    assert_eq!(bugcheck.stack[1..], outer);
}

#[test]
fn a_bug_check_as_the_last_instruction_of_its_function_belongs_to_that_function() {
    let mut builder = Builder::x64();
    let bugcheck = builder.import("ntoskrnl.exe", "KeBugCheck");
    let last = builder.code(FIXED);
    builder.call_through(bugcheck);
    builder.function(last, FIXED_UNWIND);
    builder.entry_here();
    // push rbx; sub rsp, 20h: another prolog, by which unwinding from the return address would go astray.
    let entry = builder.code(&[0x53, 0x48, 0x83, 0xec, 0x20]);
    builder.relative(&[0xe8], last);
    let from_entry = builder.here();
    builder.code(&[0x48, 0x83, 0xc4, 0x20, 0x5b, 0xc3]);
    builder.function(entry, &[1, 5, 2, 0, 5, 0x32, 1, 0x30]);
    let bugcheck = run(&builder).unwrap_err();
    assert_eq!(
        bugcheck.stack,
        [
            "nested.sys+0x100a".to_owned(),
            format!("nested.sys+{from_entry:#x}")
        ]
    );
}

#[test]
fn a_chained_part_of_a_function_undoes_its_own_prolog_and_that_of_the_function() {
    let mut builder = Builder::x64();
    let free = builder.import("ntoskrnl.exe", "ExFreePool");
    // push rsi; the part that is split off has saved RBX below and made room.
    let primary = builder.code(&[0x56]);
    builder.function(primary, &[1, 1, 1, 0, 1, 0x60, 0, 0]);
    let part = builder.code(&[0x53, 0x48, 0x83, 0xec, 0x28, 0x31, 0xc9]);
    builder.call_through(free);
    let from_part = builder.here();
    builder.code(&[0x48, 0x83, 0xc4, 0x28, 0x5b, 0x5e, 0xc3]);
    // Flags 4 (chained): behind the codes is the primary part's entry, whose information comes first at 0x2c00.
    let mut unwind = vec![0x21, 5, 2, 0, 5, 0x42, 1, 0x30];
    for word in [primary, part, 0x2c00] {
        unwind.extend(word.to_le_bytes());
    }
    builder.function(part, &unwind);
    builder.entry_here();
    let entry = builder.code(FIXED);
    builder.relative(&[0xe8], primary);
    let from_entry = builder.here();
    builder.code(FIXED_END);
    builder.function(entry, FIXED_UNWIND);
    let report = run(&builder).unwrap();
    assert_eq!(
        report.violations[0].stack,
        [from_part, from_entry].map(|rva| format!("nested.sys+{rva:#x}"))
    );
}
