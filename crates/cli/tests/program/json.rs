//! Reports for programs: they tell what people are told.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::program::{
    Ran, capture, driver, driver_that_frees_with, example, example_policy, json_of, number_before,
    portcullis, scratch, scratch_file,
};

/// Runs the program twice: for people, and for programs.
fn both(arguments: &[&str]) -> (Ran, Value) {
    let people = portcullis(arguments);
    let programs = portcullis(&[arguments, &["--json"]].concat());
    assert_eq!(people.status, programs.status, "{arguments:?}");
    assert_eq!(people.errors, programs.errors, "{arguments:?}");
    (people, json_of(&programs.output))
}

#[test]
fn programs_learn_how_the_local_side_was_found_and_what_a_policy_is_warned_of() {
    let web = capture("web.pcap");
    let warned = scratch_file(
        "json-warned.toml",
        b"default = 'permit'\n[[rule]]\naction = 'block'\n[[rule]]\naction = 'permit'\nremote_port = 80\n",
    );
    let packets = scratch("json-warned.pcapng");
    let driver = scratch_file("json-warned.sys", &driver());
    for arguments in [
        vec!["replay", &web, "--json", "-"],
        vec!["capture", "--replay", &web, "-w", &packets, "--json", "-"],
    ] {
        let ran = portcullis(&[&arguments[..], &["--policy", &warned]].concat());
        assert_eq!(ran.status, 0, "{}", ran.errors);
        let report = json_of(&ran.output);
        assert_eq!(
            report["local_side"],
            json!([
                {"address": "192.0.2.10", "scope": "public", "flows": 7, "began": 7},
                {"address": "2001:db8::10", "scope": "public", "flows": 4, "began": 4},
            ])
        );
        let given = portcullis(&[&arguments[..], &["--local", "192.0.2.10"]].concat());
        let given = json_of(&given.output);
        assert_eq!(
            (given.get("local_side"), &given["diagnostics"]),
            (None, &json!([]))
        );
        assert_warned(&report, &ran);
    }
    let ran = portcullis(&["verify", &driver, "--json", "--policy", &warned]);
    assert_warned(&json_of(&ran.output), &ran);
    let (people, checked) = both(&["policy", "check", &warned]);
    assert_warned(&checked, &people);
    assert_eq!(number_before(&people.output, " rules, no error"), 2);
    assert_eq!(checked["rules"], 2);
}

fn assert_warned(report: &Value, ran: &Ran) {
    let diagnostics = report["diagnostics"].as_array().expect("diagnostics");
    let [warning] = diagnostics.as_slice() else {
        panic!("{report}");
    };
    assert_eq!(
        (&warning["severity"], &warning["line"]),
        (&json!("warning"), &json!(4))
    );
    let message = warning["message"].as_str().expect("a message");
    assert!(ran.errors.contains(message), "{message}: {}", ran.errors);
}

#[test]
fn each_event_that_people_see_programs_see_too() {
    let (web, policy) = (capture("web.pcap"), example_policy());
    let file = scratch("json-events.json");
    let ran = portcullis(&[
        "replay", &web, "--policy", &policy, "--events", "--json", &file,
    ]);
    let report = json_of(&std::fs::read_to_string(&file).expect("the report was written"));
    let events = report["events"].as_array().expect("events");
    assert_eq!(
        events.len() as u64,
        number_before(&ran.output, " events read")
    );
    let lines: Vec<&str> = ran
        .output
        .lines()
        .filter(|line| {
            line.split_whitespace()
                .next()
                .is_some_and(|word| word.parse::<u64>().is_ok())
        })
        .take(events.len())
        .collect();
    for (line, event) in lines.iter().zip(events) {
        let text = |member: &str| event[member].as_str().unwrap_or_default().to_owned();
        let number = event["sequence"].to_string();
        assert_eq!(line.split_whitespace().next(), Some(number.as_str()));
        let (_, time) = text("time")
            .split_once('T')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("a date and a time");
        assert!(line.contains(time.trim_end_matches('Z')), "{line}\n{event}");
        for member in [
            "kind",
            "protocol",
            "host",
            "verdict",
            "rule",
            "application",
            "from",
            "to",
            "hash",
        ] {
            assert!(line.contains(&text(member)), "{member}: {line}\n{event}");
        }
        for end in ["local", "remote"] {
            let port = format!(":{} ", event[end][1]);
            assert!(
                event.get(end).is_none() || format!("{line} ").contains(&port),
                "{line}\n{event}"
            );
        }
    }
    let dates: BTreeSet<&str> = events
        .iter()
        .map(|event| &event["time"].as_str().unwrap()[..10])
        .collect();
    assert_eq!(dates, BTreeSet::from(["2026-11-22"]));
    let ran = portcullis(&["replay", &web, "--policy", &policy, "--json", "-"]);
    assert_eq!(
        json_of(&ran.output).get("events"),
        None,
        "they were not asked for"
    );
}

#[test]
fn the_warnings_about_an_image_are_told_to_programs() {
    let changed = driver_that_frees_with("KeGetCurrentIrql", "json-changed.sys");
    let (people, image) = both(&["image", &changed]);
    let warnings = image["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{image}");
    let line = format!("warning: {}\n", warnings[0].as_str().expect("text"));
    assert!(people.output.contains(&line), "{}", people.output);
}

#[test]
fn an_error_is_told_to_programs_where_the_report_would_be() {
    let (web, none) = (capture("web.pcap"), scratch("json-there-is-none"));
    let wrong = scratch_file(
        "json-wrong.toml",
        b"default = \"permit\"\n[[rule]]\nname = \"x\"\naction = \"blok\"\nremote_prot = 1\n",
    );
    let (file, driver) = (
        scratch("json-error.json"),
        scratch_file("json-error.sys", &driver()),
    );
    let packets = scratch("json-error.pcapng");
    let (to_file, printed) = (["--json", &file], ["--json", "-"]);
    for (arguments, json) in [
        (vec!["replay", &none], &to_file[..]),
        (vec!["replay", &none], &printed[..]),
        (vec!["ask", &web, "--policy", &none], &printed[..]),
        (vec!["capture", "-w", &packets], &printed[..]),
        (
            vec!["capture", "-w", &packets, "--replay", &none],
            &printed[..],
        ),
        (vec!["policy", "check", &none], &["--json"][..]),
        (vec!["image", &none], &["--json"][..]),
        (vec!["verify", &none], &["--json"][..]),
        (vec!["replay", &web, "--policy", &wrong], &printed[..]),
        (vec!["policy", "check", &wrong], &["--json"][..]),
        (vec!["verify", &driver, "--policy", &wrong], &["--json"][..]),
        (
            vec!["verify", &driver, "--fail-each", "--policy", &wrong],
            &["--json"][..],
        ),
    ] {
        drop(std::fs::remove_file(&file));
        let ran = portcullis(&[&arguments[..], json].concat());
        assert_eq!(ran.status, 1, "{arguments:?}");
        let report = if json == to_file {
            assert_eq!(ran.output, "");
            json_of(&std::fs::read_to_string(&file).expect("the error was written"))
        } else {
            json_of(&ran.output)
        };
        let error = report["error"].as_str().expect("an error");
        let last = ran.errors.lines().last();
        assert_eq!(
            last,
            Some(format!("error: {error}").as_str()),
            "{arguments:?}"
        );
        if arguments.contains(&wrong.as_str()) && !arguments.contains(&"--fail-each") {
            let diagnostics = report["diagnostics"].as_array().expect("diagnostics");
            assert_eq!(diagnostics.len(), 2, "{report}");
            assert_eq!(
                (&diagnostics[0]["line"], &diagnostics[0]["column"]),
                (&json!(4), &json!(10))
            );
            assert_eq!(diagnostics[0]["hint"], "write \"block\"");
        } else {
            assert_eq!(
                report.as_object().map(serde_json::Map::len),
                Some(1),
                "{report}"
            );
        }
    }
}

#[test]
fn a_driver_that_does_not_start_or_that_stops_the_machine_is_an_error_in_the_report() {
    let mut builder = pe_image::build::Builder::x64();
    builder.entry_here();
    // mov eax, STATUS_UNSUCCESSFUL; ret
    builder.code(&[0xb8, 1, 0, 0, 0xc0, 0xc3]);
    let refuses = scratch_file("json-refuses.sys", &builder.build());
    let (people, report) = both(&["verify", &refuses]);
    let error = "the driver did not start: STATUS_UNSUCCESSFUL";
    assert_eq!(
        (people.status, people.errors),
        (1, format!("error: {error}\n"))
    );
    assert_eq!(
        (&report["error"], &report["steps"][0]),
        (&json!(error), &json!("started: STATUS_UNSUCCESSFUL"))
    );
    let swept = portcullis(&["verify", &refuses, "--fail-each", "--json"]);
    assert_eq!(
        (swept.status, json_of(&swept.output)),
        (1, json!({"error": error}))
    );

    let stops = driver_that_frees_with("ExFreeNothing", "json-stops.sys");
    let web = capture("web.pcap");
    let packets = scratch("json-stops.pcapng");
    for arguments in [
        vec!["replay", &web],
        vec!["capture", "--replay", &web, "-w", &packets],
    ] {
        let ran = portcullis(&[&arguments[..], &["--driver", &stops, "--json", "-"]].concat());
        let report = json_of(&ran.output);
        assert_eq!(ran.status, 2, "{arguments:?}");
        assert_eq!(
            ran.errors,
            format!("error: {}\n", report["error"].as_str().expect("an error"))
        );
        assert!(
            ran.errors
                .contains("ntoskrnl.exe!ExFreeNothing is not simulated")
        );
    }
}

/// Puts the names of all members of `value` into `names`, but those of a map whose names are data.
fn members<'v>(value: &'v Value, names: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                names.insert(name);
                if !["counters", "blocked_by", "errors"].contains(&name.as_str()) {
                    members(value, names);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| members(value, names)),
        _ => {}
    }
}

#[test]
fn the_page_about_reports_names_every_member() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json.md"));
    let page = page.expect("the page");
    let (web, proxy) = (capture("web.pcap"), example("proxy.toml"));
    let leaks = driver_that_frees_with("KeGetCurrentIrql", "json-leaks.sys");
    let warned = scratch_file(
        "json-page.toml",
        b"default = 'permit'\n[[rule]]\naction = 'block'\n[[rule]]\naction = 'permit'\nhttp_header = {name = 'a', value = 'x'}\n",
    );
    let rewrites = scratch_file(
        "json-page-2.toml",
        b"default = 'permit'\nobserve = true\n[[rule]]\naction = 'permit'\nremote_port = [80, 443]\nhttp_header = {name = 'user-agent', value = 'x'}\ndscp = 46\n[[rule]]\naction = 'block'\nprotocol = 'icmp'\n",
    );
    let packets = scratch("json-page.pcapng");
    let policy = example_policy();
    let json = ["--json", "-"];
    for arguments in [
        [
            &["replay", &web, "--events", "--policy", &policy],
            &json[..],
        ]
        .concat(),
        [&["replay", &web, "--events", "--policy", &proxy], &json[..]].concat(),
        [
            &[
                "replay",
                &web,
                "--events",
                "--policy",
                &rewrites,
                "--interface=Tunnel=virtual,2001:db8::10",
            ],
            &json[..],
        ]
        .concat(),
        [
            &["replay", &web, "--policy", &warned, "--driver", &leaks],
            &json[..],
        ]
        .concat(),
        [
            &[
                "capture", "--replay", &web, "--policy", &policy, "-w", &packets,
            ],
            &json[..],
        ]
        .concat(),
        vec!["verify", &leaks, "--json"],
        vec!["verify", "--rules", "--json"],
        vec!["policy", "check", &warned, "--json"],
        vec!["replay", "no-such-capture", "--json", "-"],
    ] {
        let ran = portcullis(&arguments);
        let report = json_of(&ran.output);
        let mut names = BTreeSet::new();
        members(&report, &mut names);
        let missing: Vec<_> = names
            .iter()
            .filter(|name| !page.contains(&format!("`{name}`")))
            .collect();
        assert_eq!(missing, Vec::<&&str>::new(), "{arguments:?}");
    }
}
