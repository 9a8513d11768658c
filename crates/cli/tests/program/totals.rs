//! The totals of a replay: programs are told what people are told, and what the capture written has.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::files::{Kept, frames, pcap};
use crate::program::{
    capture, example, example_policy, json_of, number_before, portcullis, scratch, scratch_file,
};
use crate::replay::resets;

/// The `EtherType` of ARP.
const ARP: [u8; 2] = [8, 6];

/// The whitespace-separated words of each line of a table, from the line behind its header on.
fn rows<'t>(text: &'t str, header: &str) -> Vec<Vec<&'t str>> {
    let lines = text.lines().map(|line| line.split_whitespace().collect());
    let mut lines = lines.skip_while(|words: &Vec<&str>| words.first() != Some(&header));
    lines.next();
    lines.collect()
}

/// The counters that a replay shows to people.
fn counters_shown(text: &str) -> BTreeMap<&str, u64> {
    let lines = text
        .lines()
        .skip_while(|line| *line != "The driver's counters:");
    let lines = lines.skip(1).take_while(|line| line.starts_with("  "));
    lines
        .map(|line| {
            let (count, name) = line.trim().split_once(' ').expect("a number and a name");
            (name, count.parse().expect("a number"))
        })
        .collect()
}

/// The TCP resets among a capture's frames, and all of them.
fn resets_and_frames(file: &str) -> (usize, usize) {
    let frames = frames(file);
    let ip = frames.iter().filter(|frame| frame.data[12..14] != ARP);
    (ip.filter(|frame| resets(&frame.data)).count(), frames.len())
}

/// Replays a capture, told to people and to programs and written, and checks that all three say the same. Returns what
/// programs are told.
fn replayed(name: &str, file: &str, options: &[&str]) -> Value {
    let (report, written) = (
        scratch(&format!("{name}.json")),
        scratch(&format!("{name}.pcapng")),
    );
    let fixed = ["replay", file, "--json", &report, "--write", &written];
    let ran = portcullis(&[&fixed[..], options].concat());
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""), "{name}");
    let text = &ran.output;
    let report = json_of(&std::fs::read_to_string(report).expect("the report was written"));
    let number = |member: &str| report[member].as_u64().expect("a number");

    let summary = text.lines().find(|line| line.contains(" packets in "));
    let summary = summary.expect("a summary");
    for (member, said) in [
        ("packets", " packets in "),
        ("passed", " passed"),
        ("blocked", " blocked"),
        ("without_ip", " without IP"),
    ] {
        assert_eq!(
            number(member),
            number_before(summary, said),
            "{name}: {said}"
        );
    }
    assert_eq!(
        number("passed") + number("blocked"),
        number("packets"),
        "{name}"
    );
    // Where a connection is dropped a reset comes on top.
    let (had, _) = resets_and_frames(file);
    let (resets, frames) = resets_and_frames(&written);
    assert_eq!(number("passed"), (frames + had - resets) as u64, "{name}");

    let counters = report["counters"].as_object().expect("counters");
    assert_eq!(counters.len(), portcullis_proto::Counter::COUNT);
    let counted = counters.iter().filter(|(_, count)| **count != 0);
    let counted = counted.map(|(name, count)| (name.as_str(), count.as_u64().expect("a number")));
    assert_eq!(
        counted.collect::<BTreeMap<_, _>>(),
        counters_shown(text),
        "{name}"
    );

    let flows = report["flows"].as_array().expect("flows");
    let passed = flows
        .iter()
        .flat_map(|flow| flow["passed"].as_array().expect("two"));
    let passed: u64 = passed.map(|count| count.as_u64().expect("a number")).sum();
    let without_flow = number("without_ip") + number("of_other_hosts");
    assert_eq!(passed + without_flow, number("passed"), "{name}");
    match number("of_other_hosts") {
        0 => assert!(!summary.contains("of other hosts"), "{summary}"),
        count => assert_eq!(count, number_before(summary, " of other hosts")),
    }
    let shown = rows(text, "Protocol");
    assert!(shown.len() > flows.len(), "{name}");
    for (row, flow) in shown.iter().zip(flows) {
        assert_eq!(row[0], flow["protocol"], "{name}: {row:?}");
        assert!(
            row.contains(&flow["verdict"].as_str().expect("a verdict")),
            "{name}: {row:?}"
        );
        let whole: Vec<u64> = ["packets", "passed"]
            .iter()
            .map(|member| flow[member][0].as_u64().unwrap() + flow[member][1].as_u64().unwrap())
            .collect();
        // A stream is dropped with its connection's close, without one more packet.
        assert!(whole[1] <= whole[0], "{name}: {flow}");
        assert!(
            whole[1] == whole[0] || flow["verdict"] == "block" || flow["blocked_at"].is_null(),
            "{name}: {flow}"
        );
        assert_eq!(
            flow.get("blocked_at").is_some(),
            flow["verdict"] == "block",
            "{name}: {flow}"
        );
    }

    let callouts = report["callouts"].as_array().expect("callouts");
    let used = callouts
        .iter()
        .filter(|callout| callout["filtered"] == true || callout["classify"] != 0);
    let used: Vec<Vec<String>> = used
        .map(|callout| {
            let members = ["name", "layer", "id", "classify", "permit", "block"];
            let text = |member: &str| match &callout[member] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            members.map(text).into()
        })
        .collect();
    assert_eq!(rows(text, "Callout")[..used.len()], used, "{name}");
    report
}

#[test]
fn the_totals_of_a_replay_are_those_of_its_tables_and_of_the_capture_written() {
    let web = capture("web.pcap");
    let policy = |name: &str, text: &str| scratch_file(name, text.as_bytes());
    let rule = |text: &str| format!("default = 'permit'\n[[rule]]\nname = 'it'\n{text}\n");
    let asks = policy(
        "json-ask.toml",
        &rule("action = 'ask'\nremote_port = [53, 443]"),
    );
    let loses = policy(
        "json-loss.toml",
        &rule("action = 'permit'\nprotocol = 'udp'\nloss = '100 %'"),
    );
    let rewrites = policy(
        "json-rewrite.toml",
        &rule(
            "action = 'permit'\nremote_port = 80\nhttp_header = {name = 'user-agent', value = 'x'}",
        ),
    );
    let (example_policy, proxy, shaping) = (
        example_policy(),
        example("proxy.toml"),
        example("shaping.toml"),
    );
    for (name, options, expected) in [
        ("json-plain", vec![], (116, 0, json!({}))),
        (
            "json-block",
            vec!["--policy", &example_policy],
            (
                90,
                26,
                json!({"streams dropped": 2, "datagrams blocked": 2}),
            ),
        ),
        (
            "json-four",
            vec!["--policy", &example_policy, "--cpus", "4"],
            (
                90,
                26,
                json!({"streams dropped": 2, "datagrams blocked": 2}),
            ),
        ),
        (
            "json-held-permit",
            vec!["--policy", &asks, "--answer", "it=permit"],
            (116, 0, json!({"asked": 7, "answered": 7})),
        ),
        (
            "json-held-none",
            vec!["--policy", &asks, "--answer", "it=none"],
            (48, 68, json!({"asked": 7, "asked, time ran out": 7})),
        ),
        (
            "json-redirect",
            vec!["--policy", &proxy],
            (116, 0, json!({"redirected": 5})),
        ),
        (
            "json-rewrite",
            vec!["--policy", &rewrites],
            (
                116,
                0,
                json!({"places rewritten in streams": 6, "injections into streams": 6}),
            ),
        ),
        (
            "json-loss",
            vec!["--policy", &loses],
            (110, 6, json!({"packets lost": 6})),
        ),
        (
            "json-shape",
            vec!["--policy", &shaping],
            (116, 0, json!({"packets changed": 8, "packets delayed": 21})),
        ),
    ] {
        let report = replayed(name, &web, &options);
        let (passed, blocked, counters) = expected;
        assert_eq!(report["passed"], passed, "{name}");
        assert_eq!(report["blocked"], blocked, "{name}");
        for (counter, count) in counters.as_object().expect("an object") {
            assert_eq!(report["counters"][counter], *count, "{name}: {counter}");
        }
    }
}

#[test]
fn frames_of_no_flow_and_fragments_are_in_the_totals() {
    let example_policy = example_policy();
    let mut recorded = frames(&capture("openssl.pcapng"));
    let arp = Kept {
        data: [&[0xff; 6][..], &[2; 6], &ARP].concat(),
        original_length: 14,
        ..recorded[0].clone()
    };
    recorded.insert(3, arp);
    let with_arp = scratch_file("json-arp.pcap", &pcap(1, &recorded));
    let report = replayed("json-arp", &with_arp, &["--policy", &example_policy]);
    assert_eq!(
        (&report["packets"], &report["without_ip"]),
        (&json!(31), &json!(1))
    );
    let report = replayed(
        "json-others",
        &capture("web.pcap"),
        &["--local", "10.0.0.1"],
    );
    // What is left are multicasts.
    assert_eq!(
        (&report["of_other_hosts"], &report["blocked"]),
        (&json!(105), &json!(0))
    );
    replayed("json-fragments", &capture("fragments.pcap.gz"), &[]);
}
