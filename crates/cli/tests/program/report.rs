//! The report of a replay: its JSON, its tables, its events.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::program::{
    capture, driver_that_frees_with, example_policy, portcullis, report, scratch,
};

fn keys(value: &Value) -> BTreeSet<&str> {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("no object: {value}"));
    object.keys().map(String::as_str).collect()
}

#[test]
fn the_json_report_has_the_documented_shape_and_nothing_else() {
    let report = report(&capture("web.pcap"), &["--policy", &example_policy()]);
    assert_eq!(
        keys(&report),
        BTreeSet::from([
            "local_side",
            "flows",
            "callouts",
            "packets",
            "passed",
            "blocked",
            "without_ip",
            "of_other_hosts",
            "seconds",
            "counters",
            "verifier",
            "diagnostics",
        ])
    );
    assert_eq!(report["packets"], 116);
    assert!(
        report["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0)
    );
    assert_eq!(report["verifier"], json!({"violations": [], "leaks": []}));
    let flow_keys = BTreeSet::from([
        "protocol",
        "local",
        "remote",
        "direction",
        "application",
        "host",
        "packets",
        "passed",
        "bytes",
        "verdict",
        "rule",
    ]);
    let flows = report["flows"].as_array().expect("flows is a list");
    for flow in flows {
        let mut expected = flow_keys.clone();
        expected.extend((flow["verdict"] == "block").then_some("blocked_at"));
        assert_eq!(keys(flow), expected);
        assert!(["tcp", "udp", "icmp", "icmpv6"].contains(&flow["protocol"].as_str().unwrap()));
    }
    let callouts = report["callouts"].as_array().expect("callouts is a list");
    let callout_keys = BTreeSet::from([
        "name", "layer", "id", "filtered", "classify", "permit", "block",
    ]);
    assert_eq!(callouts.len(), portcullis_proto::CALLOUTS.len());
    let ids: BTreeSet<u64> = callouts
        .iter()
        .map(|callout| callout["id"].as_u64().unwrap())
        .collect();
    assert_eq!(
        ids.len(),
        callouts.len(),
        "each callout has an id of its own"
    );
    for callout in callouts {
        assert_eq!(keys(callout), callout_keys);
    }
}

#[test]
fn the_example_policy_decides_the_recorded_flows_as_it_reads() {
    let report = report(&capture("web.pcap"), &["--policy", &example_policy()]);
    let flow = |protocol: &str, local: Value| {
        let flows = report["flows"].as_array().unwrap();
        let found = flows
            .iter()
            .find(|flow| flow["protocol"] == protocol && flow["local"] == local);
        found
            .unwrap_or_else(|| panic!("no {protocol} flow at {local}"))
            .clone()
    };
    assert_eq!(
        flow("tcp", json!(["192.0.2.10", 48704])),
        json!({
            "protocol": "tcp", "local": ["192.0.2.10", 48704], "remote": ["192.0.2.80", 443],
            "direction": "outbound", "application": "System", "host": "www.example.com",
            "packets": [8, 8], "passed": [8, 8], "bytes": [1146, 2150], "verdict": "permit", "rule": null,
        })
    );
    assert_eq!(
        flow("tcp", json!(["2001:db8::10", 33570])),
        json!({
            "protocol": "tcp", "local": ["2001:db8::10", 33570], "remote": ["2001:db8::80", 80],
            "direction": "outbound", "application": "System", "host": "ads.example.net",
            "packets": [6, 4], "passed": [2, 1], "bytes": [519, 536],
            "verdict": "block", "rule": "no advertisements", "blocked_at": "STREAM_V6",
        })
    );
    let query = flow("udp", json!(["192.0.2.10", 35955]));
    assert_eq!(
        (&query["host"], &query["verdict"]),
        (&json!("ads.example.net"), &json!("block"))
    );
    let query = flow("udp", json!(["2001:db8::10", 45140]));
    assert_eq!(
        (&query["verdict"], &query["rule"]),
        (&json!("permit"), &json!("our resolver"))
    );
    let ping = flow("icmp", json!(["192.0.2.10", 0]));
    assert_eq!(
        (&ping["packets"], &ping["host"]),
        (&json!([2, 2]), &Value::Null)
    );
}

#[test]
fn a_host_name_is_found_whatever_the_segments_and_the_family() {
    for (name, hosts) in [
        ("split-hello.pcap", vec![json!("www.example.com")]),
        (
            "openssl.pcapng",
            vec![json!("www.example.com"), Value::Null, Value::Null],
        ),
        ("loopback.pcap", vec![json!("127.0.0.1"), json!("::1")]),
        ("fragments.pcap.gz", vec![Value::Null, Value::Null]),
    ] {
        let report = report(&capture(name), &[]);
        let flows = report["flows"].as_array().unwrap();
        let found: Vec<Value> = flows.iter().map(|flow| flow["host"].clone()).collect();
        assert_eq!(found, hosts, "{name}");
    }
}

#[test]
fn fragments_count_each_and_their_datagrams_are_one_flow() {
    let report = report(&capture("fragments.pcap.gz"), &[]);
    let flows = report["flows"].as_array().unwrap();
    let counted: Vec<(&Value, &Value)> = flows
        .iter()
        .map(|flow| (&flow["packets"], &flow["bytes"]))
        .collect();
    let (ping, ping6) = (json!([4068, 4068]), json!([4152, 4152]));
    assert_eq!(counted, [(&json!([3, 3]), &ping), (&json!([3, 3]), &ping6)]);
}

#[test]
fn the_json_report_goes_to_a_file_beside_the_tables() {
    let file = scratch("report.json");
    let ran = portcullis(&["replay", &capture("openssl.pcapng"), "--json", &file]);
    assert_eq!(ran.status, 0, "{}", ran.errors);
    let text = std::fs::read_to_string(file).expect("the report was written");
    let written: Value = serde_json::from_str(&text).expect("the report is JSON");
    assert_eq!(written["packets"], 30);
    assert!(ran.output.contains("30 packets in "), "{}", ran.output);
    assert!(
        ran.output.ends_with("Verifier: no violation, no leak\n"),
        "{}",
        ran.output
    );
}

#[test]
fn the_tables_show_flows_callouts_counters_and_the_verifiers_verdict_without_colour_or_progress() {
    let ran = portcullis(&[
        "replay",
        &capture("web.pcap"),
        "--policy",
        &example_policy(),
    ]);
    assert_eq!(
        (ran.status, ran.errors.as_str()),
        (0, ""),
        "no progress bar without a terminal"
    );
    let row = |texts: &[&str]| {
        let mut lines = ran.output.lines();
        assert!(
            lines.any(|line| texts.iter().all(|text| line.contains(text))),
            "{texts:?}\n{}",
            ran.output
        );
    };
    row(&[
        "Protocol",
        "Local",
        "Remote",
        "Direction",
        "Host",
        "Packets out",
        "Bytes out",
        "Verdict",
        "Rule",
    ]);
    row(&[
        "192.0.2.10:48708",
        "192.0.2.80:443",
        "outbound",
        "ads.example.net",
        "block",
        "no advertisements",
    ]);
    row(&[
        "[2001:db8::10]:56370",
        "[2001:db8::80]:443",
        "www.example.com",
        "permit",
        "(default)",
    ]);
    row(&["stream-v4", "STREAM_V4"]);
    row(&["116 packets in ", "90 passed, 26 blocked, 0 without IP"]);
    row(&["2 streams dropped"]);
    row(&["Verifier: no violation, no leak"]);
    assert!(
        !ran.output.contains('\u{1b}'),
        "no colour without a terminal"
    );
}

#[test]
fn events_are_shown_when_asked_for() {
    let arguments = [
        "replay",
        &capture("web.pcap"),
        "--policy",
        &example_policy(),
    ];
    let without = portcullis(&arguments);
    assert!(!without.output.contains(" host-name "));
    let with = portcullis(&[&arguments[..], &["--events"]].concat());
    assert_eq!(with.status, 0);
    for event in [
        "state-changed   starting → active",
        "authorize       connect tcp 192.0.2.10:48708 192.0.2.80:443 permit by default until the host is known",
        "host-name       tcp 192.0.2.10:48708 192.0.2.80:443 host ads.example.net (tls) block by no advertisements",
        "host-name       udp 192.0.2.10:35955 192.0.2.80:53 host ads.example.net (dns) block by no advertisements",
        "flow-closed     tcp 192.0.2.10:33582 192.0.2.80:80 host intranet.example.org (http) permit by default",
    ] {
        assert!(with.output.contains(event), "{event}\n{}", with.output);
    }
}

#[test]
fn a_driver_that_leaks_is_exit_status_2_with_the_leaks_in_every_form_of_the_report() {
    let file = driver_that_frees_with("KeGetCurrentIrql", "leaky-replay.sys");
    let arguments = ["replay", &capture("openssl.pcapng"), "--driver", &file];
    let ran = portcullis(&arguments);
    assert_eq!(ran.status, 2, "{}", ran.errors);
    assert!(
        ran.output.contains("violation unload-left: "),
        "{}",
        ran.output
    );
    assert!(ran.output.contains("leak 1 × pool PcFl "), "{}", ran.output);
    let ran = portcullis(&[&arguments[..], &["--json", "-"]].concat());
    assert_eq!(ran.status, 2);
    let report: Value = serde_json::from_str(&ran.output).expect("the report is JSON");
    let violations = report["verifier"]["violations"].as_array().unwrap();
    assert_eq!(violations[0]["rule"], "unload-left");
    let leaks = report["verifier"]["leaks"].as_array().unwrap();
    assert!(
        leaks
            .iter()
            .any(|leak| leak["kind"] == "pool" && leak["name"] == "PcFl"),
        "{leaks:?}"
    );
    assert_eq!(
        report["flows"].as_array().map(Vec::len),
        Some(3),
        "the flows are reported all the same"
    );
}

/// The README shows what the demonstration prints, without the spaces at the ends of lines; only its time differs.
#[test]
fn the_readme_shows_what_the_demonstration_prints() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md"));
    let readme = readme.expect("the README");
    let (_, shown) = readme.split_once("```text\n").expect("an output");
    let (shown, _) = shown.split_once("```").expect("its end");
    let ran = portcullis(&[
        "replay",
        &capture("web.pcap"),
        "--policy",
        &example_policy(),
    ]);
    let lines = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| match line.split_once(" packets in ") {
                Some((packets, rest)) => {
                    let (_, rest) = rest.split_once(" s: ").expect("a time");
                    format!("{packets} packets: {rest}")
                }
                None => line.trim_end().to_owned(),
            })
            .collect()
    };
    assert_eq!(lines(shown), lines(&ran.output));
}
