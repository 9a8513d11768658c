//! The other commands: `policy`, `image`, `verify`.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::program::{
    capture, driver, driver_that_frees_with, example_policy, portcullis, scratch, scratch_file,
};

#[test]
fn a_valid_policy_is_said_to_be_and_compiles_to_what_the_library_makes_of_it() {
    let policy = example_policy();
    let checked = portcullis(&["policy", "check", &policy]);
    assert_eq!(
        (checked.status, checked.output),
        (0, format!("{policy}: 5 rules, no error\n"))
    );
    let file = scratch("example.blob");
    let compiled = portcullis(&["policy", "compile", &policy, "-o", &file]);
    let blob = std::fs::read(&file).expect("the compiled policy was written");
    assert_eq!(compiled.status, 0, "{}", compiled.errors);
    assert_eq!(
        compiled.output,
        format!("{file}: 5 rules, {} bytes\n", blob.len())
    );
    let text = std::fs::read_to_string(&policy).unwrap();
    let expected =
        portcullis_policy::compile(&text, &portcullis_policy::Options::default()).unwrap();
    assert_eq!(blob, expected.blob);
}

#[test]
fn a_rule_that_never_decides_is_a_warning() {
    let policy = scratch_file(
        "unreachable.toml",
        b"default = \"permit\"\n[[rule]]\nname = \"x\"\naction = \"block\"\n\
          [[rule]]\nname = \"y\"\naction = \"permit\"\nremote_port = 80\n",
    );
    let ran = portcullis(&["policy", "check", &policy]);
    assert_eq!(ran.status, 0);
    assert!(
        ran.errors.contains("warning: this rule never decides"),
        "{}",
        ran.errors
    );
    assert!(
        ran.errors.contains(&format!("{policy}:5:1")),
        "{}",
        ran.errors
    );
}

#[test]
fn an_image_is_described() {
    let file = scratch_file("described.sys", &driver());
    let ran = portcullis(&["image", &file]);
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
    for text in [
        "a driver image for x64",
        "KMDF 1.31",
        "NX, ASLR, high-entropy ASLR, integrity check",
        "r-x",
        "fwpkclnt.sys!FwpsCalloutRegister2",
    ] {
        assert!(ran.output.contains(text), "{text}\n{}", ran.output);
    }
    assert!(
        !ran.output.contains("warning: "),
        "our own image has no fault: {}",
        ran.output
    );
    let json = portcullis(&["image", "--json", &file]);
    let image: Value = serde_json::from_str(&json.output).expect("JSON and nothing else");
    assert_eq!(
        (&image["machine"], &image["characteristics"]["nx"]),
        (&"x64".into(), &true.into())
    );
    // A kernel stack has 24 KB for all that is on it; a frame of a page or more has to be probed, too.
    let frame = &image["largest_frame"];
    let bytes = frame["bytes"].as_u64().expect("a function table");
    assert!((1..4_096).contains(&bytes), "{frame}");
    let line = format!("largest stack frame: {bytes} bytes, at ");
    assert!(ran.output.contains(&line), "{}", ran.output);
    let changed = portcullis(&[
        "image",
        &driver_that_frees_with("KeGetCurrentIrql", "changed.sys"),
    ]);
    assert!(
        changed.output.contains("warning: checksum: "),
        "{}",
        changed.output
    );
}

#[test]
fn our_own_driver_is_clean_under_the_verifier() {
    let file = scratch_file("clean.sys", &driver());
    for cpus in ["1", "2"] {
        let ran = portcullis(&["verify", &file, "--cpus", cpus]);
        assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{}", ran.output);
        for step in [
            "started: STATUS_SUCCESS",
            "with the filter engine stopped",
            "unloaded",
        ] {
            assert!(ran.output.contains(step), "{step}\n{}", ran.output);
        }
        assert!(
            ran.output.ends_with("Verifier: no violation, no leak\n"),
            "{}",
            ran.output
        );
    }
}

#[test]
fn a_driver_that_leaks_is_exit_status_2_of_verify_too() {
    let file = driver_that_frees_with("KeGetCurrentIrql", "leaky-verify.sys");
    let ran = portcullis(&["verify", &file]);
    assert_eq!(ran.status, 2, "{}", ran.errors);
    assert!(
        ran.output
            .contains("violation unload-left: leaky-verify.sys was unloaded with "),
        "{}",
        ran.output
    );
    let ran = portcullis(&["verify", "--json", &file]);
    assert_eq!(ran.status, 2);
    let report: Value = serde_json::from_str(&ran.output).expect("JSON and nothing else");
    assert_eq!(report["driver"], "leaky-verify.sys");
    assert!(
        report["verifier"]["leaks"]
            .as_array()
            .is_some_and(|leaks| leaks.len() > 5),
        "{report}"
    );
    assert_eq!(report["bugcheck"], Value::Null);
}

#[test]
fn imports_that_are_not_simulated_are_named_at_once_and_stop_the_machine_when_called() {
    let file = driver_that_frees_with("ExFreeNothing", "unresolved.sys");
    let ran = portcullis(&["verify", &file]);
    assert_eq!(ran.status, 2, "{}", ran.errors);
    let first = ran.output.lines().next();
    assert_eq!(first, Some("not simulated: ntoskrnl.exe!ExFreeNothing"));
    assert!(
        ran.output.contains("the machine stopped: bug check "),
        "{}",
        ran.output
    );
    assert!(
        ran.output
            .contains("ntoskrnl.exe!ExFreeNothing is not simulated"),
        "{}",
        ran.output
    );
}

#[test]
fn a_driver_that_stops_the_machine_is_exit_status_2_of_replay() {
    let file = driver_that_frees_with("ExFreeNothing", "stops-replay.sys");
    let ran = portcullis(&["replay", &capture("web.pcap"), "--driver", &file]);
    assert_eq!(ran.status, 2, "{}", ran.errors);
    assert!(
        ran.errors
            .contains("ntoskrnl.exe!ExFreeNothing is not simulated"),
        "{}",
        ran.errors
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let file = scratch_file("piped.sys", &driver());
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["image", &file])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program was built");
    drop(program.stdout.take());
    assert_eq!(program.wait().expect("it ends").code(), Some(0));
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [vec!["--help"], vec!["replay", "--help"], vec!["--version"]] {
        let ran = portcullis(&arguments);
        assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{arguments:?}");
        assert!(!ran.output.is_empty());
    }
}

#[test]
fn the_demonstration_of_the_proxy_shows_where_a_connection_and_a_datagram_were_to_go() {
    let ran = portcullis(&["proxy", "--demo"]);
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{}", ran.output);
    for said in [
        "The proxy learns that it was to go to 198.51.100.7:80",
        "192.0.2.10:50000 → 198.51.100.7:80: 10 bytes there, 25 back, process 600",
        "The proxy learns that it was to go to 198.51.100.7:53",
        "192.0.2.10:50001 → 198.51.100.7:53: 10 bytes there, 25 back, process 600",
        "Verifier: no violation, no leak",
    ] {
        assert!(ran.output.contains(said), "{said}\n{}", ran.output);
    }
    let answers = "The application reads: an answer to \"a question\"";
    assert_eq!(ran.output.matches(answers).count(), 2, "{}", ran.output);
}

#[test]
fn the_example_policies_are_valid() {
    for name in [
        "policy.toml",
        "proxy.toml",
        "split-tunnel.toml",
        "kill-switch.toml",
    ] {
        let ran = portcullis(&["policy", "check", &crate::program::example(name)]);
        assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{name}");
    }
}
