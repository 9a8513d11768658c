//! Drivers of a few machine instructions each, loaded, started, trapped and unloaded.
#![allow(missing_docs, reason = "tests name what they show")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use ksim::cpu::Callback;
use ksim::{Bugcheck, Config, Driver, Kernel, LoadError, LoadOptions};
use pe_image::build::Builder;
use wfp_schema::NtStatus;

fn kernel(processors: u32) -> Kernel {
    Kernel::new(&Config {
        processors,
        ..Config::default()
    })
    .unwrap()
}

fn load(kernel: &Kernel, name: &str, builder: &Builder) -> Driver {
    kernel
        .load(&builder.build(), &LoadOptions::named(name))
        .unwrap()
}

/// A driver whose entry is `code`; what its entry returns, or how it stops the machine.
fn entry(code: &[u8]) -> Result<u32, Bugcheck> {
    let mut builder = Builder::x64();
    builder.code(code);
    load(&kernel(1), "tiny.sys", &builder)
        .start()
        .map(NtStatus::code)
}

/// Code that makes room for a call's register arguments, and that which undoes it and returns `status`.
const PROLOGUE: &[u8] = &[0x48, 0x83, 0xec, 0x28];
const EPILOGUE: &[u8] = &[0x48, 0x83, 0xc4, 0x28, 0xc3];

/// A driver whose entry does `body` and installs an unload routine that does `unload`; both between [`PROLOGUE`] and
/// [`EPILOGUE`], RBX holding the driver object in the former.
fn driver(body: impl FnOnce(&mut Builder), unload: impl FnOnce(&mut Builder)) -> Builder {
    let mut builder = Builder::x64();
    builder.code(PROLOGUE);
    unload(&mut builder);
    builder.code(EPILOGUE);
    builder.entry_here();
    // push rbx; sub rsp, 20h; mov rbx, rcx; lea rax, [unload]; mov [rbx+68h], rax
    builder.code(&[0x53, 0x48, 0x83, 0xec, 0x20, 0x48, 0x89, 0xcb]);
    builder.relative(&[0x48, 0x8d, 0x05], 0x1000);
    builder.code(&[0x48, 0x89, 0x43, 0x68]);
    body(&mut builder);
    // xor eax, eax; add rsp, 20h; pop rbx; ret
    builder.code(&[0x31, 0xc0, 0x48, 0x83, 0xc4, 0x20, 0x5b, 0xc3]);
    builder
}

/// `ExAllocatePool2(POOL_FLAG_NON_PAGED, size, 'Leak')`.
fn allocate(builder: &mut Builder, size: u8) {
    let slot = builder.import("ntoskrnl.exe", "ExAllocatePool2");
    // mov ecx, 40h; mov edx, size; mov r8d, 'Leak'
    builder.code(&[
        0xb9, 0x40, 0, 0, 0, 0xba, size, 0, 0, 0, 0x41, 0xb8, b'L', b'e', b'a', b'k',
    ]);
    builder.call_through(slot);
}

#[test]
fn a_driver_that_gives_everything_back_unloads_clean() {
    let kernel = kernel(1);
    let builder = driver(
        |builder| {
            allocate(builder, 32);
            let free = builder.import("ntoskrnl.exe", "ExFreePool");
            builder.code(&[0x48, 0x89, 0xc1]); // mov rcx, rax
            builder.call_through(free);
        },
        |_| (),
    );
    let driver = load(&kernel, "good.sys", &builder);
    assert_eq!(driver.service(), "good");
    assert!(driver.start().unwrap().is_success());
    assert!(driver.unload().unwrap().is_clean());
}

#[test]
fn what_a_driver_leaves_behind_is_its_own_leak_by_tag_and_place() {
    let kernel = kernel(1);
    let leaky = load(
        &kernel,
        "leaky.sys",
        &driver(|builder| allocate(builder, 32), |_| ()),
    );
    let other = load(
        &kernel,
        "other.sys",
        &driver(|builder| allocate(builder, 64), |_| ()),
    );
    assert!(leaky.start().unwrap().is_success());
    assert!(other.start().unwrap().is_success());
    let report = leaky.unload().unwrap();
    assert_eq!(report.violations.last().unwrap().rule, "unload-left");
    assert_eq!(report.leaks.len(), 1);
    assert_eq!(
        (&*report.leaks[0].name, report.leaks[0].bytes),
        ("Leak", 32)
    );
    assert!(
        report.leaks[0].site.starts_with("leaky.sys+0x10"),
        "{}",
        report.leaks[0].site
    );
    assert!(
        other.unload().unwrap().leaks[0]
            .site
            .starts_with("other.sys+0x10")
    );
}

#[test]
fn a_driver_whose_entry_fails_is_not_called_again() {
    let kernel = kernel(1);
    let mut builder = driver(
        |_| (),
        |builder| {
            builder.code(&[0x0f, 0x0b]);
        },
    );
    builder.entry_here();
    // lea rax, [unload]; mov [rcx+68h], rax; mov eax, STATUS_UNSUCCESSFUL; ret
    builder.relative(&[0x48, 0x8d, 0x05], 0x1000);
    builder.code(&[0x48, 0x89, 0x41, 0x68, 0xb8, 1, 0, 0, 0xc0, 0xc3]);
    let driver = load(&kernel, "failing.sys", &builder);
    assert_eq!(driver.start().unwrap().code(), 0xc000_0001);
    assert!(driver.unload().unwrap().is_clean());
}

#[test]
fn debug_output_with_more_arguments_than_registers_is_formatted() {
    let kernel = kernel(1);
    let builder = driver(
        |builder| {
            let print = builder.import("ntoskrnl.exe", "DbgPrint");
            let template = builder.data(b"%d %d %d %d of %s\n\0");
            let name = builder.data(b"tiny\0");
            // sub rsp, 20h; lea rax, [name]; mov [rsp+28h], rax; mov dword [rsp+20h], 4
            builder.code(&[0x48, 0x83, 0xec, 0x20]);
            builder.relative(&[0x48, 0x8d, 0x05], name);
            builder.code(&[
                0x48, 0x89, 0x44, 0x24, 0x28, 0xc7, 0x44, 0x24, 0x20, 4, 0, 0, 0,
            ]);
            builder.lea_rcx(template);
            // mov edx, 1; mov r8d, 2; mov r9d, 3
            builder.code(&[
                0xba, 1, 0, 0, 0, 0x41, 0xb8, 2, 0, 0, 0, 0x41, 0xb9, 3, 0, 0, 0,
            ]);
            builder.call_through(print);
            builder.code(&[0x48, 0x83, 0xc4, 0x20]);
        },
        |_| (),
    );
    assert!(
        load(&kernel, "tiny.sys", &builder)
            .start()
            .unwrap()
            .is_success()
    );
    assert_eq!(kernel.nt().debug_log().lines(), ["1 2 3 4 of tiny"]);
}

#[test]
fn imports_that_are_not_simulated_are_listed_all_at_once() {
    let mut builder = Builder::x64();
    builder.import("ntoskrnl.exe", "DbgPrint");
    builder.import("ntoskrnl.exe", "ExMakeItUp");
    builder.import("NETIO.SYS", "WskRegister");
    builder.code(&[0x31, 0xc0, 0xc3]);
    let options = LoadOptions {
        trap_unsimulated: false,
        ..LoadOptions::named("tiny.sys")
    };
    let error = kernel(1).load(&builder.build(), &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not simulated: ntoskrnl.exe!ExMakeItUp, NETIO.SYS!WskRegister"
    );
}

#[test]
fn calling_what_is_not_simulated_stops_the_machine_by_name() {
    let mut builder = Builder::x64();
    let slot = builder.import("NETIO.SYS", "WskRegister");
    builder.code(PROLOGUE);
    builder.call_through(slot);
    let bugcheck = load(&kernel(1), "tiny.sys", &builder).start().unwrap_err();
    assert_eq!(
        bugcheck.message,
        "NETIO.SYS!WskRegister is not simulated, and was called from tiny.sys+0x100a"
    );
    assert_eq!(bugcheck.stack, ["tiny.sys+0x100a"]);
}

#[test]
fn only_x64_images_are_loaded() {
    let mut builder = Builder::new(pe_image::Machine::Arm64);
    builder.code(&[0; 4]);
    let error = kernel(1)
        .load(&builder.build(), &LoadOptions::default())
        .unwrap_err();
    assert!(matches!(
        error,
        LoadError::Machine(pe_image::Machine::Arm64)
    ));
    assert!(matches!(
        kernel(1).load(b"MZ", &LoadOptions::default()),
        Err(LoadError::Image(_))
    ));
}

#[test]
fn an_imported_variable_is_a_variable() {
    let mut builder = Builder::x64();
    let slot = builder.import("ntoskrnl.exe", "NtBuildNumber");
    builder.relative(&[0x48, 0x8b, 0x05], slot); // mov rax, [slot]
    builder.code(&[0x0f, 0xb7, 0x00, 0xc3]); // movzx eax, word [rax]; ret
    let status = load(&kernel(1), "tiny.sys", &builder).start().unwrap();
    assert_eq!(status.code(), 22_631);
}

#[test]
fn the_security_cookie_is_new_in_every_kernel_but_the_same_for_a_seed() {
    let cookie = |seed| {
        let mut builder = Builder::x64();
        let at = builder.data(&0x2b99_2ddf_a232u64.to_le_bytes());
        builder.security_cookie(at);
        builder.relative(&[0x48, 0x8b, 0x05], at); // mov rax, [cookie]
        builder.code(&[0x48, 0xc1, 0xe8, 0x10, 0xc3]); // shr rax, 16; ret
        let kernel = Kernel::new(&Config {
            seed,
            ..Config::default()
        })
        .unwrap();
        load(&kernel, "tiny.sys", &builder).start().unwrap().code()
    };
    assert_eq!(cookie(7), cookie(7));
    assert_ne!(cookie(7), cookie(8));
    assert_ne!(cookie(7), 0x2b99_2ddf);
}

#[test]
fn the_irql_is_read_and_written_through_cr8() {
    // mov ecx, 2; mov cr8, rcx; mov r9, cr8; xor ecx, ecx; mov cr8, rcx; mov rax, r9; ret
    let code = [
        0xb9, 2, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc1, 0x45, 0x0f, 0x20, 0xc1, 0x31, 0xc9, 0x44, 0x0f,
        0x22, 0xc1, 0x4c, 0x89, 0xc8, 0xc3,
    ];
    assert_eq!(entry(&code), Ok(2));
    // cli; sti; xor eax, eax; ret
    assert_eq!(entry(&[0xfa, 0xfb, 0x31, 0xc0, 0xc3]), Ok(0));
}

#[test]
fn the_kernel_s_shared_page_is_read_at_its_address() {
    // mov rax, FFFFF78000000000h; movzx eax, word [rax+260h]; ret
    let build = [
        0x48, 0xb8, 0, 0, 0, 0, 0x80, 0xf7, 0xff, 0xff, 0x0f, 0xb7, 0x80, 0x60, 2, 0, 0, 0xc3,
    ];
    assert_eq!(entry(&build), Ok(22_631));
    // mov rax, FFFFF78000000000h; cmp dword [rax+26Ch], 10; setne al; movzx eax, al; ret
    let version = [
        0x48, 0xb8, 0, 0, 0, 0, 0x80, 0xf7, 0xff, 0xff, 0x83, 0xb8, 0x6c, 2, 0, 0, 10, 0x0f, 0x95,
        0xc0, 0x0f, 0xb6, 0xc0, 0xc3,
    ];
    assert_eq!(entry(&version), Ok(0));
    // mov rax, [FFFFF78000000014h]; ret: the system time
    let time = [0x48, 0xa1, 0x14, 0, 0, 0, 0x80, 0xf7, 0xff, 0xff, 0xc3];
    let [a, b, c, d, ..] = Config::default().boot_time.to_le_bytes();
    assert_eq!(entry(&time), Ok(u32::from_le_bytes([a, b, c, d])));
}

#[test]
fn the_processor_s_control_region_is_where_drivers_look_for_it() {
    let mut builder = Builder::x64();
    builder.code(&[0x65, 0x8b, 0x04, 0x25, 0xa4, 1, 0, 0, 0xc3]); // mov eax, gs:[1A4h]; ret
    let kernel = kernel(2);
    let driver = load(&kernel, "tiny.sys", &builder);
    assert_eq!(run(&driver, 1, 0x1000), Ok(1));
}

/// Calls the function at `rva` of a driver on a processor.
fn run(driver: &Driver, processor: u32, rva: usize) -> Result<u64, Bugcheck> {
    let address = driver.base() + rva;
    // SAFETY: the tests put a function there that takes nothing.
    let function = unsafe { std::mem::transmute::<usize, extern "win64" fn() -> u64>(address) };
    driver.kernel().on(processor, |cpu| {
        cpu.enter_driver(Callback::new("a test", 0), 0, || function())
    })
}

#[test]
fn every_trap_is_the_bug_check_that_windows_has_for_it() {
    let cases: [(&str, &[u8], u32, &str); 13] = [
        (
            "fast fail",
            &[0xb9, 3, 0, 0, 0, 0xcd, 0x29],
            0x139,
            "fast fail 3 (corrupt list entry)",
        ),
        ("assertion", &[0xcd, 0x2c], 0x7e, "assertion (int 2Ch)"),
        (
            "debug service",
            &[0xcd, 0x2d],
            0x7e,
            "debug service (int 2Dh)",
        ),
        ("breakpoint", &[0xcc], 0x7e, "breakpoint (int 3)"),
        ("illegal", &[0x0f, 0x0b], 0x7e, "illegal instruction"),
        (
            "division",
            &[0x31, 0xc9, 0xf7, 0xf1],
            0x7e,
            "division by zero",
        ),
        (
            "rdmsr",
            &[0x0f, 0x32],
            0x7e,
            "an instruction that is not simulated",
        ),
        (
            "null read",
            &[0x31, 0xc0, 0x48, 0x8b, 0x00],
            0x7e,
            "read of 8 bytes through a null pointer",
        ),
        (
            "null jump",
            &[0x31, 0xc0, 0xff, 0xe0],
            0x7e,
            "execution through a null pointer",
        ),
        (
            "no address",
            &[
                0x48, 0xb8, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0xdd, 0x88, 0x48, 0x08,
            ],
            0x7e,
            "write of 1 bytes at 0xdddddddddddddde5, which is no address (it looks like the fill of freed memory)",
        ),
        (
            "code write",
            &[0x88, 0x0d, 0, 0, 0, 0],
            0xbe,
            "write of 1 bytes at trap.sys+0x1006, whose section does not",
        ),
        (
            "data jump",
            &[0x48, 0x8d, 0x05, 0xf9, 0x1f, 0, 0, 0xff, 0xe0],
            0xfc,
            "execution at trap.sys+0x3000",
        ),
        ("stack", &[0x50, 0xeb, 0xfd], 0x7f, "stack overflow"),
    ];
    for (name, code, expected, words) in cases {
        let mut builder = Builder::x64();
        builder.code(code);
        let bugcheck = load(&kernel(1), "trap.sys", &builder).start().unwrap_err();
        assert_eq!(bugcheck.code, expected, "{name}: {bugcheck}");
        assert!(bugcheck.message.contains(words), "{name}: {bugcheck}");
    }
}

#[test]
fn a_trap_at_dispatch_level_says_so_and_shows_the_driver_s_calls() {
    let mut builder = Builder::x64();
    // A function that reads through an invalid pointer: mov rax, 123456789000h; mov al, [rax]
    let inner = builder.code(&[
        0x48, 0xb8, 0, 0x90, 0x78, 0x56, 0x34, 0x12, 0, 0, 0x8a, 0x00, 0xc3,
    ]);
    builder.entry_here();
    // sub rsp, 28h; mov ecx, 2; mov cr8, rcx; call inner
    builder.code(PROLOGUE);
    builder.code(&[0xb9, 2, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc1]);
    builder.relative(&[0xe8], inner);
    let bugcheck = load(&kernel(1), "trap.sys", &builder).start().unwrap_err();
    assert_eq!(
        (
            bugcheck.code,
            bugcheck.parameters[0],
            bugcheck.parameters[1]
        ),
        (0xd1, 0x1234_5678_9000, 2)
    );
    assert!(
        bugcheck
            .message
            .ends_with("at trap.sys+0x100a (processor 0, IRQL 2)"),
        "{bugcheck}"
    );
    assert_eq!(bugcheck.stack, ["trap.sys+0x100a", "trap.sys+0x101f"]);
}

#[test]
fn a_timer_that_outlives_its_driver_is_a_leak_and_then_a_bug_check() {
    let kernel = kernel(1);
    let builder = driver(
        |builder| {
            let routine = 0x1000;
            let dpc = builder.data(&[0; 64]);
            let timer = builder.data(&[0; 64]);
            let initialize = builder.import("ntoskrnl.exe", "KeInitializeDpc");
            builder.lea_rcx(dpc);
            builder.relative(&[0x48, 0x8d, 0x15], routine); // lea rdx, [routine]
            builder.call_through(initialize);
            let initialize = builder.import("ntoskrnl.exe", "KeInitializeTimer");
            builder.lea_rcx(timer);
            builder.call_through(initialize);
            let set = builder.import("ntoskrnl.exe", "KeSetTimer");
            builder.lea_rcx(timer);
            builder.code(&[0x48, 0xc7, 0xc2, 0xf0, 0xd8, 0xff, 0xff]); // mov rdx, -10000
            builder.relative(&[0x4c, 0x8d, 0x05], dpc); // lea r8, [dpc]
            builder.call_through(set);
        },
        |_| (),
    );
    let driver = load(&kernel, "late.sys", &builder);
    assert!(driver.start().unwrap().is_success());
    let report = driver.unload().unwrap();
    assert_eq!(report.leaks.len(), 1);
    assert_eq!(report.leaks[0].kind, "timer");
    kernel.time().advance(20_000);
    let bugcheck = kernel.on(0, |_| ()).unwrap_err();
    assert_eq!(bugcheck.code, 0xce, "{bugcheck}");
    assert!(bugcheck.message.contains("late.sys+0x3"), "{bugcheck}");
    let rules: Vec<_> = kernel.verifier().report().violations;
    let rules: Vec<_> = rules.iter().map(|violation| violation.rule).collect();
    assert_eq!(rules, ["unload-left", "unload-code"]);
}

#[test]
fn a_processor_that_never_calls_the_kernel_is_stopped_when_another_one_crashes() {
    let mut builder = Builder::x64();
    builder.code(&[0xeb, 0xfe]); // jmp itself
    let trap = builder.code(&[0x0f, 0x0b]) as usize;
    let kernel = kernel(2);
    let driver = load(&kernel, "loop.sys", &builder);
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| run(&driver, 1, 0x1000));
        assert!(run(&driver, 0, trap).is_err());
        assert!(
            looping
                .join()
                .unwrap()
                .unwrap_err()
                .message
                .contains("illegal instruction")
        );
    });
}

#[test]
fn a_signal_outside_any_processor_goes_where_it_went_before() {
    let _kernel = kernel(1);
    let program = std::env::current_exe().unwrap();
    // The test harness itself, told to run the test below, which dies of an access to address 0.
    let status = std::process::Command::new(program)
        .args(["--exact", "--ignored", "dies_of_an_access_to_nothing"])
        .output()
        .unwrap()
        .status;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(11)
    );
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn dies_of_an_access_to_nothing() {
    let _kernel = kernel(1);
    let nowhere = std::hint::black_box(8usize) as *const u8;
    // SAFETY: none: this is meant to be fatal.
    unsafe { nowhere.read_volatile() };
}

#[test]
fn a_driver_built_by_microsofts_tools_is_loaded_started_and_unloaded() {
    let Some(path) = std::env::var_os("KSIM_WINDIVERT") else {
        eprintln!("SKIPPED: KSIM_WINDIVERT does not name a WinDivert64.sys");
        return;
    };
    let kernel = kernel(2);
    let options = LoadOptions {
        trap_unsimulated: false,
        ..LoadOptions::named("WinDivert64.sys")
    };
    let driver = kernel
        .load(&std::fs::read(path).unwrap(), &options)
        .unwrap();
    let status = driver.start().unwrap();
    assert!(status.is_success(), "{status}");
    let report = driver.unload().unwrap();
    assert!(report.leaks.is_empty(), "{report:#?}");
}
