//! What is read from well-formed, unusual and malformed images.
#![allow(missing_docs, reason = "tests name what they show")]

use std::collections::BTreeMap;

use pe_image::build::Builder;
use pe_image::{Expectations, Image, ImageError, ImportName, Machine, check};
use proptest::prelude::*;

/// An entry that reaches `WdfVersionBind` through a worker and an import thunk, as the KMDF stub does.
fn stub(builder: &mut Builder) {
    let bind = builder.import("WDFLDR.SYS", "WdfVersionBind");
    let thunk = builder.here();
    builder.relative(&[0xff, 0x25], bind);
    let worker = builder.here();
    builder.relative(&[0xe8], thunk);
    builder.code(&[0xc3]);
    builder.entry_here();
    builder.relative(&[0xe9], worker);
}

/// `WDF_BIND_INFO` for KMDF 1.31.
fn bind_info(builder: &mut Builder) {
    let name: Vec<u8> = "KmdfLibrary\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let name = builder.data(&name);
    builder.data(&0x30u64.to_le_bytes());
    builder.pointer(name);
    builder.data(&[1, 0, 0, 0, 31, 0, 0, 0, 0, 0, 0, 0, 0xca, 1, 0, 0]);
}

fn driver() -> Builder {
    let mut builder = Builder::x64();
    stub(&mut builder);
    bind_info(&mut builder);
    builder
}

fn rules(image: &Image, expected: &Expectations) -> Vec<&'static str> {
    check(image, expected)
        .into_iter()
        .map(|finding| finding.rule)
        .collect()
}

fn kmdf() -> Expectations {
    Expectations {
        machine: Some(Machine::X64),
        kmdf: true,
        ..Expectations::default()
    }
}

#[test]
fn a_good_kmdf_driver_has_its_facts_and_no_finding() {
    let file = driver().build();
    let image = Image::parse(&file).unwrap();
    let kmdf_facts = image.kmdf.unwrap();
    assert_eq!(
        (kmdf_facts.major, kmdf_facts.minor, kmdf_facts.functions),
        (1, 31, 458)
    );
    assert_eq!(image.relocations, Some(1));
    assert_eq!(image.imports[0].module, "WDFLDR.SYS");
    assert_eq!(
        image.imports[0].name,
        ImportName::Name("WdfVersionBind".into())
    );
    assert_eq!(image.checksum, image.computed_checksum);
    assert_eq!(check(&image, &kmdf()), []);
    let json = serde_json::to_value(&image).unwrap();
    assert_eq!(json["machine"], "x64");
    assert_eq!(json["kmdf"]["minor"], 31);
}

#[test]
fn the_largest_stack_frame_is_found() {
    let mut builder = driver();
    assert_eq!(Image::parse(&builder.build()).unwrap().largest_frame, None);
    // push rbx; sub rsp, 20h. And sub rsp, 1000h.
    let small = builder.code(&[0x53, 0x48, 0x83, 0xec, 0x20, 0xc3]);
    builder.function(small, &[1, 5, 2, 0, 5, 0x32, 1, 0x30]);
    let large = builder.code(&[0x48, 0x81, 0xec, 0, 0x10, 0, 0, 0xc3]);
    builder.function(large, &[1, 7, 2, 0, 7, 0x01, 0, 2]);
    let frame = Image::parse(&builder.build()).unwrap().largest_frame;
    let frame = frame.expect("a function table");
    assert_eq!((frame.begin, frame.bytes), (large, 0x1000));
}

#[test]
fn an_entry_that_never_binds_is_not_the_stub() {
    let mut builder = driver();
    builder.entry_here();
    builder.code(&[0x31, 0xc0, 0xc3]);
    assert_eq!(
        rules(&Image::parse(&builder.build()).unwrap(), &kmdf()),
        ["entry"]
    );
}

#[test]
fn the_arm64_stub_is_recognised_through_its_import_thunk() {
    let mut builder = Builder::new(Machine::Arm64);
    builder.import("WDFLDR.SYS", "WdfVersionBind");
    bind_info(&mut builder);
    // adrp x16, 0x2000; ldr x16, [x16]; br x16
    for word in [0xb000_0010u32, 0xf940_0210, 0xd61f_0200] {
        builder.code(&word.to_le_bytes());
    }
    builder.entry_here();
    // bl thunk; ret
    for word in [0x97ff_fffdu32, 0xd65f_03c0] {
        builder.code(&word.to_le_bytes());
    }
    let image = Image::parse(&builder.build()).unwrap();
    assert_eq!(rules(&image, &kmdf()), ["machine"]);
}

#[test]
fn missing_flags_and_a_bad_checksum_are_found() {
    let mut builder = driver();
    builder.characteristics = 0;
    let mut file = builder.build();
    let found = rules(&Image::parse(&file).unwrap(), &kmdf());
    assert_eq!(found, ["characteristics"; 4]);
    *file.last_mut().unwrap() = 1;
    assert_eq!(
        rules(&Image::parse(&file).unwrap(), &kmdf()).last(),
        Some(&"checksum")
    );
}

#[test]
fn a_writable_and_executable_section_and_a_writable_import_table_are_found() {
    let mut builder = driver();
    builder.section_flags[0] |= 0x8000_0000;
    builder.section_flags[1] |= 0x8000_0000;
    assert_eq!(
        rules(&Image::parse(&builder.build()).unwrap(), &kmdf()),
        ["writable-executable", "writable-imports"]
    );
}

#[test]
fn imports_that_the_libraries_do_not_export_are_found() {
    let mut builder = driver();
    builder.import("ntoskrnl.exe", "ExMakeItUp");
    builder.import("nowhere.sys", "Anything");
    let exports = BTreeMap::from([
        (
            "wdfldr.sys".to_owned(),
            ["WdfVersionBind".to_owned()].into(),
        ),
        ("ntoskrnl.exe".to_owned(), ["DbgPrint".to_owned()].into()),
    ]);
    let expected = Expectations {
        exports: Some(exports),
        ..kmdf()
    };
    let found = check(&Image::parse(&builder.build()).unwrap(), &expected);
    let messages: Vec<&str> = found.iter().map(|finding| &*finding.message).collect();
    assert_eq!(
        messages,
        [
            "ntoskrnl.exe!ExMakeItUp is not exported there",
            "nowhere.sys!Anything: no such module is known"
        ]
    );
}

#[test]
fn an_image_is_laid_out_at_another_address() {
    let mut builder = driver();
    let pointer = builder.pointer(0x1234) as usize;
    let image = Image::parse(&builder.build()).unwrap();
    let bytes = image.relocated(0xffff_f800_0000_0000).unwrap();
    assert_eq!(bytes.len(), image.image_size as usize);
    let value = u64::from_le_bytes(bytes[pointer..pointer + 8].try_into().unwrap());
    assert_eq!(value, 0xffff_f800_0000_1234);
}

#[test]
fn other_files_are_refused_in_words() {
    assert!(matches!(Image::parse(b""), Err(ImageError::Headers(_))));
    assert!(matches!(
        Image::parse(&[0; 4096]),
        Err(ImageError::Headers(_))
    ));
    let mut file = driver().build();
    file[0x84] = 0x4c;
    file[0x85] = 0x01;
    assert_eq!(
        Image::parse(&file).unwrap_err().to_string(),
        "the image is for machine 0x014c; x64 (0x8664) and ARM64 (0xaa64) are known"
    );
}

#[test]
fn a_driver_built_by_microsofts_tools_is_read() {
    let Some(path) = std::env::var_os("KSIM_WINDIVERT") else {
        eprintln!("SKIPPED: KSIM_WINDIVERT does not name a WinDivert64.sys");
        return;
    };
    let image = Image::parse(&std::fs::read(path).unwrap()).unwrap();
    let kmdf_facts = image.kmdf.unwrap();
    assert_eq!(
        (kmdf_facts.major, kmdf_facts.minor, kmdf_facts.functions),
        (1, 9, 396)
    );
    assert_eq!(image.relocations, Some(197));
    assert_eq!(image.checksum, image.computed_checksum);
    assert!(!rules(&image, &kmdf()).contains(&"entry"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(Image::parse(&bytes).is_err());
    }

    #[test]
    fn a_corrupted_image_does_not_panic(
        changes in proptest::collection::vec((0usize..0x4400, any::<u8>()), 1..12),
        length in 0usize..=0x4400,
    ) {
        let mut file = driver().build();
        for (at, value) in changes {
            file[at] = value;
        }
        for file in [&file[..], &file[..length]] {
            if let Ok(image) = Image::parse(file) {
                let _ = check(&image, &kmdf());
                drop(image.relocated(0x1000));
            }
        }
    }

    #[test]
    fn corrupted_headers_and_tables_do_not_panic(
        changes in proptest::collection::vec((prop_oneof![0x80usize..0x2c0, 0x1400usize..0x2400, 0x3400usize..0x3420], any::<u8>()), 1..6),
    ) {
        let mut file = driver().build();
        for (at, value) in changes {
            file[at] = value;
        }
        if let Ok(image) = Image::parse(&file) {
            let _ = check(&image, &kmdf());
            drop(image.relocated(0x1000));
        }
    }
}
