//! What stops the machine is a finding of the verifier, with the rule and the place.
#![allow(missing_docs, reason = "tests name what they show")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use ksim::{Config, Kernel, LoadOptions, Schedule, Violation};
use pe_image::build::Builder;

/// `sub rsp, 38h`: room for the arguments of a call, five or six of them.
const PROLOGUE: &[u8] = &[0x48, 0x83, 0xec, 0x38];

/// The findings about a driver whose entry is `code`.
fn findings(code: impl FnOnce(&mut Builder)) -> Vec<Violation> {
    let mut builder = Builder::x64();
    builder.code(PROLOGUE);
    code(&mut builder);
    // xor eax, eax; add rsp, 38h; ret
    builder.code(&[0x31, 0xc0, 0x48, 0x83, 0xc4, 0x38, 0xc3]);
    let kernel = Kernel::new(&Config::default()).unwrap();
    let options = LoadOptions::named("stops.sys");
    let driver = kernel.load(&builder.build(), &options).unwrap();
    drop(driver.start());
    kernel.verifier().report().violations
}

/// The only finding about it.
fn finding(code: impl FnOnce(&mut Builder)) -> Violation {
    let mut found = findings(code);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn a_driver_that_does_nothing_wrong_is_no_finding() {
    let found = findings(|builder| {
        let irql = builder.import("ntoskrnl.exe", "KeGetCurrentIrql");
        builder.call_through(irql);
    });
    assert_eq!(found, []);
}

#[test]
fn a_panic_is_found_with_its_file_line_and_column() {
    let finding = finding(|builder| {
        let bugcheck = builder.import("ntoskrnl.exe", "KeBugCheckEx");
        let file = builder.data(b"src/callouts/stream.rs");
        // mov dword [rsp+20h], 9; mov ecx, 'RPNC'; lea rdx, [file]; mov r8d, 22; mov r9d, 117
        builder.code(&[0x48, 0xc7, 0x44, 0x24, 0x20, 9, 0, 0, 0]);
        builder.code(&[0xb9, b'C', b'N', b'P', b'R']);
        builder.relative(&[0x48, 0x8d, 0x15], file);
        builder.code(&[0x41, 0xb8, 22, 0, 0, 0, 0x41, 0xb9, 117, 0, 0, 0]);
        builder.call_through(bugcheck);
    });
    assert_eq!(finding.rule, "stop-panic");
    assert_eq!(finding.severity.name(), "fatal");
    assert_eq!(finding.message, "panicked at src/callouts/stream.rs:117:9");
    assert_eq!(finding.driver.as_deref(), Some("stops.sys"));
    assert!(finding.stack[0].starts_with("stops.sys+0x10"), "{finding}");
}

#[test]
fn a_panic_whose_file_cannot_be_read_is_a_panic_all_the_same() {
    let finding = finding(|builder| {
        let bugcheck = builder.import("ntoskrnl.exe", "KeBugCheckEx");
        // mov ecx, 'RPNC'; xor edx, edx; mov r8d, -1
        builder.code(&[0xb9, b'C', b'N', b'P', b'R', 0x31, 0xd2]);
        builder.code(&[0x41, 0xb8, 0xff, 0xff, 0xff, 0xff]);
        builder.call_through(bugcheck);
    });
    assert_eq!(finding.rule, "stop-panic");
    assert!(
        finding
            .message
            .starts_with("panicked, reported from stops.sys+0x"),
        "{finding}"
    );
}

#[test]
fn a_bug_check_of_the_driver_s_own_is_found() {
    let finding = finding(|builder| {
        let bugcheck = builder.import("ntoskrnl.exe", "KeBugCheck");
        builder.code(&[0xb9, 0xe2, 0, 0, 0]); // mov ecx, E2h
        builder.call_through(bugcheck);
    });
    assert_eq!(finding.rule, "stop-bugcheck");
    assert!(
        finding
            .message
            .starts_with("KeBugCheck called from stops.sys+0x"),
        "{finding}"
    );
}

#[test]
fn a_trap_is_found_where_it_happened() {
    let finding = finding(|builder| {
        builder.code(&[0x31, 0xc0, 0x8a, 0x00]); // xor eax, eax; mov al, [rax]
    });
    assert_eq!(finding.rule, "stop-trap");
    assert_eq!(finding.stack[0], "stops.sys+0x1006");
}

#[test]
fn a_stack_that_is_used_up_is_found() {
    let finding = finding(|builder| {
        builder.code(&[0x50, 0xeb, 0xfd]); // again: push rax; jmp again
    });
    assert_eq!(finding.rule, "stop-stack");
}

#[test]
fn a_function_that_is_not_simulated_is_found_when_it_is_called_only() {
    let not_simulated = |called: bool| {
        findings(|builder| {
            let slot = builder.import("NETIO.SYS", "WskRegister");
            if called {
                builder.call_through(slot);
            }
        })
    };
    let rules: Vec<_> = not_simulated(true)
        .iter()
        .map(|finding| finding.rule)
        .collect();
    assert_eq!(rules, ["stop-unsimulated"]);
    assert_eq!(not_simulated(false), []);
}

#[test]
fn a_wait_that_nothing_can_end_is_found() {
    let finding = finding(|builder| {
        let wait = builder.import("ntoskrnl.exe", "KeWaitForSingleObject");
        let initialize = builder.import("ntoskrnl.exe", "KeInitializeEvent");
        let event = builder.data(&[0; 24]);
        // mov edx, 0 (notification); xor r8d, r8d (not signaled)
        builder.lea_rcx(event);
        builder.code(&[0x31, 0xd2, 0x45, 0x31, 0xc0]);
        builder.call_through(initialize);
        // mov qword [rsp+20h], 0; xor edx, edx; xor r8d, r8d; xor r9d, r9d
        builder.code(&[0x48, 0xc7, 0x44, 0x24, 0x20, 0, 0, 0, 0]);
        builder.lea_rcx(event);
        builder.code(&[0x31, 0xd2, 0x45, 0x31, 0xc0, 0x45, 0x31, 0xc9]);
        builder.call_through(wait);
    });
    assert_eq!(finding.rule, "stop-hang");
}

/// Under a controlled schedule nobody else runs meanwhile: what spins on memory would wait for ever.
#[test]
fn a_driver_that_spins_without_a_call_is_found_with_the_place_under_a_controlled_schedule() {
    let mut builder = Builder::x64();
    builder.code(PROLOGUE);
    let irql = builder.import("ntoskrnl.exe", "KeGetCurrentIrql");
    builder.call_through(irql);
    // pause; jmp back
    builder.code(&[0xf3, 0x90, 0xeb, 0xfc]);
    let config = Config {
        schedule: Schedule::seeded(1),
        ..Config::default()
    };
    let kernel = Kernel::new(&config).unwrap();
    let options = LoadOptions::named("stops.sys");
    let driver = kernel.load(&builder.build(), &options).unwrap();
    let bugcheck = driver.start().unwrap_err();
    assert_eq!(bugcheck.code, 0x133, "{bugcheck}");
    let found = kernel.verifier().report().violations;
    let [finding] = &*found else {
        panic!("{found:?}")
    };
    assert_eq!(finding.rule, "stop-spin");
    let after_the_call = PROLOGUE.len() + 6;
    let places =
        [after_the_call, after_the_call + 2].map(|at| format!("stops.sys+{:#x}", 0x1000 + at));
    assert!(places.contains(&finding.stack[0]), "{finding}, {places:?}");
}
