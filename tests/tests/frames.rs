//! The frames of a capture come by the layers of the data link.

use std::ops::ControlFlow;
use std::path::Path;

use ksim::net::{LocalSide, Setup};
use ksim::{Config, Kernel};
use portcullis_cli::capture::{self, Frame, LinkType};
use portcullis_cli::replay::{Fate, FrameReport, Shard};
use portcullis_tests::product::Product;
use wfp_engine::{Condition, ConditionValue};
use wfp_schema::{Action, FilterFlags, Layer, LayerId, LayerKind, condition};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

fn id(kind: LayerKind) -> LayerId {
    Layer::unversioned(kind).expect("a layer").id()
}

/// The frames of tests/captures/web.pcap, and an ARP question of the host's.
fn frames() -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/web.pcap");
    let mut frames = Vec::new();
    capture::read(&file, |frame| {
        assert_eq!(frame.link, LinkType::ETHERNET);
        frames.push(frame.data.to_vec());
        ControlFlow::Continue(())
    })
    .expect("the capture");
    let mut question = frames
        .iter()
        .find(|frame| ether_type(frame) == IPV4)
        .expect("an IPv4 frame")
        .clone();
    question[12..14].copy_from_slice(&ARP.to_be_bytes());
    question.truncate(42);
    frames.push(question);
    frames
}

fn ether_type(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

/// What becomes of the frames of the capture where a product blocks frames of a type at a layer.
fn replay(kind: LayerKind, blocked: u16) -> Vec<(u16, FrameReport)> {
    let kernel = Kernel::new(&Config::default()).expect("a machine");
    let product = Product::new(&kernel, 0x8000);
    let of_type = Condition::equal(condition::ETHER_TYPE, ConditionValue::Uint16(blocked));
    product.add_filter(id(kind), Action::Block, FilterFlags::NONE, vec![of_type]);
    let frames = frames();
    let local = LocalSide::discover(
        frames
            .iter()
            .filter_map(|frame| ksim::net::Ends::of(frame.get(14..)?)),
    )
    .local;
    let mut reports = kernel
        .on(0, |cpu| {
            let setup = Setup {
                local: local.clone(),
                ..Setup::default()
            };
            let mut shard = Shard::new(cpu, setup);
            for (number, data) in frames.iter().enumerate() {
                let frame = Frame {
                    link: LinkType::ETHERNET,
                    time: number as u64 * 1_000_000,
                    original_length: u32::try_from(data.len()).expect("short"),
                    data,
                };
                shard.frame(number as u64, &frame);
                shard.settle(cpu);
            }
            shard.finish(cpu);
            shard.take_frames()
        })
        .expect("no bug check");
    reports.sort_by_key(|report| report.number);
    assert_eq!(reports.len(), frames.len(), "a report for each");
    frames
        .iter()
        .map(|frame| ether_type(frame))
        .zip(reports)
        .collect()
}

#[test]
fn a_filter_at_the_layers_of_mac_frames_decides_about_a_captures_frames() {
    for (kind, other) in [
        (
            LayerKind::InboundMacFrameEthernet,
            LayerKind::OutboundMacFrameEthernet,
        ),
        (
            LayerKind::OutboundMacFrameEthernet,
            LayerKind::InboundMacFrameEthernet,
        ),
    ] {
        for blocked in [IPV4, IPV6] {
            let here = replay(kind, blocked);
            let there = replay(other, blocked);
            let mut counted = [0, 0];
            for ((is, report), (_, reverse)) in here.iter().zip(&there) {
                let by_filter = report.blocked_at == Some(id(kind));
                if by_filter {
                    assert_eq!((*is, report.fate), (blocked, Fate::Blocked));
                    assert_ne!(reverse.blocked_at, Some(id(other)), "one way only");
                    counted[0] += 1;
                } else if *is == blocked && report.fate == Fate::Passed {
                    counted[1] += 1;
                }
            }
            assert!(counted[0] > 0, "{kind:?} stops {blocked:#x}: {counted:?}");
        }
    }
}

#[test]
fn frames_without_ip_are_shown_too() {
    let arp = |reports: &[(u16, FrameReport)]| reports.last().expect("the last frame").1.fate;
    let passed = replay(LayerKind::OutboundMacFrameEthernet, IPV6);
    assert_eq!(arp(&passed), Fate::NotIp);
    let out = replay(LayerKind::OutboundMacFrameEthernet, ARP);
    let come = replay(LayerKind::InboundMacFrameEthernet, ARP);
    let stopped = [arp(&out), arp(&come)];
    let blocked = stopped.iter().filter(|fate| **fate == Fate::Blocked);
    assert_eq!(blocked.count(), 1, "it went one way: {stopped:?}");
}
