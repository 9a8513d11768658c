//! Streams: what stream callouts see and what becomes of their answers.

use std::net::{IpAddr, Ipv6Addr};

use wfp_engine::Options;
use wfp_schema::{
    Action, ClassifyOutFlags, Direction, FilterFlags, IpVersion, LayerId, LayerKind, StreamAction,
    StreamFlags,
};

use super::support::{Classify, Driver, at, behave, into, layer, run, run_clean, v4};
use crate::access::Out;
use crate::fwp::Config;
use crate::fwp::flow::FwpsFlowAssociateContext0;
use crate::fwp::layout::kernel::{RawStreamData, RawStreamPacket};
use crate::fwp::nbl::{
    FwpsCloneStreamData0, FwpsCopyStreamDataToBuffer0, FwpsDiscardClonedStreamData0,
};
use crate::ndis::MdlLayout;
use crate::ndis::chain;
use crate::net::{End, Filtering, FlowInfo, StageId, StreamOutcome, StreamSegment, Verdict};
use crate::verifier::{ARGUMENT, CLASSIFY_ACTION};

const TEXT: &[u8] = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";

fn flow(driver: &mut Driver<'_>) -> u64 {
    let end = |last, port| End {
        address: IpAddr::V4([192, 0, 2, last].into()),
        port,
    };
    driver.filtering.flow_created(&FlowInfo {
        version: IpVersion::V4,
        protocol: 6,
        direction: Direction::Outbound,
        local: end(1, 50_000),
        remote: end(2, 80),
    })
}

fn stages(driver: &mut Driver<'_>, layer: LayerId, flow: u64) -> Vec<StageId> {
    let mut stages = Vec::new();
    driver.filtering.stream_stages(layer, flow, &mut stages);
    stages
}

const fn segment(stage: StageId, flags: StreamFlags, bytes: &[u8]) -> StreamSegment<'_> {
    StreamSegment {
        stage,
        flags,
        bytes,
        missed_bytes: 0,
        out_flags: ClassifyOutFlags::NONE,
    }
}

fn packet(classify: &Classify<'_>) -> (RawStreamPacket, RawStreamData) {
    let packet = classify
        .layer_data::<RawStreamPacket>()
        .get()
        .expect("stream layers have data");
    (packet, packet.data.get().expect("streamData"))
}

fn copied(data: &RawStreamData) -> Vec<u8> {
    let mut buffer = vec![0; data.length + 1];
    let mut copied = 0;
    // SAFETY: written during the call only.
    let to = unsafe { Out::new(buffer.as_mut_ptr()) };
    FwpsCopyStreamDataToBuffer0(at(data), to, buffer.len(), into(&mut copied));
    buffer.truncate(copied);
    buffer
}

/// Sends a piece through the only stage, whose callout behaves so.
fn answer(
    action: Action,
    segment_flags: StreamFlags,
    bytes: &[u8],
    behaviour: fn(&mut Classify<'_>, &mut RawStreamPacket),
) -> (StreamOutcome, Vec<&'static str>) {
    answer_under(Options::default(), action, segment_flags, bytes, behaviour)
}

fn answer_under(
    options: Options,
    action: Action,
    segment_flags: StreamFlags,
    bytes: &[u8],
    behaviour: fn(&mut Classify<'_>, &mut RawStreamPacket),
) -> (StreamOutcome, Vec<&'static str>) {
    let mut outcome = StreamOutcome::PERMIT;
    let config = Config {
        options,
        ..Config::default()
    };
    let report = run(config, |driver| {
        let stream = v4(LayerKind::Stream);
        driver.filtered(stream, action);
        let flow = flow(driver);
        behave(move |classify| {
            let at = classify.layer_data::<RawStreamPacket>();
            let mut packet = at.get().expect("stream layers have data");
            behaviour(classify, &mut packet);
            at.set(packet);
        });
        let stage = stages(driver, stream, flow)[0];
        outcome = driver.classify_stream(stream, flow, &segment(stage, segment_flags, bytes));
        driver.filtering.flow_ended(flow);
    });
    assert!(report.leaks.is_empty(), "{report:#?}");
    (
        outcome,
        report
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect(),
    )
}

#[test]
fn the_data_is_found_in_the_chain_and_copied_and_cloned() {
    let layouts = (0..200).map(MdlLayout::Seeded).chain([MdlLayout::Whole]);
    for mdl_layout in layouts {
        run_clean(
            Config {
                mdl_layout,
                ..Config::default()
            },
            |driver| {
                let stream = v4(LayerKind::Stream);
                let callout = driver.filtered(stream, Action::CalloutInspection);
                let flow = flow(driver);
                assert_eq!(
                    FwpsFlowAssociateContext0(flow, stream.get(), callout, 0xf10),
                    0
                );
                behave(|classify| {
                    assert_eq!(classify.flow_context, 0xf10);
                    let (packet, data) = packet(classify);
                    assert_eq!(
                        (packet.bytes_required, packet.bytes_enforced, packet.action),
                        (0, 0, 0)
                    );
                    assert_eq!(packet.missed_bytes, 0);
                    assert_eq!(data.flags, StreamFlags::SEND.bits());
                    assert_eq!(data.length, TEXT.len());
                    assert_eq!(copied(&data), TEXT);
                    let mut first = Out::null();
                    assert_eq!(
                        FwpsCloneStreamData0(
                            into(&mut { data }).as_in(),
                            0,
                            0,
                            0,
                            into(&mut first)
                        ),
                        0
                    );
                    let mut cloned = Vec::new();
                    for (_, list) in chain::lists(first) {
                        for (_, buffer) in chain::buffers(&list) {
                            cloned.extend(chain::bytes_of(&buffer));
                        }
                    }
                    assert_eq!(cloned, TEXT);
                    FwpsDiscardClonedStreamData0(first, 0, 1);
                });
                let stage = stages(driver, stream, flow)[0];
                let outcome =
                    driver.classify_stream(stream, flow, &segment(stage, StreamFlags::SEND, TEXT));
                assert_eq!(outcome, StreamOutcome::PERMIT);
                driver.filtering.flow_ended(flow);
            },
        );
    }
}

#[test]
fn more_than_a_packets_worth_is_one_indication() {
    run_clean(
        Config {
            mdl_layout: MdlLayout::Seeded(1),
            ..Config::default()
        },
        |driver| {
            let stream = v4(LayerKind::Stream);
            driver.filtered(stream, Action::CalloutInspection);
            let flow = flow(driver);
            let bytes: Vec<u8> = (0..3_000_000_u32)
                .map(|byte| byte.to_le_bytes()[0] ^ byte.to_le_bytes()[1])
                .collect();
            let wanted = bytes.clone();
            behave(move |classify| assert!(copied(&packet(classify).1) == wanted));
            let stage = stages(driver, stream, flow)[0];
            driver.classify_stream(stream, flow, &segment(stage, StreamFlags::RECEIVE, &bytes));
            driver.filtering.flow_ended(flow);
        },
    );
}

#[test]
fn the_end_of_a_direction_has_no_data() {
    let fin = StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT;
    // STR-08
    let (outcome, rules) = answer(Action::CalloutInspection, fin, &[], |classify, _| {
        let (_, data) = packet(classify);
        assert_eq!((data.flags, data.length), (0x5, 0));
        assert!(copied(&data).is_empty());
    });
    assert_eq!((outcome, rules), (StreamOutcome::PERMIT, Vec::new()));
}

#[test]
fn a_verdict_is_about_the_bytes_it_names() {
    // STR-01
    let (outcome, rules) = answer(
        Action::CalloutUnknown,
        StreamFlags::SEND,
        TEXT,
        |classify, packet| {
            classify.out.action = Action::Permit.value();
            packet.bytes_enforced = 3;
        },
    );
    assert_eq!(
        (outcome, rules),
        (StreamOutcome::first(Verdict::Permit, 3), Vec::new())
    );
    let (outcome, rules) = answer(
        Action::CalloutUnknown,
        StreamFlags::SEND,
        TEXT,
        |classify, _| {
            classify.out.action = Action::Block.value();
        },
    );
    assert_eq!(
        (outcome, rules),
        (StreamOutcome::BLOCK, Vec::new()),
        "rights count for nothing here"
    );
    let (outcome, rules) = answer(
        Action::CalloutUnknown,
        StreamFlags::SEND,
        TEXT,
        |classify, packet| {
            classify.out.action = Action::Permit.value();
            packet.bytes_enforced = TEXT.len() + 1;
        },
    );
    assert_eq!(
        (outcome.verdict, rules),
        (Verdict::Permit, vec![ARGUMENT.name])
    );
}

#[test]
fn stream_actions_reach_the_stack() {
    let (outcome, rules) = answer(
        Action::CalloutUnknown,
        StreamFlags::SEND,
        TEXT,
        |_, packet| {
            packet.action = StreamAction::NeedMoreData.value();
            packet.bytes_required = 10;
        },
    );
    assert_eq!((outcome, rules), (StreamOutcome::need(10), Vec::new()));
    let drop: fn(&mut Classify<'_>, &mut RawStreamPacket) =
        |_, packet| packet.action = StreamAction::DropConnection.value();
    let (outcome, rules) = answer(Action::CalloutUnknown, StreamFlags::SEND, TEXT, drop);
    assert_eq!(
        (outcome, rules),
        (
            StreamOutcome::action(StreamAction::DropConnection),
            Vec::new()
        )
    );
    // STR-06
    let (outcome, rules) = answer(Action::CalloutInspection, StreamFlags::SEND, TEXT, drop);
    assert_eq!((outcome, rules), (StreamOutcome::PERMIT, Vec::new()));
    for terminating_drops_connection in [true, false] {
        let options = Options {
            terminating_drops_connection,
            ..Options::default()
        };
        let terminating = Action::CalloutTerminating;
        let (outcome, _) = answer_under(options, terminating, StreamFlags::SEND, TEXT, drop);
        let expected = if terminating_drops_connection {
            StreamOutcome::action(StreamAction::DropConnection)
        } else {
            StreamOutcome::PERMIT
        };
        assert_eq!(outcome, expected);
    }
}

#[test]
fn what_a_stream_callout_must_not_answer_is_found() {
    let found = |flags, bytes, behaviour| answer(Action::CalloutUnknown, flags, bytes, behaviour).1;
    assert_eq!(
        found(StreamFlags::SEND, TEXT, |_, _| ()),
        [CLASSIFY_ACTION.name]
    );
    let defer: fn(&mut Classify<'_>, &mut RawStreamPacket) =
        |_, packet| packet.action = StreamAction::Defer.value();
    assert_eq!(found(StreamFlags::SEND, TEXT, defer), [ARGUMENT.name]);
    assert!(found(StreamFlags::RECEIVE, TEXT, defer).is_empty());
    let fin = StreamFlags::RECEIVE | StreamFlags::RECEIVE_DISCONNECT;
    assert_eq!(found(fin, &[], defer), [ARGUMENT.name]);
    assert_eq!(
        found(StreamFlags::SEND, TEXT, |_, packet| packet.action = 5),
        [ARGUMENT.name]
    );
    assert_eq!(
        found(StreamFlags::SEND, TEXT, |_, packet| packet.action =
            StreamAction::NeedMoreData.value()),
        [ARGUMENT.name]
    );
}

#[test]
fn asking_for_more_than_there_can_be_is_found() {
    let report = run(Config::default(), |driver| {
        let stream = v4(LayerKind::Stream);
        driver.filtered(stream, Action::CalloutUnknown);
        let flow = flow(driver);
        behave(|classify| {
            assert_eq!(classify.out.flags, ClassifyOutFlags::NO_MORE_DATA.bits());
            let at = classify.layer_data::<RawStreamPacket>();
            let mut packet = at.get().expect("stream layers have data");
            packet.action = StreamAction::NeedMoreData.value();
            packet.bytes_required = 1;
            at.set(packet);
        });
        let stage = stages(driver, stream, flow)[0];
        let out_flags = ClassifyOutFlags::NO_MORE_DATA;
        let piece = StreamSegment {
            out_flags,
            ..segment(stage, StreamFlags::RECEIVE, TEXT)
        };
        driver.classify_stream(stream, flow, &piece);
        driver.filtering.flow_ended(flow);
    });
    assert_eq!(report.violations.len(), 1, "{report:#?}");
    assert_eq!(report.violations[0].rule, ARGUMENT.name);
}

#[test]
fn the_filters_of_a_flow_are_its_stages_and_a_decision_skips_its_sublayer() {
    run_clean(Config::default(), |driver| {
        let stream = v4(LayerKind::Stream);
        let first = driver.filtered(stream, Action::CalloutUnknown);
        let second = driver.filtered_with(stream, Action::CalloutUnknown, FilterFlags::NONE);
        let flow = flow(driver);
        let stages = stages(driver, stream, flow);
        let callouts: Vec<_> = stages.iter().map(|stage| stage.0 >> 32).collect();
        assert_eq!(callouts, [u64::from(first), u64::from(second)]);
        behave(|classify| classify.out.action = Action::Permit.value());
        for &stage in &stages {
            driver.classify_stream(stream, flow, &segment(stage, StreamFlags::SEND, TEXT));
        }
        // The second filter is in the same sublayer: it sees what the first one had no opinion about.
        let asked = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&asked);
        behave(move |classify| {
            count.set(count.get() + 1);
            classify.out.action = Action::Continue.value();
        });
        for &stage in &stages {
            driver.classify_stream(stream, flow, &segment(stage, StreamFlags::SEND, TEXT));
        }
        assert_eq!(asked.get(), 2);
        driver.filtering.flow_ended(flow);
    });
}

#[test]
fn a_condition_selects_the_flows_of_a_stream_callout() {
    use crate::access::In;
    use crate::fwp::layout::management::{RawAction, RawCondition};
    use crate::fwp::layout::value::RawValue;
    use crate::fwp::objects::filter::FwpmFilterAdd0;
    use wfp_schema::{DataType, MatchType, condition};

    run_clean(Config::default(), |driver| {
        let stream = layer(LayerKind::Stream, IpVersion::V6);
        let (_, key) = driver.callout(stream);
        let mut filter = driver.raw_filter(stream);
        filter.action = RawAction {
            kind: Action::CalloutInspection.value(),
            key,
        };
        let conditions = [RawCondition {
            field: condition::IP_REMOTE_PORT,
            match_type: MatchType::Equal.value(),
            value: RawValue::number(DataType::Uint16, 443),
        }];
        filter.condition_count = 1;
        // SAFETY: read during the call only.
        filter.conditions = unsafe { In::new(conditions.as_ptr()) };
        assert_eq!(
            FwpmFilterAdd0(driver.engine, at(&filter), In::null(), Out::null()),
            0
        );
        for (port, wanted) in [(443, 1), (80, 0)] {
            let end = |port| End {
                address: IpAddr::V6(Ipv6Addr::LOCALHOST),
                port,
            };
            let flow = driver.filtering.flow_created(&FlowInfo {
                version: IpVersion::V6,
                protocol: 6,
                direction: Direction::Outbound,
                local: end(50_000),
                remote: end(port),
            });
            assert_eq!(stages(driver, stream, flow).len(), wanted, "port {port}");
            driver.filtering.flow_ended(flow);
        }
    });
}
