//! CND rows: what conditions are accepted, and what traffic they match.

use conformance_messages::Condition;
use ksim::net::{Identity, Processes, Sid};
use wfp_schema::{
    Action, ConditionFlags, DataType, Guid, Layer, LayerKind, MatchType, NtStatus, condition,
};
use zerocopy::FromZeros as _;

use crate::traffic::{HOST, PEER, datagram};
use crate::world::{World, connect, filter, v4, v6};

/// A condition on a number.
pub(crate) fn number(
    field: Guid,
    matching: MatchType,
    data_type: DataType,
    number: u64,
) -> Condition {
    let mut made = Condition::new_zeroed();
    made.field = field.to_bytes();
    made.match_type = matching.value();
    made.value_type = data_type.value();
    made.number = number;
    made
}

/// Equal to a number.
pub(crate) fn equal(field: Guid, data_type: DataType, value: u64) -> Condition {
    number(field, MatchType::Equal, data_type, value)
}

/// A condition on bytes.
fn blob(field: Guid, matching: MatchType, bytes: &[u8]) -> Condition {
    let mut made = number(field, matching, DataType::ByteBlob, 0);
    made.length = u32::try_from(bytes.len()).expect("few");
    made.bytes[..bytes.len()].copy_from_slice(bytes);
    made
}

/// What a program's path is in a field: UTF-16 with a NUL.
fn path(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// Blocks what fulfils these conditions.
fn block_when(w: &World, layer: &Layer, conditions: &[Condition]) {
    let block = conditions
        .iter()
        .fold(filter(layer, Action::Block), |filter, condition| {
            filter.when(*condition)
        });
    w.session().add(block);
}

fn refused(layer: &Layer, condition: Condition) -> NtStatus {
    let w = World::new();
    let added = w
        .session()
        .try_add(filter(layer, Action::Block).when(condition));
    w.end();
    added.expect_err("the condition is wrong")
}

#[test]
fn cnd_01_types_do_not_widen() {
    let wide = equal(condition::IP_REMOTE_PORT, DataType::Uint32, 80);
    assert_eq!(refused(connect(), wide), NtStatus::FWP_TYPE_MISMATCH);
}

#[test]
fn cnd_02_a_blob_has_no_flags() {
    let flags = blob(condition::ALE_APP_ID, MatchType::FlagsAnySet, &path("a"));
    assert_eq!(refused(connect(), flags), NtStatus::FWP_MATCH_TYPE_MISMATCH);
}

#[test]
fn cnd_03_an_address_and_mask_match_a_network() {
    let w = World::new();
    let network = 0xFF00_0000_u64 << 32 | 0x0A00_0000;
    let network = equal(condition::IP_REMOTE_ADDRESS, DataType::V4AddrMask, network);
    block_when(&w, connect(), &[network]);
    assert!(!w.connects_to("10.1.2.3", 80));
    assert!(w.connects_to("11.1.2.3", 80));
    w.end();
}

#[test]
fn cnd_03_an_address_and_prefix_match_a_network() {
    let w = World::new();
    let mut network = equal(condition::IP_REMOTE_ADDRESS, DataType::V6AddrMask, 0);
    network.bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
    network.length = 33;
    block_when(&w, v6(LayerKind::AleAuthConnect), &[network]);
    let sends = |to: &str| {
        let source = format!("[{}]:4000", portcullis_tests::HOST_V6);
        w.net().passes(portcullis_tests::udp(
            &source,
            &format!("[{to}]:53"),
            b"datagram",
        ))
    };
    assert!(!sends("2001:db8:7fff::1"));
    assert!(sends("2001:db8:8000::1"));
    w.end();
}

#[test]
fn cnd_04_one_field_is_a_choice_and_all_fields_are_needed() {
    let w = World::new();
    let conditions = [
        equal(condition::IP_REMOTE_PORT, DataType::Uint16, 80),
        equal(condition::IP_REMOTE_PORT, DataType::Uint16, 443),
        equal(condition::IP_PROTOCOL, DataType::Uint8, 6),
    ];
    block_when(&w, connect(), &conditions);
    assert!(!w.connects_to(PEER, 443));
    assert!(!w.connects_to(PEER, 80));
    assert!(w.connects_to(PEER, 8080));
    let packet = datagram(5000, 443);
    assert!(w.net().passes(packet));
    w.end();
}

#[test]
fn cnd_05_a_filter_without_conditions_matches_everything() {
    let w = World::new();
    block_when(&w, connect(), &[]);
    assert!(!w.connects_to(PEER, 1));
    assert!(!w.sends(47, PEER));
    let packet = datagram(5000, 53);
    assert!(!w.net().passes(packet));
    w.end();
}

/// A datagram to the host, in fragments if it is larger than `size`.
fn inbound_fragments(identification: u8, size: usize) -> Vec<Vec<u8>> {
    let whole = portcullis_tests::udp(&format!("{PEER}:53"), &format!("{HOST}:53"), &[7; 64]);
    let (header, payload) = whole.split_at(20);
    let pieces: Vec<_> = payload.chunks(size).collect();
    let last = pieces.len() - 1;
    pieces
        .iter()
        .enumerate()
        .map(|(at, piece)| {
            let mut packet = [header, piece].concat();
            let length = u16::try_from(packet.len()).expect("short");
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet[5] = identification;
            let more = if at == last { 0 } else { 0x2000 };
            let offset = u16::try_from(at * size / 8).expect("short") | more;
            packet[6..8].copy_from_slice(&offset.to_be_bytes());
            packet
        })
        .collect()
}

#[test]
fn cnd_06_a_filter_without_fragments_takes_what_is_whole() {
    let w = World::new();
    let s = w.session();
    let layer = v4(LayerKind::InboundIpPacket);
    let (plain, whole) = (s.callout(layer), s.callout(layer));
    let none = number(
        condition::FLAGS,
        MatchType::FlagsNoneSet,
        DataType::Uint32,
        ConditionFlags::IS_FRAGMENT.bits().into(),
    );
    s.add(crate::world::asking(&plain, Action::CalloutInspection));
    s.add(crate::world::asking(&whole, Action::CalloutInspection).when(none));
    for fragment in inbound_fragments(1, 32) {
        w.net().packet(&fragment);
    }
    let flags = |callout| {
        let classifies = w.classifies(callout);
        classifies
            .iter()
            .map(|record| ConditionFlags::from_bits(record.flags))
            .collect::<Vec<_>>()
    };
    let seen = flags(&plain);
    assert!(
        seen.iter()
            .any(|flags| flags.contains(ConditionFlags::IS_FRAGMENT))
    );
    assert!(
        seen.iter()
            .any(|flags| flags.contains(ConditionFlags::IS_REASSEMBLED))
    );
    let whole = flags(&whole);
    assert!(
        whole
            .iter()
            .all(|flags| !flags.contains(ConditionFlags::IS_FRAGMENT))
    );
    let expected = seen
        .iter()
        .filter(|flags| !flags.contains(ConditionFlags::IS_FRAGMENT));
    assert_eq!(whole.len(), expected.count());
    w.end();
}

#[test]
fn cnd_07_all_flags_have_to_be_set() {
    let w = World::new();
    let both = number(
        condition::IP_PROTOCOL,
        MatchType::FlagsAllSet,
        DataType::Uint8,
        5,
    );
    block_when(&w, connect(), &[both]);
    assert!(w.sends(4, PEER));
    assert!(!w.sends(7, PEER));
    w.end();
}

#[test]
fn cnd_08_a_prefix_is_a_suffix() {
    let w = World::new();
    let mut processes = Processes::default();
    let programs = [(5001, r"\device\a\b.exe"), (5002, r"\device\b.exe\a")];
    for (port, program) in programs {
        let endpoint = format!("{HOST}:{port}").parse().expect("an address");
        processes.assign(
            endpoint,
            Identity::new(program, 100 + u64::from(port), Sid::new(5, &[18])),
        );
    }
    w.owned_by(processes);
    let suffix = blob(condition::ALE_APP_ID, MatchType::Prefix, &path("b.exe"));
    block_when(&w, connect(), &[suffix]);
    let [ends, contains] = programs.map(|(port, _)| {
        let packet = datagram(port, 53);
        w.net().passes(packet)
    });
    assert!(!ends, "the path ends with b.exe");
    assert!(contains, "the path does not end with b.exe");
    w.end();
}

#[test]
fn cnd_09_an_empty_value_equals_only_an_empty_one() {
    let w = World::new();
    let s = w.session();
    // The local address of a wildcard bind is empty (ALE-11).
    let layer = v4(LayerKind::AleResourceAssignment);
    let [empty, given] =
        [(DataType::Empty, 0), (DataType::Uint32, 0x0A00_0001)].map(|(data_type, value)| {
            let callout = s.callout(layer);
            let condition = equal(condition::IP_LOCAL_ADDRESS, data_type, value);
            s.add(crate::world::asking(&callout, Action::CalloutInspection).when(condition));
            callout
        });
    let any = s.callout(layer);
    s.add(crate::world::asking(&any, Action::CalloutInspection));
    w.bind_any(5000);
    let packet = datagram(5001, 53);
    w.net().packet(&packet);
    let wildcard = w
        .classifies(&any)
        .iter()
        .filter(|record| record.local_address_type == DataType::Empty.value())
        .count();
    assert_ne!(wildcard, 0, "the socket was bound to any address");
    assert_eq!(w.classifies(&empty).len(), wildcard);
    assert_eq!(w.classifies(&given).len(), 0);
    w.end();
}

#[test]
fn cnd_10_a_layer_has_the_fields_that_it_has() {
    let program = blob(condition::ALE_APP_ID, MatchType::Equal, &path("a"));
    assert_eq!(
        refused(v4(LayerKind::Stream), program),
        NtStatus::FWP_CONDITION_NOT_FOUND
    );
}

#[test]
fn cnd_11_a_range_includes_its_ends() {
    let w = World::new();
    let mut range = number(
        condition::IP_REMOTE_PORT,
        MatchType::Range,
        DataType::Range,
        1000,
    );
    range.upper = 2000;
    range.bounds_type = DataType::Uint16.value();
    block_when(&w, connect(), &[range]);
    assert!(w.connects_to(PEER, 999));
    assert!(!w.connects_to(PEER, 1000));
    assert_eq!(w.connects_to(PEER, 2000), !w.options().range_includes_high);
    assert!(w.connects_to(PEER, 2001));
    w.end();
}
