//! Bad input: exit status 1, and an error that names the file and the place.

use std::io::Write as _;

use crate::files::pcap;
use crate::program::{capture, driver, example_policy, json_of, portcullis, scratch, scratch_file};

/// Runs the program, which is to refuse, and returns its words without the "error: ".
fn refusal(arguments: &[&str]) -> String {
    let ran = portcullis(arguments);
    assert_eq!(ran.status, 1, "{arguments:?}: {}{}", ran.output, ran.errors);
    assert!(!ran.errors.contains("panicked"), "{}", ran.errors);
    let last = ran.errors.lines().rfind(|line| line.starts_with("error: "));
    last.unwrap_or_else(|| panic!("no error: {}", ran.errors))
        .trim_start_matches("error: ")
        .to_owned()
}

#[test]
fn a_file_that_is_missing_is_named() {
    let web = capture("web.pcap");
    let none = scratch("there-is-none");
    for arguments in [
        vec!["replay", &none],
        vec!["replay", &web, "--policy", &none],
        vec!["replay", &web, "--driver", &none],
        vec!["policy", "check", &none],
        vec!["policy", "compile", &none, "-o", &none],
        vec!["image", &none],
        vec!["verify", &none],
    ] {
        assert!(
            refusal(&arguments).starts_with(&format!("{none}: No such file")),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let (web, policy, place) = (
        capture("web.pcap"),
        example_policy(),
        scratch("no-folder/file"),
    );
    for arguments in [
        vec!["replay", &web, "--write", &place],
        vec!["replay", &web, "--json", &place],
        vec!["replay", &web, "--annotate", &place],
        vec!["capture", "--replay", &web, "-w", &place],
        vec!["policy", "compile", &policy, "-o", &place],
    ] {
        assert!(
            refusal(&arguments).starts_with(&format!("{place}: No such file")),
            "{arguments:?}"
        );
    }
}

#[test]
fn what_is_read_is_not_overwritten() {
    let input = scratch_file("read.pcap", &std::fs::read(capture("web.pcap")).unwrap());
    let policy = scratch_file("read.toml", &std::fs::read(example_policy()).unwrap());
    let driver = scratch_file("read.sys", &driver());
    let link = scratch("read-link.pcap");
    drop(std::fs::remove_file(&link));
    std::os::unix::fs::symlink(&input, &link).expect("a link");
    let files = [&input, &policy, &driver];
    let before = files.map(|file| std::fs::read(file).unwrap());
    for (option, file, arguments) in [
        ("--write", &input, vec!["replay", &input]),
        ("--write", &link, vec!["replay", &input]),
        ("--write", &input, vec!["replay", &link]),
        ("--annotate", &input, vec!["ask", &input]),
        (
            "--json",
            &policy,
            vec!["replay", &input, "--policy", &policy],
        ),
        (
            "--write",
            &driver,
            vec!["replay", &input, "--driver", &driver],
        ),
        ("--write", &input, vec!["capture", "--replay", &input]),
        (
            "--json",
            &policy,
            vec![
                "capture", "--replay", &input, "-w", "x", "--policy", &policy,
            ],
        ),
        ("--output", &policy, vec!["policy", "compile", &policy]),
        ("--coverage", &driver, vec!["verify", &driver]),
        ("--lcov", &driver, vec!["coverage", "report", "x", &driver]),
    ] {
        let refused = refusal(&[&arguments[..], &[option, file]].concat());
        assert_eq!(
            refused,
            format!("{file}: {option} would overwrite it, and it is read")
        );
    }
    let after = files.map(|file| std::fs::read(file).unwrap());
    assert!(after == before, "a file was changed");

    let output = scratch("read-twice.pcapng");
    drop(std::fs::remove_file(&output));
    let both = ["replay", &input, "--write", &output, "--annotate", &output];
    assert_eq!(
        refusal(&both),
        format!("{output}: --write and --annotate would both write it")
    );
    let none = scratch("there-is-none");
    refusal(&["replay", &none, "--write", &output]);
    assert!(!std::fs::exists(&output).unwrap(), "nothing was replayed");
    // A device holds nothing that could be lost.
    let nowhere = [
        "replay",
        &input,
        "--write",
        "/dev/null",
        "--annotate",
        "/dev/null",
    ];
    assert_eq!(portcullis(&nowhere).status, 0);
}

#[test]
fn answers_and_interfaces_that_are_meant_for_nothing_are_refused() {
    let (web, policy) = (capture("web.pcap"), example_policy());
    let replay = ["replay", &web, "--policy", &policy];
    let refused = refusal(&[&replay[..], &["--answer", "our resolvr=permit"]].concat());
    assert_eq!(
        refused,
        "an answer is for \"our resolvr\": the policy has no rule of that name"
    );
    for arguments in [
        vec![
            "replay",
            &web,
            "--policy",
            &policy,
            "--interface=T=wifi",
            "--interface=T=tunnel",
        ],
        vec![
            "policy",
            "check",
            &policy,
            "--interface=T=0x35000001000000",
            "--interface=T=0x35000002000000",
        ],
    ] {
        assert_eq!(refusal(&arguments), "--interface: \"T\" is named twice");
    }
}

#[test]
fn of_many_mistakes_in_a_policy_the_first_are_shown_and_all_are_counted() {
    let policy = scratch_file("prose.toml", "not a policy\n".repeat(50).as_bytes());
    let ran = portcullis(&["policy", "check", &policy, "--json"]);
    assert_eq!(ran.errors.matches(&format!("{policy}:")).count(), 20 + 1);
    for text in [
        "and 30 more\n".to_owned(),
        format!("error: {policy}: 50 errors\n"),
    ] {
        assert!(ran.errors.contains(&text), "{text}: {}", ran.errors);
    }
    let diagnostics = json_of(&ran.output)["diagnostics"].take();
    assert_eq!(diagnostics.as_array().map(Vec::len), Some(50));
}

#[test]
fn a_capture_without_packets_has_no_local_side() {
    let empty = scratch_file("no-packets.pcap", &pcap(1, &[]));
    let ran = portcullis(&["replay", &empty]);
    assert_eq!(ran.status, 0, "{}", ran.errors);
    let first = ran.output.lines().next();
    assert_eq!(first, Some("Local side, found in the traffic: none"));
}

#[test]
fn what_is_no_capture_is_refused_by_name() {
    let empty = scratch_file("empty.pcap", &[]);
    let short = scratch_file("short.pcap", &[0xd4, 0xc3, 0xb2]);
    for file in [&example_policy(), &empty, &short] {
        assert_eq!(
            refusal(&["replay", file]),
            format!("{file}: not a capture: pcap and pcapng are known, also compressed with gzip")
        );
    }
}

#[test]
fn damage_in_a_capture_is_placed() {
    let mut pcap = std::fs::read(capture("web.pcap")).unwrap();
    let first = u32::from_le_bytes(pcap[32..36].try_into().unwrap()) as usize;
    let second = 24 + 16 + first;
    pcap[second + 8..second + 12].copy_from_slice(&[0xf0, 0xff, 0xff, 0xff]);
    let file = scratch_file("damaged.pcap", &pcap);
    assert_eq!(
        refusal(&["replay", &file]),
        format!("{file}: damaged after {second} bytes: a block is larger than any frame")
    );
    let mut pcapng = std::fs::read(capture("openssl.pcapng")).unwrap();
    let length =
        |at: usize| u32::from_le_bytes(pcapng[at + 4..at + 8].try_into().unwrap()) as usize;
    let third = length(0) + length(length(0));
    pcapng[third + 4..third + 8].copy_from_slice(&13_u32.to_le_bytes());
    let file = scratch_file("damaged.pcapng", &pcapng);
    let words = format!("{file}: damaged after {third} bytes: a block that is not well-formed");
    assert!(refusal(&["replay", &file]).starts_with(&words));
}

#[test]
fn damaged_compression_is_told_from_a_file_that_is_no_capture() {
    let output = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::fast());
    encoder
        .write_all(&std::fs::read(capture("web.pcap")).unwrap())
        .unwrap();
    let mut compressed = encoder.finish().unwrap();
    let checksum = compressed.len() - 8;
    compressed[checksum] ^= 0xff;
    let file = scratch_file("damaged.pcap.gz", &compressed);
    assert!(refusal(&["replay", &file]).starts_with(&format!("{file}: damaged after ")));
    // One that stops early is like a capture that does.
    let file = scratch_file("stopped.pcap.gz", &compressed[..compressed.len() / 2]);
    let ran = portcullis(&["replay", &file]);
    assert_eq!(ran.status, 0, "{}", ran.errors);
}

#[test]
fn every_error_in_a_policy_is_shown_at_its_line_and_column_with_a_hint() {
    let policy = scratch_file(
        "wrong.toml",
        b"default = \"permit\"\n[[rule]]\nname = \"x\"\naction = \"blok\"\nremote_prot = 1\n",
    );
    let compiled = scratch("wrong.blob");
    for arguments in [
        vec!["replay", &capture("web.pcap"), "--policy", &policy],
        vec!["policy", "check", &policy],
        vec!["policy", "compile", &policy, "-o", &compiled],
    ] {
        let ran = portcullis(&arguments);
        assert_eq!((ran.status, ran.output.as_str()), (1, ""), "{arguments:?}");
        for text in [
            format!("{policy}:4:10"),
            "there is no action \"blok\"".to_owned(),
            "write \"block\"".to_owned(),
            format!("{policy}:5:1"),
            "did you mean `remote_port`?".to_owned(),
            format!("error: {policy}: 2 errors"),
        ] {
            assert!(ran.errors.contains(&text), "{text}\n{}", ran.errors);
        }
    }
    assert!(
        !std::fs::exists(&compiled).unwrap(),
        "nothing is written of a policy with errors"
    );
}

#[test]
fn options_that_make_no_sense_are_explained() {
    let web = capture("web.pcap");
    for (options, words) in [
        (["--local", "1.2.3"], "--local 1.2.3: not an IP address"),
        (
            ["--local", "1.2.3.4/33"],
            "--local 1.2.3.4/33: the prefix length is not 0 to 32",
        ),
        (
            ["--local", "2001:db8::/129"],
            "--local 2001:db8::/129: the prefix length is not 0 to 128",
        ),
        (
            ["--local", "1.2.3.4/x"],
            "--local 1.2.3.4/x: the prefix length is not 0 to 32",
        ),
        (
            ["--process", "curl.exe"],
            "expected ADDR:PORT=PATH[,SID], for example 10.0.0.5:49152=C:\\curl.exe",
        ),
        (
            ["--process", "10.0.0.5=C:\\x.exe"],
            "\"10.0.0.5\" is not ADDR:PORT",
        ),
        (["--process", "10.0.0.5:1="], "the path is empty"),
        (
            ["--process", "10.0.0.5:1=C:\\x.exe,S-1-x"],
            "--process 10.0.0.5:1: `S-1-x` is not a security identifier",
        ),
        (["--cpus", "0"], "0 is not in 1..=64"),
        (["--cpus", "65"], "65 is not in 1..=64"),
    ] {
        let refused = refusal(&["replay", &web, options[0], options[1]]);
        assert!(refused.contains(words), "{options:?}: {refused}");
    }
    assert!(refusal(&["replay"]).contains("required arguments were not provided"));
    assert!(refusal(&["play"]).contains("unrecognized subcommand 'play'"));
}

#[test]
fn a_file_that_is_no_driver_is_refused_by_name() {
    let policy = example_policy();
    for arguments in [["image", &policy], ["verify", &policy]] {
        let words = format!("{policy}: not a 64-bit PE file");
        assert!(refusal(&arguments).starts_with(&words), "{arguments:?}");
    }
    let refused = refusal(&["replay", &capture("web.pcap"), "--driver", &policy]);
    let words = format!("{policy}: not a 64-bit PE file");
    assert!(refused.starts_with(&words), "{refused}");
}
