//! `verify`: rules, seeds, faults, coverage.

use pe_image::build::Builder;
use serde_json::Value;

use crate::program::{
    capture, driver, example, example_policy, portcullis, report, scratch, scratch_file,
};

/// A driver whose entry allocates pool and, if it got any or `careless`, writes to it; its unload frees it.
fn allocates(careless: bool) -> Vec<u8> {
    let mut builder = Builder::x64();
    let allocate = builder.import("ntoskrnl.exe", "ExAllocatePool2");
    let free = builder.import("ntoskrnl.exe", "ExFreePool");
    let block = builder.data(&[0; 8]);
    // sub rsp, 28h; mov rcx, [block]; call [free]; add rsp, 28h; ret
    let unload = builder.code(&[0x48, 0x83, 0xec, 0x28]);
    builder.relative(&[0x48, 0x8b, 0x0d], block);
    builder.call_through(free);
    builder.code(&[0x48, 0x83, 0xc4, 0x28, 0xc3]);
    builder.entry_here();
    // sub rsp, 28h; lea rax, [unload]; mov [rcx+68h], rax
    builder.code(&[0x48, 0x83, 0xec, 0x28]);
    builder.relative(&[0x48, 0x8d, 0x05], unload);
    builder.code(&[0x48, 0x89, 0x41, 0x68]);
    // mov ecx, 40h; mov edx, 16; mov r8d, 'Care'; call [allocate]; mov [block], rax
    builder.code(&[0xb9, 0x40, 0, 0, 0, 0xba, 16, 0, 0, 0]);
    builder.code(&[0x41, 0xb8, b'C', b'a', b'r', b'e']);
    builder.call_through(allocate);
    builder.relative(&[0x48, 0x89, 0x05], block);
    if !careless {
        // test rax, rax; jne over; mov eax, STATUS_INSUFFICIENT_RESOURCES; add rsp, 28h; ret
        builder.code(&[0x48, 0x85, 0xc0, 0x75, 10]);
        builder.code(&[0xb8, 0x9a, 0, 0, 0xc0, 0x48, 0x83, 0xc4, 0x28, 0xc3]);
    }
    // mov [rax], rax; xor eax, eax; add rsp, 28h; ret
    builder.code(&[0x48, 0x89, 0x00, 0x31, 0xc0, 0x48, 0x83, 0xc4, 0x28, 0xc3]);
    builder.build()
}

#[test]
fn the_rules_are_listed_with_severity_text_and_document() {
    let ran = portcullis(&["verify", "--rules"]);
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
    let line = ran.output.lines().find(|line| line.contains("pool-tag"));
    let line = line.expect("every rule is listed");
    assert!(
        line.starts_with("error ") && line.ends_with("[ExFreePoolWithTag]"),
        "{line}"
    );
    let ran = portcullis(&["verify", "--rules", "--json"]);
    let rules: Value = serde_json::from_str(&ran.output).expect("JSON and nothing else");
    let rules = rules.as_array().expect("a list");
    assert_eq!(ran.status, 0);
    assert!(rules.len() > 30, "{}", rules.len());
    for rule in rules {
        for member in ["name", "area", "severity", "text", "source"] {
            assert!(rule[member].is_string(), "{member}: {rule}");
        }
    }
}

#[test]
fn a_file_or_the_rules_are_asked_for() {
    let ran = portcullis(&["verify"]);
    assert_eq!(ran.status, 1);
    assert!(ran.errors.contains("FILE.sys"), "{}", ran.errors);
}

#[test]
fn every_call_of_our_own_driver_s_scenario_fails_in_turn_and_it_stays_clean() {
    let file = scratch_file("swept.sys", &driver());
    let policy = example_policy();
    let ran = portcullis(&["verify", &file, "--fail-each", "--policy", &policy]);
    let last = ran.output.lines().last().unwrap_or_default();
    println!("{last}");
    let (calls, clean) = last.split_once(" calls, ").expect("the summary");
    assert_eq!(clean, format!("{calls} clean"), "{}", ran.output);
    assert!(
        calls.parse::<u32>().is_ok_and(|calls| calls > 100),
        "{last}"
    );
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
}

#[test]
fn our_own_driver_is_clean_wherever_pool_is_guarded_and_whatever_fails_at_random() {
    let file = scratch_file("guarded.sys", &driver());
    let policy = example_policy();
    for options in [
        ["--pool", "start", "--seed", "1"],
        ["--pool", "pattern", "--seed", "2"],
        ["--fail-random", "3", "--fail-one-in", "20"],
        ["--fail-random", "4", "--fail-one-in", "200"],
    ] {
        let fixed = ["verify", &file, "--cpus", "2", "--policy", &policy];
        let ran = portcullis(&[&fixed[..], &options[..]].concat());
        assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{}", ran.output);
    }
}

#[test]
fn a_failure_that_a_driver_does_not_survive_is_told_with_the_command_that_repeats_it() {
    let file = scratch_file("careless.sys", &allocates(true));
    assert_eq!(portcullis(&["verify", &file]).status, 0);
    let ran = portcullis(&["verify", &file, "--fail-each", "--json"]);
    assert_eq!(ran.status, 2, "{}", ran.output);
    let sweep: Value = serde_json::from_str(&ran.output).expect("JSON and nothing else");
    assert_eq!((&sweep["calls"], &sweep["clean"]), (&1.into(), &0.into()));
    let failure = &sweep["failures"][0];
    let text = |member: &str| failure[member].as_str().unwrap_or_default().to_owned();
    assert!(
        text("call").starts_with("ExAllocatePool2 called from careless.sys+0x"),
        "{failure}"
    );
    assert!(
        text("finding").starts_with("stop-trap: write of 8 bytes through a null pointer"),
        "{failure}"
    );
    let command = text("command");
    assert_eq!(
        command,
        format!("portcullis verify {file} --fail-nth 1 --seed 0")
    );
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    let again = portcullis(&words);
    assert_eq!(again.status, 2);
    assert!(
        again
            .output
            .contains("violation stop-trap: write of 8 bytes"),
        "{}",
        again.output
    );
}

#[test]
fn a_driver_that_looks_at_what_it_got_survives_the_sweep() {
    let file = scratch_file("careful.sys", &allocates(false));
    let ran = portcullis(&["verify", &file, "--fail-each"]);
    assert_eq!(ran.output, "1 calls, 1 clean\n", "{}", ran.errors);
    assert_eq!(ran.status, 0);
    let refused = portcullis(&["verify", &file, "--fail-nth", "1"]);
    assert_eq!(refused.status, 0, "{}", refused.errors);
    assert!(
        refused
            .output
            .contains("started: STATUS_INSUFFICIENT_RESOURCES\nmade to fail: ExAllocatePool2"),
        "{}",
        refused.output
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let file = scratch_file("seeded.sys", &driver());
    let policy = example_policy();
    let run = |seed: &str| {
        let fixed = ["verify", "--cpus", "3", "--json", "--policy", &policy];
        let ran = portcullis(&[&fixed[..], &["--seed", seed, &file]].concat());
        assert_eq!(ran.status, 0, "{}", ran.output);
        ran.output
    };
    let first = run("7");
    assert_eq!(first, run("7"));
    assert!(
        first.contains("unloaded in the middle of traffic"),
        "{first}"
    );
}

#[test]
fn a_policy_by_interface_decides_the_traffic_as_it_does_in_a_replay() {
    let (policy, tunnel) = (example("kill-switch.toml"), "Tunnel=virtual,2001:db8::10");
    let with = ["--policy", &policy, "--interface", tunnel];
    let file = scratch_file("interfaces.sys", &driver());
    let ran = portcullis(&[&["verify", &file], &with[..]].concat());
    assert_eq!(ran.status, 0, "{}", ran.errors);
    let replayed = report(&capture("web.pcap"), &with);
    let (passed, blocked) = (&replayed["passed"], &replayed["blocked"]);
    assert!(*passed != 0 && *blocked != 0, "{passed}, {blocked}");
    let step = format!("running: {passed} packets passed, {blocked} blocked\n");
    assert!(ran.output.contains(&step), "{step}{}", ran.output);
    // The command that repeats a failure has it, too.
    let careless = scratch_file("careless-interfaces.sys", &allocates(true));
    let swept = portcullis(&[&["verify", &careless, "--fail-each"], &with[..]].concat());
    let command = format!("--policy {policy} --interface Tunnel=53,2001:db8::10/128\n");
    assert!(swept.output.contains(&command), "{}", swept.output);
}

#[test]
fn coverage_needs_a_program_database() {
    let file = scratch_file("uncovered.sys", &driver());
    let lcov = scratch("uncovered.lcov");
    let ran = portcullis(&["verify", &file, "--coverage", &lcov]);
    assert_eq!(ran.status, 1);
    assert!(ran.errors.contains("uncovered.pdb"), "{}", ran.errors);
}
