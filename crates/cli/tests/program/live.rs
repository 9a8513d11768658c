//! What the driver captures, as `portcullis capture` writes it.

use std::path::Path;
use std::process::Command;

use crate::annotate::packets;
use crate::program::{capture, example_policy, portcullis, scratch};

/// Runs `portcullis capture` on the web capture.
fn live(name: &str, arguments: &[&str]) -> (String, String) {
    let file = scratch(name);
    let input = capture("web.pcap");
    let policy = example_policy();
    let mut all = vec![
        "capture", "-w", &file, "--replay", &input, "--policy", &policy,
    ];
    all.extend(arguments);
    let ran = portcullis(&all);
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
    (file, ran.output)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn what_the_driver_captured_is_in_the_file_each_packet_with_its_verdict() {
    let (file, text) = live("live-all.pcapng", &["--json", "-"]);
    let report = json(&text);
    let written = packets(&file);
    assert_eq!(report["packets"], written.len());
    assert_eq!(report["dropped"], 0);
    assert!(written.iter().all(|(_, comment)| !comment.is_empty()));
    let by = |rule: &str| {
        let text = format!("block by rule \"{rule}\"");
        written
            .iter()
            .filter(|(_, comment)| comment.contains(&text))
            .count()
    };
    let blocked = report["blocked_by"].as_object().expect("an object");
    assert!(!blocked.is_empty());
    for (rule, count) in blocked {
        assert!(
            by(rule) as u64 >= count.as_u64().expect("a number"),
            "{rule}"
        );
    }
    assert!(!Path::new(&format!("{file}.partial")).exists());
}

#[test]
fn options_bound_what_is_captured() {
    let (file, _) = live(
        "live-few.pcapng",
        &[
            "--protocol",
            "tcp",
            "--port",
            "443",
            "--snap",
            "60",
            "--count",
            "5",
        ],
    );
    let written = packets(&file);
    assert_eq!(written.len(), 5);
    for (packet, _) in written {
        assert!(packet.len() <= 60);
        // TCP over IPv4 or IPv6.
        let protocol = if packet[0] >> 4 == 4 {
            packet[9]
        } else {
            packet[6]
        };
        assert_eq!(protocol, 6);
    }
}

#[test]
fn mistakes_are_named_and_leave_no_file() {
    let input = capture("web.pcap");
    let file = scratch("live-none.pcapng");
    drop(std::fs::remove_file(&file));
    let nowhere = scratch("no-such-folder") + "/out.pcapng";
    for (output, arguments, expected) in [
        (&file, vec!["--address", "10.0.0.0/33"], "0 to 32 bits"),
        (&file, vec!["--port", "9-1"], "no port is from 9 to 1"),
        (&file, vec!["--protocol", "quic"], "tcp, udp, icmp"),
        (
            &file,
            vec!["--policy", "no-such-policy.toml"],
            "no-such-policy.toml",
        ),
        (&file, ["--port", "1"].repeat(9), "at most 8 times"),
        (&nowhere, vec![], "no-such-folder"),
    ] {
        let mut all = vec!["capture", "-w", output, "--replay", &input];
        all.extend(arguments);
        let ran = portcullis(&all);
        assert_eq!(ran.status, 1);
        assert!(ran.errors.contains(expected), "{}", ran.errors);
    }
    for name in [file.clone(), format!("{file}.partial")] {
        assert!(!Path::new(&name).exists(), "{name}");
    }
}

#[test]
fn without_something_to_replay_the_driver_of_this_machine_is_meant() {
    let file = scratch("live-device.pcapng");
    drop(std::fs::remove_file(&file));
    for (arguments, instead) in [
        (&["capture", "-w", &file][..], "--replay CAPTURE"),
        (&["ask"], "name captures to replay"),
    ] {
        let ran = portcullis(arguments);
        assert_eq!(ran.status, 1);
        let expected = "error: the driver runs on Windows, and this is another system: ";
        assert!(ran.errors.starts_with(expected), "{}", ran.errors);
        assert!(ran.errors.contains(instead), "{}", ran.errors);
    }
    assert!(!Path::new(&file).exists());
    // Options of a replay mean nothing without one.
    let ran = portcullis(&["capture", "-w", &file, "--cpus", "2"]);
    assert_eq!(ran.status, 1);
    assert!(ran.errors.contains("--replay <CAPTURE>"), "{}", ran.errors);
}

/// What `tshark` says of a file's packets: its own number of each, its length, its interface and its comment. `None` where
/// it is not installed, which is told.
fn tshark(file: &str) -> Option<Vec<[String; 4]>> {
    let program = std::env::var("PORTCULLIS_TSHARK").unwrap_or_else(|_| "tshark".to_owned());
    let fields = [
        "frame.number",
        "frame.cap_len",
        "frame.interface_name",
        "frame.comment",
    ];
    let mut command = Command::new(program);
    // Nothing is looked up, and no protocol is guessed wrong: what matters is the file.
    command.args(["-n", "-r", file, "-T", "fields", "-E", "separator=/t"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let Ok(output) = command.output() else {
        println!("SKIPPED: tshark is not installed, nor named by PORTCULLIS_TSHARK");
        return None;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows = lines.lines().map(|line| {
        let mut parts = line.splitn(4, '\t').map(ToOwned::to_owned);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    });
    Some(rows.collect())
}

#[test]
fn tshark_reads_the_file_and_finds_the_same_packets_and_verdicts() {
    let (file, text) = live("live-tshark.pcapng", &["--json", "-"]);
    let report = json(&text);
    let written = packets(&file);
    let Some(rows) = tshark(&file) else { return };
    assert_eq!(rows.len(), written.len());
    assert_eq!(report["packets"], rows.len());
    for (number, (row, (packet, comment))) in (1..).zip(rows.iter().zip(&written)) {
        let [frame, length, interface, told] = row;
        assert_eq!(frame.parse(), Ok(number));
        assert_eq!(length.parse(), Ok(packet.len()), "packet {number}");
        assert_eq!(told, comment, "packet {number}");
        let is_rebuilt = comment.contains("put together from what is known");
        let expected = if is_rebuilt {
            "portcullis-blocked"
        } else {
            "portcullis"
        };
        assert_eq!(interface, expected, "packet {number}: {comment}");
    }
    let blocked = report["blocked_by"].as_object().expect("an object");
    for rule in blocked.keys() {
        let verdict = format!("block by rule \"{rule}\"");
        assert!(rows.iter().any(|row| row[3].contains(&verdict)), "{rule}");
    }
}

#[test]
fn tshark_reads_an_annotated_replay() {
    let file = scratch("annotated-tshark.pcapng");
    let (input, policy) = (capture("web.pcap"), example_policy());
    let ran = portcullis(&["replay", &input, "--policy", &policy, "--annotate", &file]);
    assert_eq!((ran.status, ran.errors.as_str()), (0, ""));
    let written = packets(&file);
    let Some(rows) = tshark(&file) else { return };
    assert_eq!(rows.len(), written.len());
    for (row, (packet, comment)) in rows.iter().zip(&written) {
        assert_eq!((row[1].parse(), &row[3]), (Ok(packet.len()), comment));
    }
}
