//! Binding to the framework, and the function table.

use wfp_schema::NtStatus;

use super::driver::{Machine, at, bind, out};
use crate::access::{In, Out};
use crate::kernel::{Config, Kernel};
use crate::kmdf::abi::BindInfo;
use crate::kmdf::client::WdfVersionBind;

fn kernel() -> Kernel {
    Kernel::new(&Config::default()).unwrap()
}

#[test]
fn an_old_driver_gets_its_array_filled() {
    let kernel = kernel();
    let (status, table, globals) = kernel
        .on(0, |_| {
            let mut table = Vec::new();
            let (status, globals) = bind(9, 396, &mut table);
            (status, table, globals)
        })
        .unwrap();
    assert_eq!(status, NtStatus::SUCCESS);
    assert!(table.iter().all(|slot| *slot != 0));
    assert_eq!(
        super::driver::read(globals + 0x30, 1),
        [1],
        "DisplaceDriverUnload"
    );
    assert_eq!(super::driver::read(globals + 0x10, 5), *b"Test\0");
}

#[test]
fn a_new_driver_gets_the_address_of_the_table() {
    let kernel = kernel();
    let table = kernel
        .on(0, |_| {
            let mut table = Vec::new();
            assert_eq!(bind(33, 458, &mut table).0, NtStatus::SUCCESS);
            table
        })
        .unwrap();
    assert_ne!(table[0], 0);
    assert!(
        table[1..].iter().all(|slot| *slot == 0),
        "only one pointer is stored"
    );
    let last = super::driver::read(table[0] + 457 * 8, 8);
    assert_ne!(last, [0; 8]);
}

#[test]
fn a_wrong_number_of_functions_does_not_bind() {
    let kernel = kernel();
    let status = kernel.on(0, |_| bind(31, 457, &mut Vec::new()).0).unwrap();
    assert_eq!(status, NtStatus::INVALID_PARAMETER);
    let status = kernel.on(0, |_| bind(10, 396, &mut Vec::new()).0).unwrap();
    assert_eq!(status, NtStatus::OBJECT_TYPE_MISMATCH);
}

#[test]
fn a_driver_for_a_newer_framework_does_not_bind() {
    let kernel = kernel();
    kernel.kmdf().set_version(31);
    let status = kernel.on(0, |_| bind(33, 458, &mut Vec::new()).0).unwrap();
    assert_eq!(status, NtStatus::REVISION_MISMATCH);
}

/// `WDF_BIND_INFO2`.
#[repr(C)]
struct BindInfo2 {
    first: BindInfo,
    minimum: usize,
    higher: usize,
    functions: usize,
    structures: usize,
    structure_table: usize,
}

#[test]
fn a_newer_driver_that_can_do_with_less_is_told_how_much_there_is() {
    let kernel = kernel();
    kernel.kmdf().set_version(25);
    let (status, higher, functions) = kernel
        .on(0, |_| {
            let name: Vec<u16> = "KmdfLibrary\0".encode_utf16().collect();
            let mut table = 0usize;
            let (minimum, mut higher, mut functions, mut structures) = (25u32, 0u8, 458u32, 81u32);
            let mut info = BindInfo2 {
                first: BindInfo {
                    size: 0x58,
                    // SAFETY: the name outlives the call.
                    component: unsafe { In::new(name.as_ptr()) },
                    major: 1,
                    minor: 33,
                    build: 0,
                    function_count: 458,
                    function_table: out(&mut table),
                    module: 0,
                },
                minimum: at(&minimum).address(),
                higher: out(&mut higher).address(),
                functions: out(&mut functions).address(),
                structures: out(&mut structures).address(),
                structure_table: 0,
            };
            let mut globals = 0;
            // SAFETY: the structure begins with what the shorter one is.
            let info = unsafe { Out::new((&raw mut info).cast::<BindInfo>()) };
            let status = WdfVersionBind(0x1000, In::null(), info, out(&mut globals));
            (status, higher, functions)
        })
        .unwrap();
    assert_eq!(status, NtStatus::SUCCESS);
    assert_eq!((higher, functions), (1, 453));
}

#[test]
fn a_bind_that_is_made_to_fail_leaves_nothing() {
    let kernel = kernel();
    kernel.faults().fail_call("WdfVersionBind", 1);
    let status = kernel.on(0, |_| bind(33, 458, &mut Vec::new()).0).unwrap();
    assert_eq!(status, NtStatus::INSUFFICIENT_RESOURCES);
    assert_eq!(kernel.kmdf().bound_drivers(), 0);
}

#[test]
fn a_driver_binds_and_unbinds() {
    Machine::bare().end_clean();
}
