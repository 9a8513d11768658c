//! Captures with what was decided about each packet as its comment.

use pcap_parser::{Block, OptionCode, PcapNGReader, traits::PcapReaderIterator as _};

use crate::program::{capture, example_policy, report, scratch};
use crate::replay::resets;

/// The packets of a pcapng file with their comments.
pub(crate) fn packets(file: &str) -> Vec<(Vec<u8>, String)> {
    let mut reader = PcapNGReader::new(1 << 16, std::fs::File::open(file).unwrap()).unwrap();
    let mut packets = Vec::new();
    loop {
        match reader.next() {
            Ok((size, block)) => {
                if let pcap_parser::PcapBlockOwned::NG(Block::EnhancedPacket(packet)) = block {
                    let comment = packet
                        .options
                        .iter()
                        .find(|option| option.code == OptionCode::Comment);
                    let comment = comment
                        .and_then(|option| option.as_str().ok())
                        .unwrap_or_default();
                    let length = packet.caplen as usize;
                    packets.push((packet.data[..length].to_vec(), comment.to_owned()));
                }
                reader.consume(size);
            }
            Err(pcap_parser::PcapError::Eof) => return packets,
            Err(pcap_parser::PcapError::Incomplete(_)) => reader.refill().unwrap(),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn each_packet_says_whether_it_passed_where_it_was_blocked_and_by_which_rule() {
    for cpus in ["1", "3"] {
        let (passed, annotated) = (
            scratch(&format!("annotate-passed-{cpus}.pcapng")),
            scratch(&format!("annotate-all-{cpus}.pcapng")),
        );
        let report = report(
            &capture("web.pcap"),
            &[
                "--policy",
                &example_policy(),
                "--write",
                &passed,
                "--annotate",
                &annotated,
                "--cpus",
                cpus,
            ],
        );
        let all = packets(&annotated);
        let flows = report["flows"].as_array().unwrap();
        let counted: u64 = flows
            .iter()
            .map(|flow| flow["packets"][0].as_u64().unwrap() + flow["packets"][1].as_u64().unwrap())
            .sum();
        assert_eq!(all.len() as u64, counted);
        let kept: Vec<_> = all
            .iter()
            .filter(|(_, comment)| comment.starts_with("passed"))
            .collect();
        let mut written = packets(&passed);
        // Where a connection was dropped the other end got a reset, which is no frame of the capture.
        written.retain(|(data, _)| !resets(data));
        assert_eq!(
            kept.iter().map(|(data, _)| data).collect::<Vec<_>>(),
            written.iter().map(|(data, _)| data).collect::<Vec<_>>()
        );
        assert!(written.iter().all(|(_, comment)| comment.is_empty()));

        // What a comment says of the flow is what the report says.
        for (_, comment) in &all {
            let (_, flow) = comment
                .split_once("; flow ")
                .expect("every packet has a flow");
            let (index, rest) = flow.split_once(": ").unwrap();
            let flow = &flows[index.parse::<usize>().unwrap()];
            assert!(
                rest.starts_with(flow["verdict"].as_str().unwrap()),
                "{comment}"
            );
            if let Some(host) = flow["host"].as_str() {
                assert!(rest.contains(&format!(", host {host}")), "{comment}");
            }
            if let Some(rule) = flow["rule"].as_str() {
                assert!(rest.contains(&format!("by rule \"{rule}\"")), "{comment}");
            }
        }
        let says = |text: &str| all.iter().any(|(_, comment)| comment.starts_with(text));
        assert!(says("blocked at ALE_AUTH_RECV_ACCEPT_V6; flow "));
        assert!(says("blocked at STREAM_V6; flow "));
        assert!(says("blocked at DATAGRAM_DATA_V4; flow "));
    }
}
