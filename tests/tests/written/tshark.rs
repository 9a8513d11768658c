//! What `tshark` makes of a written capture, where it is installed.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;

use portcullis_tests::sweep::Sample;

use super::reader::{Frame, streams};
use super::streams::changed;
use super::{Replayed, own};

fn hex(data: &[u8]) -> String {
    let mut text = String::new();
    for byte in data {
        write!(text, "{byte:02x}").expect("memory");
    }
    text
}

/// Runs `tshark` on a file. `None` where it is not installed, which is told.
fn tshark(file: &std::path::Path, arguments: &[&str]) -> Option<String> {
    let program = std::env::var("PORTCULLIS_TSHARK").unwrap_or_else(|_| "tshark".to_owned());
    let mut command = Command::new(program);
    command.arg("-n").arg("-r").arg(file).args(arguments);
    let Ok(output) = command.output() else {
        println!("SKIPPED: tshark is not installed, nor named by PORTCULLIS_TSHARK");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// When a packet was, and between which ends, as `tshark` prints it.
fn ends(frame: &Frame) -> String {
    let packet = &frame.packet;
    let [source, destination] = if packet[0] >> 4 == 4 {
        [12, 16].map(|at| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four")))
    } else {
        [8, 24].map(|at| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen")))
    };
    let (seconds, rest) = (frame.time / 1_000_000_000, frame.time % 1_000_000_000);
    format!("{seconds}.{rest:09} {source} {destination}")
}

/// `tshark` reads the packets that the tests read, each well-formed, in their order. Under further answers to open questions it
/// is not asked again.
pub(crate) fn agrees(replayed: &Replayed) {
    if !Sample::named().is_all() {
        return;
    }
    let fields = [
        "frame.time_epoch",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
    ];
    // Of an ICMP error the outer addresses.
    let mut arguments = vec!["-Y", "ip || ipv6", "-T", "fields", "-E", "occurrence=f"];
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let Some(read) = tshark(&replayed.file, &arguments) else {
        return;
    };
    let read: Vec<String> = read
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected: Vec<String> = replayed.after.iter().map(ends).collect();
    assert_eq!(read, expected);
    let malformed = tshark(&replayed.file, &["-Y", "_ws.malformed"]);
    assert_eq!(malformed.as_deref(), Some(""));
}

#[test]
fn tshark_finds_no_fault_in_changed_streams_and_follows_each_to_its_end() {
    for name in ["web.pcap", "openssl.pcapng"] {
        let replayed = changed("tshark", &own(name));
        let faults = "tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment || \
                      tcp.analysis.retransmission || tcp.analysis.out_of_order || \
                      tcp.analysis.duplicate_ack";
        let arguments = ["-Y", faults];
        let Some(found) = tshark(&replayed.file, &arguments) else {
            return;
        };
        assert_eq!(found, "", "{name}");
        let numbers = tshark(
            &replayed.file,
            &["-Y", "tcp", "-T", "fields", "-e", "tcp.stream"],
        );
        let numbers = numbers.expect("it was there before");
        let last = numbers
            .lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .max();
        let follow: Vec<String> = (0..=last.expect("streams"))
            .flat_map(|number| ["-z".to_owned(), format!("follow,tcp,raw,{number}")])
            .collect();
        let mut arguments = vec!["-q"];
        arguments.extend(follow.iter().map(String::as_str));
        let text = tshark(&replayed.file, &arguments).expect("it was there before");
        // What the second end says is indented.
        let mut followed: Vec<String> = text
            .split("Filter: tcp.stream")
            .skip(1)
            .flat_map(|stream| {
                [false, true].map(|indented| {
                    let lines = stream.lines().filter(|line| {
                        line.starts_with('\t') == indented
                            && line.trim().bytes().all(|byte| byte.is_ascii_hexdigit())
                    });
                    lines.map(str::trim).collect::<String>()
                })
            })
            .collect();
        let streams = streams(&replayed.after);
        let mut written: Vec<String> = streams.values().map(|stream| hex(&stream.data)).collect();
        followed.sort();
        written.sort();
        assert_eq!(followed, written, "{name}");
    }
}
