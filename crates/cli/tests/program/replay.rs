//! What is replayed, and what comes of it: link layers, the local side, processes, processors, the capture written.

use ksim::net::packet::{Transport, tcp_flag};
use ksim::net::{Ends, Packet};
use portcullis_cli::capture::{self, Frame, LinkType};
use serde_json::{Value, json};

use crate::files::{Kept, frames, pcap, with_header};
use crate::program::{capture, example, example_policy, portcullis, report, scratch, scratch_file};

fn flows(capture: &str, options: &[&str]) -> Vec<Value> {
    let mut report = report(capture, options);
    match report["flows"].take() {
        Value::Array(flows) => flows,
        other => panic!("flows is no list: {other}"),
    }
}

#[test]
fn every_link_layer_and_file_format_gives_the_same_flows() {
    let policy = example_policy();
    let options = ["--policy", policy.as_str()];
    let expected = flows(&capture("web.pcap"), &options);
    assert_eq!(expected.len(), 17);
    let recorded = frames(&capture("web.pcap"));
    let ethernet = |tags: &[u8], kind: [u8; 2]| [&[2; 12][..], tags, &kind].concat();
    let vlan = with_header(&recorded, |kind| ethernet(&[0x81, 0, 0x60, 7], kind));
    let stacked = with_header(&recorded, |kind| {
        ethernet(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 7], kind)
    });
    let cooked = with_header(&recorded, |kind| [&[0; 14][..], &kind].concat());
    let cooked_2 = with_header(&recorded, |kind| [&kind[..], &[0; 18]].concat());
    let loopback = with_header(&recorded, |_| vec![2, 0, 0, 0]);
    let raw = with_header(&recorded, |_| Vec::new());
    for (name, link, frames) in [
        ("vlan", 1, vlan),
        ("stacked VLANs", 1, stacked),
        ("Linux cooked v1", 113, cooked),
        ("Linux cooked v2", 276, cooked_2),
        ("loopback", 0, loopback),
        ("raw IP", 101, raw),
    ] {
        let file = scratch_file(
            &format!("link-{link}-{}.pcap", name.len()),
            &pcap(link, &frames),
        );
        assert_eq!(flows(&file, &options), expected, "{name}");
    }
    let compressed = scratch("web.pcap.gz");
    let output = std::fs::File::create(&compressed).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::fast());
    let bytes = std::fs::read(capture("web.pcap")).unwrap();
    std::io::Write::write_all(&mut encoder, &bytes).unwrap();
    encoder.finish().unwrap();
    assert_eq!(flows(&compressed, &options), expected, "gzip");
    let rewritten = scratch("web.pcapng");
    assert_eq!(
        portcullis(&["replay", &capture("web.pcap"), "--write", &rewritten]).status,
        0
    );
    assert_eq!(flows(&rewritten, &options), expected, "pcapng");
}

#[test]
fn equal_endpoints_on_two_vlans_are_two_flows() {
    let recorded = frames(&capture("split-hello.pcap"));
    let on = |id: u8| {
        with_header(&recorded, |kind| {
            [&[2; 12][..], &[0x81, 0, 0, id], &kind].concat()
        })
    };
    let mut both = [on(7), on(8)].concat();
    both.sort_by_key(|frame| frame.time);
    let flows = flows(&scratch_file("two-vlans.pcap", &pcap(1, &both)), &[]);
    let counted: Vec<&Value> = flows.iter().map(|flow| &flow["packets"]).collect();
    assert_eq!(counted, [&json!([16, 16]), &json!([16, 16])]);
    assert!(flows.iter().all(|flow| flow["host"] == "www.example.com"));
}

#[test]
fn captures_are_replayed_one_after_the_other() {
    let captures = ["web.pcap", "openssl.pcapng", "fragments.pcap.gz"].map(capture);
    let ran = portcullis(&[
        "replay",
        &captures[0],
        &captures[1],
        &captures[2],
        "--json",
        "-",
    ]);
    let together: Value = serde_json::from_str(&ran.output).expect("a report");
    assert_eq!(together["packets"], 116 + 30 + 12);
    // Both have a ping in each family.
    assert_eq!(together["flows"].as_array().map(Vec::len), Some(17 + 3));
}

#[test]
fn the_local_side_is_found_out_and_said_or_given() {
    let web = capture("web.pcap");
    let found = portcullis(&["replay", &web]);
    let first = found.output.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "Local side, found in the traffic: 192.0.2.10 (public, an end of 7 flows, began 7), \
         2001:db8::10 (public, an end of 4 flows, began 4)"
    );
    let given = portcullis(&["replay", &web, "--local", "192.0.2.10"]);
    assert!(!given.output.contains("Local side"), "{}", given.output);
    assert_eq!(
        flows(
            &web,
            &["--local", "192.0.2.0/28", "--local", "2001:db8::/123"]
        ),
        flows(&web, &[]),
        "prefixes that hold the client only"
    );
}

#[test]
fn from_the_other_side_the_same_flows_come_in_and_are_blocked() {
    let policy = example_policy();
    let server = [
        "--policy",
        &policy,
        "--local",
        "192.0.2.80",
        "--local",
        "2001:db8::80",
    ];
    let flows = flows(&capture("web.pcap"), &server);
    let tcp: Vec<&Value> = flows
        .iter()
        .filter(|flow| flow["protocol"] == "tcp")
        .collect();
    assert_eq!(tcp.len(), 6);
    for flow in tcp {
        assert_eq!(flow["direction"], "inbound", "{flow}");
        assert_eq!(flow["rule"], "nothing comes in unasked", "{flow}");
        assert!(["192.0.2.80", "2001:db8::80"].contains(&flow["local"][0].as_str().unwrap()));
    }
}

#[test]
fn a_process_gives_a_flow_the_application_and_the_user_that_rules_ask_for() {
    let policy = scratch_file(
        "application.toml",
        br#"default = "permit"
[[rule]]
name = "not curl"
action = "block"
application = 'C:\Windows\*\curl.exe'
[[rule]]
name = "not Alice"
action = "block"
user = "S-1-5-21-1-2-3-1001"
"#,
    );
    let web = capture("web.pcap");
    let blocked = |options: &[&str]| -> Vec<(Value, Value)> {
        let flows = flows(&web, &[&["--policy", &policy], options].concat());
        let blocked = flows.iter().filter(|flow| flow["verdict"] == "block");
        blocked
            .map(|flow| (flow["local"][1].clone(), flow["rule"].clone()))
            .collect()
    };
    assert_eq!(blocked(&[]), []);
    let processes = [
        "--process",
        r"192.0.2.10:48704=c:\windows\System32\CURL.EXE",
        "--process",
        r"[2001:db8::10]:56370=C:\browser.exe,S-1-5-21-1-2-3-1001",
        "--process",
        r"192.0.2.10:48708=C:\browser.exe,S-1-5-21-1-2-3-1002",
    ];
    assert_eq!(
        blocked(&processes),
        [
            (json!(48704), json!("not curl")),
            (json!(56370), json!("not Alice"))
        ]
    );
}

#[test]
fn any_number_of_processors_gives_the_same_flows_and_verdicts() {
    let policy = example_policy();
    for name in [
        "web.pcap",
        "openssl.pcapng",
        "fragments.pcap.gz",
        "loopback.pcap",
    ] {
        let with = |cpus: &str| {
            let options = ["--policy", policy.as_str(), "--cpus", cpus];
            let mut flows: Vec<String> = flows(&capture(name), &options)
                .iter()
                .map(Value::to_string)
                .collect();
            flows.sort();
            flows
        };
        let one = with("1");
        assert_eq!(with("4"), one, "{name}");
        assert_eq!(with("3"), one, "{name}");
    }
}

/// Whether `frame` belongs to the flow of a report.
fn belongs(frame: &Kept, flow: &Value) -> bool {
    let Kept {
        link,
        time,
        original_length,
        data,
    } = frame;
    let (link, time, original_length) = (*link, *time, *original_length);
    let frame = Frame {
        link,
        time,
        original_length,
        data,
    };
    let Some(ends) = capture::ip_packet(&frame).ok().and_then(Ends::of) else {
        return false;
    };
    let number = match flow["protocol"].as_str() {
        Some("tcp") => 6,
        Some("udp") => 17,
        Some("icmp") => 1,
        Some("icmpv6") => 58,
        other => panic!("protocol {other:?}"),
    };
    let end = |end: (std::net::IpAddr, u16)| json!([end.0, end.1]);
    let ends_are = |one: &str, other: &str| {
        flow[one] == end(ends.source) && flow[other] == end(ends.destination)
    };
    ends.protocol == number && (ends_are("local", "remote") || ends_are("remote", "local"))
}

/// Whether an Ethernet frame is a segment with TCP's RST.
pub(crate) fn resets(frame: &[u8]) -> bool {
    let packet = Packet::parse(&frame[14..]).expect("an IP packet");
    matches!(packet.transport, Transport::Tcp(tcp) if tcp.has(tcp_flag::RST))
}

#[test]
fn the_capture_written_leaves_out_each_blocked_packet_and_keeps_each_other_byte_for_byte() {
    let (web, policy, file) = (
        capture("web.pcap"),
        example_policy(),
        scratch("passed.pcapng"),
    );
    let report = report(&web, &["--policy", &policy, "--write", &file]);
    let flows = report["flows"].as_array().unwrap();
    // Where a connection was dropped the other end got a reset.
    let (resets, written): (Vec<_>, Vec<_>) = frames(&file)
        .into_iter()
        .partition(|frame| resets(&frame.data));
    assert_eq!((resets.len(), written.len()), (2, 90));
    let mut kept = written.iter().peekable();
    let mut left_out = Vec::new();
    for frame in frames(&web) {
        if kept.next_if(|next| **next == frame).is_none() {
            left_out.push(frame);
        }
    }
    assert_eq!(
        kept.next(),
        None,
        "what was written is the capture, in its order, with frames left out"
    );
    for frame in &left_out {
        let mut of = flows.iter().filter(|flow| belongs(frame, flow));
        assert!(
            of.any(|flow| flow["verdict"] == "block"),
            "left out of a flow that was permitted: {frame:?}"
        );
    }
    let says = |frame: &Kept, text: &[u8]| frame.data.windows(text.len()).any(|part| part == text);
    // As an HTTP host, in a DNS question, and as a TLS server name; the server's certificate has it as well.
    let names: [&[u8]; 3] = [
        b"Host: ads.example.net",
        b"\x03ads\x07example\x03net",
        b"\0\0\x0fads.example.net",
    ];
    assert!(
        names
            .iter()
            .all(|name| left_out.iter().any(|frame| says(frame, name)))
    );
    assert!(
        !names
            .iter()
            .any(|name| written.iter().any(|frame| says(frame, name))),
        "a blocked name passed"
    );
    // A connection that was dropped for its host ends where the host became known; its handshake passed.
    let dropped = flows
        .iter()
        .find(|flow| flow["local"] == json!(["2001:db8::10", 33570]))
        .unwrap();
    assert_eq!(
        written
            .iter()
            .filter(|frame| belongs(frame, dropped))
            .count(),
        3
    );
}

#[test]
fn without_a_block_the_capture_written_is_the_capture_whatever_its_link_layer() {
    for name in ["loopback.pcap", "openssl.pcapng", "fragments.pcap.gz"] {
        let file = scratch(&format!("copy-of-{name}.pcapng"));
        assert_eq!(
            portcullis(&["replay", &capture(name), "--write", &file]).status,
            0
        );
        assert_eq!(frames(&file), frames(&capture(name)), "{name}");
    }
    let several = scratch("copy-of-two.pcapng");
    let captures = [capture("loopback.pcap"), capture("openssl.pcapng")];
    assert_eq!(
        portcullis(&["replay", &captures[0], &captures[1], "--write", &several]).status,
        0
    );
    let both = [frames(&captures[0]), frames(&captures[1])].concat();
    assert!(
        both.iter().any(|frame| frame.link != both[0].link),
        "two link layers"
    );
    assert_eq!(frames(&several), both);
}

#[test]
fn frames_without_ip_pass_and_are_counted() {
    let mut recorded = frames(&capture("openssl.pcapng"));
    let arp = Kept {
        link: LinkType(1),
        time: recorded[0].time,
        original_length: 14,
        data: [&[0xff; 6][..], &[2; 6], &[0x08, 0x06]].concat(),
    };
    recorded.insert(3, arp.clone());
    let (with_arp, file) = (
        scratch_file("arp.pcap", &pcap(1, &recorded)),
        scratch("arp-passed.pcapng"),
    );
    let ran = portcullis(&[
        "replay",
        &with_arp,
        "--policy",
        &example_policy(),
        "--write",
        &file,
    ]);
    assert!(
        ran.output.contains("31 passed, 0 blocked, 1 without IP"),
        "{}",
        ran.output
    );
    assert_eq!(frames(&file)[3].data, arp.data);
}

#[test]
fn a_capture_that_stops_in_the_middle_of_a_frame_is_replayed_up_to_there() {
    let bytes = std::fs::read(capture("web.pcap")).unwrap();
    let file = scratch_file("stopped.pcap", &bytes[..5_000]);
    let replayed = report(&file, &[]);
    let whole = frames(&file);
    assert_eq!(whole, frames(&capture("web.pcap"))[..whole.len()]);
    assert_eq!(replayed["packets"], whole.len());
    assert!(
        whole
            .iter()
            .all(|frame| Packet::parse(&frame.data[14..]).is_ok_and(|packet| !packet.is_cut()))
    );
}

#[test]
fn a_replay_shows_where_connections_were_to_go_and_where_they_go() {
    let policy = crate::program::example("proxy.toml");
    let flows = flows(&capture("web.pcap"), &["--policy", &policy]);
    let (web, other): (Vec<&Value>, Vec<&Value>) = flows.iter().partition(|flow| {
        flow["protocol"] == "tcp" && [json!(80), json!(443)].contains(&flow["remote"][1])
    });
    assert_eq!(web.len(), 5);
    for flow in web {
        let here = if flow["remote"][0].as_str().unwrap().contains(':') {
            json!(["::1", 8080])
        } else {
            json!(["127.0.0.1", 8080])
        };
        assert_eq!(flow["redirected_to"], here, "{flow}");
        assert_eq!(flow["rule"], "web through the proxy");
        assert_eq!(flow["verdict"], "permit");
    }
    assert!(other.iter().all(|flow| flow.get("redirected_to").is_none()));
    let shown = portcullis(&["replay", &capture("web.pcap"), "--policy", &policy]);
    assert!(shown.output.contains("Redirected to"), "{}", shown.output);
    assert!(shown.output.contains("[::1]:8080"), "{}", shown.output);
}

#[test]
fn what_a_rule_translates_has_passed_and_is_in_no_flow_of_its_own() {
    let policy = scratch_file(
        "translate.toml",
        b"default = 'permit'
        [[rule]]
        action = 'permit'
        remote_address = '192.0.2.80'
        remote_port = 53
        translate = '192.0.2.81:5353'",
    );
    let ends = |options: &[&str]| -> Vec<Value> {
        let flows = flows(&capture("web.pcap"), options).into_iter();
        flows
            .map(|flow| json!([flow["local"], flow["remote"], flow["packets"]]))
            .collect()
    };
    assert_eq!(ends(&["--policy", &policy]), ends(&[]));
    let shown = portcullis(&["replay", &capture("web.pcap"), "--policy", &policy]);
    for line in ["116 passed, 0 blocked", "  8 packets changed"] {
        assert!(shown.output.contains(line), "{}", shown.output);
    }
}

#[test]
fn the_example_for_shaping_changes_delays_and_limits_what_it_says() {
    let written = scratch("shaped.pcapng");
    let updater = r"--process=192.0.2.10:33582=C:\Program Files\Example\updater.exe";
    let shown = portcullis(&[
        "replay",
        &capture("web.pcap"),
        "--policy",
        &example("shaping.toml"),
        "--write",
        &written,
        updater,
    ]);
    for rule in [
        "the resolver has moved",
        "updates take their time",
        "as from the other side",
    ] {
        assert!(shown.output.contains(rule), "{}", shown.output);
    }
    let count = |counter: &str| {
        let mut lines = shown.output.lines();
        lines.find_map(|line| {
            line.trim()
                .strip_suffix(counter)?
                .trim()
                .parse::<u32>()
                .ok()
        })
    };
    assert!(count("packets changed") >= Some(8), "{}", shown.output);
    // A round trip takes that long in the recording now.
    assert!(count("packets delayed") >= Some(20), "{}", shown.output);
    assert!(!frames(&written).is_empty());
}

#[test]
fn rules_by_interface_decide_the_traffic_of_a_host_with_interfaces() {
    let policy = example("kill-switch.toml");
    let tunnel = "--interface=Tunnel=virtual,2001:db8::10";
    let flows = flows(&capture("web.pcap"), &["--policy", &policy, tunnel]);
    let (mut inside, mut outside) = (0, 0);
    for flow in flows {
        let is_inside = flow["interface"] == "Tunnel";
        assert_eq!(is_inside, flow["local"][0] == "2001:db8::10", "{flow}");
        let is_ours = flow["rule"] == "through the tunnel" && flow["verdict"] == "permit";
        let is_neighbour = flow["rule"] == "neighbours";
        assert!(is_ours == is_inside, "{flow}");
        assert!(
            is_inside || is_neighbour || flow["verdict"] == "block",
            "{flow}"
        );
        inside += usize::from(is_inside);
        outside += usize::from(flow["verdict"] == "block");
    }
    assert_eq!((inside, outside), (5, 7));
}

#[test]
fn an_interface_that_nobody_named_is_an_error_with_its_place() {
    let (policy, capture) = (example("kill-switch.toml"), capture("web.pcap"));
    for named in [None, Some("--interface=Tunel=virtual")] {
        let mut arguments = vec!["replay", &capture, "--policy", &policy];
        arguments.extend(named);
        let ran = portcullis(&arguments);
        assert_eq!(ran.status, 1);
        assert!(
            ran.errors.contains("there is no interface \"Tunnel\""),
            "{}",
            ran.errors
        );
        assert!(ran.errors.contains(&format!("{policy}:")), "{}", ran.errors);
    }
    let ran = portcullis(&["replay", &capture, "--interface=Tunnel=vpn"]);
    assert_eq!(ran.status, 1);
    assert!(
        ran.errors.contains("\"vpn\" is no type of interfaces"),
        "{}",
        ran.errors
    );

    let blob = scratch("kill-switch.blob");
    let compile = ["policy", "compile", &policy, "-o", &blob];
    assert_eq!(portcullis(&compile).status, 1);
    let luid = "--interface=Tunnel=0x35000004000000";
    let compiled = portcullis(&[&compile[..], &[luid]].concat());
    assert_eq!(compiled.status, 0, "{}", compiled.errors);
}
