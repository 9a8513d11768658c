//! The validator: whatever is handed in as a policy is refused, or safe to decide with.

use portcullis_core::policy::Reason;
use portcullis_core::{
    Application, Connection, ContentState, Direction, Endpoint, Host, Listener, Policy,
    PolicyError, PolicyView,
};
use portcullis_policy::{Options, compile};
use portcullis_proto::effect::{EffectKind, EffectRecord, MAX_ASK, MAX_DELAY};
use portcullis_proto::policy::{
    Action, CRC_FROM, ContentStateRecord, HostRecord, LEAF, LeafRecord, NodeRecord, PolicyHeader,
    Range64, RuleRecord, SectionKind, crc32,
};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const TEXT: &str = r#"
    default = "block"
    [[rule]]
    action = "permit"
    protocol = ["tcp", "udp"]
    remote_address = ["10.0.0.0/8", "2001:db8::/32", "192.168.0.1-192.168.0.9"]
    remote_port = [80, 443, "8000-8100"]
    [[rule]]
    action = "block"
    direction = "outbound"
    application = ['C:\windows\*.exe', '\device\mup\server\tool.exe']
    user = ["SYSTEM", "S-1-5-21-1-2-3-1001"]
    [[rule]]
    action = "permit"
    host = ["example.com", "*.example.com", "example.org"]
    log = true
    [[rule]]
    action = "block"
    host = "*.example.com"
    local_port = "1-1023"
    [[rule]]
    action = "permit"
    protocol = 47
    [[rule]]
    action = "permit"
    protocol = "udp"
    local_port = 53
    [[rule]]
    action = "permit"
    protocol = "tcp"
    local_address = "::1"
    direction = "inbound"
    interface_type = ["wifi", "mobile"]
    [[rule]]
    action = "block"
    interface = ["0x6000002000000", "0x35000004000000"]
    content = ["a literal", "teral", "nothing like it"]
    inspect = "out of band"
    [[rule]]
    action = "ask"
    ask_seconds = 5
    redirect = ["127.0.0.1:8080", "[::1]:8080"]
    bind = "192.0.2.1"
    replace = [{ find = "this", with = "that", direction = "sent" }, { find_hex = "00 01", with = "" }]
    http_header = { User-Agent = "mine" }
    dscp = 46
    ttl = 64
    translate = "198.51.100.7:53"
    rate = "1 MB/s"
    delay = "50 ms"
    loss = "1 %"
    mirror = true
"#;

fn blob() -> Vec<u8> {
    compile(TEXT, &Options::default()).expect("compiles").blob
}

/// Makes the checksum right again, so that what lies behind it is looked at.
fn with_checksum(mut blob: Vec<u8>) -> Vec<u8> {
    if let Some(checked) = blob.get(CRC_FROM..) {
        let crc = crc32(checked);
        blob[CRC_FROM - 4..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    }
    blob
}

fn header(blob: &[u8]) -> PolicyHeader {
    PolicyHeader::read_from_prefix(blob).expect("a header").0
}

/// Offset of a section's element.
fn place(blob: &[u8], kind: SectionKind, index: usize) -> usize {
    let section = header(blob).sections[usize::from(kind.raw())];
    assert!(
        index < section.count.get() as usize,
        "the policy has such an element"
    );
    section.offset.get() as usize + index * kind.element_size()
}

/// The policy with one record changed, its checksum right.
fn changed<T>(offset: usize, change: impl FnOnce(&mut T)) -> Vec<u8>
where
    T: FromBytes + IntoBytes + KnownLayout + Immutable,
{
    let mut blob = blob();
    let bytes = &mut blob[offset..offset + size_of::<T>()];
    change(T::mut_from_bytes(bytes).expect("unaligned"));
    with_checksum(blob)
}

fn changed_rule(index: usize, change: impl FnOnce(&mut RuleRecord)) -> Vec<u8> {
    changed(place(&blob(), SectionKind::Rules, index), change)
}

fn changed_bytes(kind: SectionKind, index: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut blob = blob();
    let start = place(&blob, kind, index) + offset;
    blob[start..start + bytes.len()].copy_from_slice(bytes);
    with_checksum(blob)
}

fn refused(blob: &[u8]) -> PolicyError {
    PolicyView::validate(blob).expect_err("is refused")
}

/// Decides all kinds of connections; what comes out does not matter.
fn exercise(view: &PolicyView<'_>) {
    let path: Vec<u8> = r"\device\harddiskvolume2\windows\notepad.exe"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (port, protocol) in [(443, 6), (53, 17), (0, 1), (8000, 47)] {
        for application in [
            Application::UNKNOWN,
            Application::new(&path),
            Application::truncated(&path),
        ] {
            let local = Endpoint::new(Ipv4Addr::new(10, 0, 0, 1).into(), port);
            let remote = Endpoint::new("2001:db8::1".parse().expect("an address"), port);
            let user = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
            let direction = Direction::Outbound;
            let connection = Connection {
                direction,
                protocol,
                local,
                remote,
                application,
                user: &user,
                process_id: 0,
                flow: 0,
                interface: u64::from(port) << 40,
            };
            for host in [
                Host::Never,
                Host::Pending,
                Host::Known(b"a.b.example.com"),
                Host::Known(b""),
            ] {
                let _ = view.decide(&connection, host);
                let _ = view.decide_linear(&connection, host);
            }
            let mut state = ContentState::START;
            let mut rest = &b"some text with a literal and a liter"[..];
            while !rest.is_empty() {
                rest = view.find_content(&mut state, rest, &connection, None).1;
            }
            let _ = view.decide_listener(&Listener {
                local,
                application,
                user: &user,
                process_id: 0,
                interface: 0,
            });
        }
    }
}

#[test]
fn what_the_compiler_makes_is_valid() {
    exercise(&PolicyView::validate(&blob()).expect("valid"));
}

#[test]
fn every_truncation_is_refused() {
    let blob = blob();
    for length in 0..blob.len() {
        refused(&blob[..length]);
        refused(&with_checksum(blob[..length].to_vec()));
    }
}

#[test]
fn every_changed_byte_is_found_by_the_checksum() {
    let blob = blob();
    for offset in 0..blob.len() {
        let mut damaged = blob.clone();
        damaged[offset] ^= 0x10;
        refused(&damaged);
    }
}

#[test]
fn every_changed_byte_behind_a_right_checksum_is_refused_or_harmless() {
    let blob = blob();
    for offset in 0..blob.len() {
        for flip in [1, 0x20, 0x80, 0xFF] {
            let mut damaged = blob.clone();
            damaged[offset] ^= flip;
            let damaged = with_checksum(damaged);
            if let Ok(view) = PolicyView::validate(&damaged) {
                exercise(&view);
            }
            // Even if it had been validated before, and then changed.
            if let Some(view) = PolicyView::trusted(&damaged) {
                exercise(&view);
            }
        }
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut blob = blob();
    blob.push(0);
    assert_eq!(
        refused(&with_checksum(blob)),
        PolicyError {
            offset: 8,
            reason: Reason::Size
        }
    );
}

#[test]
fn each_field_of_the_header_is_checked_and_named() {
    let cases: [(usize, u8, Reason); 10] = [
        (0, b'X', Reason::Magic),
        (4, 99, Reason::Version),
        (6, 1, Reason::Size),
        (16, 4, Reason::Flags),
        (20, 0, Reason::Value),
        (20, 3, Reason::Value),
        (21, 1, Reason::Reserved),
        (28, 0, Reason::Reference),
        (32, 1, Reason::RunOffset),
        (40, 1, Reason::SectionOffset),
    ];
    for (offset, byte, reason) in cases {
        let mut blob = blob();
        blob[offset] = byte;
        assert_eq!(
            refused(&with_checksum(blob)),
            PolicyError { offset, reason }
        );
    }
}

#[test]
fn a_rule_with_values_that_do_not_exist_is_refused() {
    let offset = |index| place(&blob(), SectionKind::Rules, index);
    let wrong = changed_rule(1, |rule| rule.action = 4);
    assert_eq!(
        refused(&wrong),
        PolicyError {
            offset: offset(1),
            reason: Reason::Value
        }
    );
    let wrong = changed_rule(2, |rule| rule.direction = 3);
    assert_eq!(
        refused(&wrong),
        PolicyError {
            offset: offset(2),
            reason: Reason::Value
        }
    );
    let wrong = changed_rule(0, |rule| rule.flags = 4.into());
    assert_eq!(
        refused(&wrong),
        PolicyError {
            offset: offset(0),
            reason: Reason::Flags
        }
    );
}

#[test]
fn interfaces_that_no_rule_can_have_are_refused() {
    let change = |index: usize, change: fn(&mut Range64)| {
        let blob = changed(place(&blob(), SectionKind::Interfaces, index), change);
        refused(&blob).reason
    };
    // Of the seventh rule: Wi-Fi, mobile; of the eighth: two LUIDs.
    assert_eq!(change(0, |range| range.first = 0.into()), Reason::Range);
    assert_eq!(change(0, |range| range.last = 1.into()), Reason::Range);
    assert_eq!(
        change(0, |range| range.last = u64::MAX.into()),
        Reason::Order
    );
    assert_eq!(
        change(3, |range| (range.first, range.last) = (1.into(), 1.into())),
        Reason::Order
    );
    let of_rule = |index, change: fn(&mut RuleRecord)| refused(&changed_rule(index, change)).reason;
    assert_eq!(
        of_rule(7, |rule| rule.interfaces.first = 1.into()),
        Reason::RunOffset
    );
    assert_eq!(
        of_rule(7, |rule| rule.interfaces.count = 3.into()),
        Reason::RunEnd
    );
    let mut unused = blob();
    let rule = place(&unused, SectionKind::Rules, 7);
    let bytes = &mut unused[rule..rule + size_of::<RuleRecord>()];
    let record = RuleRecord::mut_from_bytes(bytes).expect("unaligned");
    record.interfaces.count = 1.into();
    let error = refused(&with_checksum(unused));
    assert_eq!(error.reason, Reason::Unused);
    assert_eq!(error.offset, place(&blob(), SectionKind::Interfaces, 3));
    // Whoever answers a question does not answer for every interface.
    let asks = compile(
        "default = 'block'\n[[rule]]\naction = 'ask'\n[[rule]]\naction = 'permit'\ninterface_type = 6",
        &Options::default(),
    );
    let mut blob = asks.expect("compiles").blob;
    let rules = place(&blob, SectionKind::Rules, 0);
    let size = size_of::<RuleRecord>();
    let run = core::mem::offset_of!(RuleRecord, interfaces);
    let moved = blob[rules + size + run..][..6].to_vec();
    blob[rules + run..][..6].copy_from_slice(&moved);
    blob[rules + size + run..][..6].fill(0);
    assert_eq!(refused(&with_checksum(blob)).reason, Reason::Flags);
}

/// The policy with its first effect of a kind changed.
fn changed_effect(kind: EffectKind, change: impl FnOnce(&mut EffectRecord)) -> Vec<u8> {
    let blob = blob();
    let count = header(&blob).sections[usize::from(SectionKind::Effects.raw())].count;
    let read = |index| {
        let at = place(&blob, SectionKind::Effects, index);
        EffectRecord::read_from_prefix(&blob[at..])
            .expect("an effect")
            .0
    };
    let index = (0..count.get() as usize)
        .find(|&index| read(index).kind == kind.raw())
        .expect("the policy has such an effect");
    changed(place(&blob, SectionKind::Effects, index), change)
}

#[test]
fn an_effect_with_values_that_it_cannot_have_is_refused() {
    type Case = (EffectKind, fn(&mut EffectRecord), Reason);
    let cases: [Case; 18] = [
        (
            EffectKind::Ask,
            |effect| effect.values[0] = 0.into(),
            Reason::Range,
        ),
        (
            EffectKind::Ask,
            |effect| effect.values[0] = (MAX_ASK + 1).into(),
            Reason::Range,
        ),
        (
            EffectKind::Ask,
            |effect| effect.values[1] = 1.into(),
            Reason::Reserved,
        ),
        (EffectKind::Ask, |effect| effect.flags = 1, Reason::Flags),
        (EffectKind::Ask, |effect| effect.kind = 99, Reason::Value),
        (
            EffectKind::Redirect,
            |effect| effect.port = 0.into(),
            Reason::Range,
        ),
        (
            EffectKind::Redirect,
            |effect| effect.address = [0; 16],
            Reason::Range,
        ),
        (
            EffectKind::Bind,
            |effect| effect.port = 1.into(),
            Reason::Reserved,
        ),
        (
            EffectKind::Replace,
            |effect| effect.length = 0.into(),
            Reason::Text,
        ),
        (
            EffectKind::Replace,
            |effect| effect.length = 256.into(),
            Reason::Count,
        ),
        (
            EffectKind::Replace,
            |effect| effect.flags = 0,
            Reason::Flags,
        ),
        (
            EffectKind::Replace,
            |effect| effect.text = 0.into(),
            Reason::RunOffset,
        ),
        (
            EffectKind::Header,
            |effect| effect.flags = EffectRecord::REMOVE,
            Reason::Text,
        ),
        (
            EffectKind::Dscp,
            |effect| effect.values[0] = 64.into(),
            Reason::Range,
        ),
        (
            EffectKind::HopLimit,
            |effect| effect.values[0] = 0.into(),
            Reason::Range,
        ),
        (
            EffectKind::Rate,
            |effect| effect.values[2] = u64::MAX.into(),
            Reason::Range,
        ),
        (
            EffectKind::Delay,
            |effect| effect.values[1] = MAX_DELAY.into(),
            Reason::Range,
        ),
        (
            EffectKind::Mirror,
            |effect| effect.address[15] = 1,
            Reason::Reserved,
        ),
    ];
    for (kind, change, reason) in cases {
        assert_eq!(
            refused(&changed_effect(kind, change)).reason,
            reason,
            "{kind}"
        );
    }
}

#[test]
fn the_number_of_a_shared_limit_is_one_that_there_is_and_no_other_limit_has_one() {
    let limit = |number: u16, flags: u8| {
        move |effect: &mut EffectRecord| {
            effect.port = number.into();
            effect.flags = flags;
        }
    };
    let refused = |change| refused(&changed_effect(EffectKind::Rate, change)).reason;
    assert_eq!(refused(limit(1024, EffectRecord::SHARED)), Reason::Range);
    assert_eq!(refused(limit(1, 0)), Reason::Reserved);
}

#[test]
fn a_rule_whose_effects_do_not_go_with_its_action_is_refused() {
    let last = 8;
    let others = changed_rule(last, |rule| rule.effect_set = 1.into());
    assert_eq!(refused(&others).reason, Reason::Reference);
    for action in [Action::Permit, Action::Block] {
        let wrong = changed_rule(last, |rule| rule.action = action.raw());
        assert_eq!(refused(&wrong).reason, Reason::Flags);
    }
    let nothing_to_ask = changed_rule(4, |rule| rule.action = Action::Ask.raw());
    assert_eq!(refused(&nothing_to_ask).reason, Reason::Flags);
}

#[test]
fn a_run_outside_its_section_or_shared_with_another_rule_is_refused() {
    assert_eq!(
        refused(&changed_rule(0, |rule| rule.remote_ports.count = u16::MAX.into())).reason,
        Reason::RunEnd
    );
    assert_eq!(
        refused(&changed_rule(0, |rule| rule.remote_ports.first = 1.into())).reason,
        Reason::RunOffset
    );
    assert_eq!(
        refused(&changed_rule(1, |rule| rule.protocols.first = u32::MAX.into())).reason,
        Reason::RunOffset
    );
    assert_eq!(
        refused(&changed_rule(0, |rule| rule.remote_ports.count = 2.into())).reason,
        Reason::RunOffset
    );
}

#[test]
fn ranges_that_are_empty_or_do_not_ascend_are_refused() {
    let empty = changed_bytes(SectionKind::Ports, 0, 0, &[81, 0, 80, 0]);
    assert_eq!(refused(&empty).reason, Reason::Range);
    let descending = changed_bytes(SectionKind::Ports, 0, 0, &[0xFF, 1, 0xFF, 1]);
    assert_eq!(refused(&descending).reason, Reason::Order);
    let beyond = changed_bytes(SectionKind::Protocols, 0, 2, &[0, 1]);
    assert_eq!(refused(&beyond).reason, Reason::Range);
}

#[test]
fn texts_that_are_not_what_they_should_be_are_refused() {
    let text = |offset: usize, bytes: &[u8]| {
        refused(&changed_bytes(SectionKind::Text, 0, offset, bytes)).reason
    };
    assert_eq!(
        text(0, b"a\0"),
        Reason::Text,
        "a pattern for any volume begins with a backslash"
    );
    assert_eq!(text(2, &[0, 0xD8]), Reason::Text, "half a surrogate pair");
    assert_eq!(text(2, b"W\0"), Reason::Text, "an upper-case letter");
    assert_eq!(text(2, &[0, 0]), Reason::Text, "a terminator");
    assert_eq!(
        text(2 * r"\windows\".len(), b"x\0"),
        Reason::Flags,
        "a wildcard pattern without a wildcard"
    );
    let users = 2 * (r"\windows\*.exe".len() + r"\device\mup\server\tool.exe".len());
    assert_eq!(text(users, &[2]), Reason::Text, "a SID of another revision");
    assert_eq!(
        text(users + 1, &[2]),
        Reason::Text,
        "a SID of another length"
    );
    let blob = blob();
    let count = header(&blob).sections[usize::from(SectionKind::Hosts.raw())].count;
    let last = place(&blob, SectionKind::Hosts, count.get() as usize - 1);
    let last = HostRecord::read_from_prefix(&blob[last..])
        .expect("a host")
        .0;
    let hosts = last.text.get() as usize + usize::from(last.length);
    assert_eq!(
        text(hosts - 1, b"G"),
        Reason::Text,
        "a host name in upper case"
    );
    assert_eq!(text(hosts - 1, b"."), Reason::Text, "an empty label");
}

#[test]
fn hosts_in_disorder_are_refused() {
    let wrong = changed_bytes(SectionKind::Hosts, 0, 5, &[1]);
    assert_eq!(refused(&wrong).reason, Reason::Order);
}

#[test]
fn an_index_that_could_loop_or_leads_nowhere_is_refused() {
    let root = core::mem::offset_of!(PolicyHeader, root);
    let node = place(&blob(), SectionKind::Nodes, 0);
    let far = changed(root, |root: &mut zerocopy::little_endian::U32| {
        *root = (LEAF | 0xFFFF).into();
    });
    assert_eq!(
        refused(&far),
        PolicyError {
            offset: root,
            reason: Reason::Reference
        }
    );
    let itself = changed(node, |node: &mut NodeRecord| node.below = 0.into());
    assert_eq!(
        refused(&itself),
        PolicyError {
            offset: node,
            reason: Reason::Reference
        }
    );
    let deep = changed(node, |node: &mut NodeRecord| node.depth = 64);
    assert_eq!(refused(&deep).reason, Reason::Range);
    let dimension = changed(node, |node: &mut NodeRecord| node.dimension = 8);
    assert_eq!(refused(&dimension).reason, Reason::Value);
}

#[test]
fn a_leaf_that_lists_what_it_must_not_is_refused() {
    let list = place(&blob(), SectionKind::RuleLists, 0);
    let missing = changed(list, |rule: &mut zerocopy::little_endian::U32| {
        *rule = 9999.into();
    });
    assert_eq!(refused(&missing).reason, Reason::Reference);
    let hosted = changed(list, |rule: &mut zerocopy::little_endian::U32| {
        *rule = 2.into();
    });
    assert_eq!(refused(&hosted).reason, Reason::Reference);
    let leaf = place(&blob(), SectionKind::Leaves, 0);
    let longer = changed(leaf, |leaf: &mut LeafRecord| leaf.count = u32::MAX.into());
    assert_eq!(refused(&longer).reason, Reason::RunEnd);
}

#[test]
fn a_state_that_does_not_lead_back_to_a_shallower_one_is_refused() {
    let blob = blob();
    let view = PolicyView::validate(&blob).expect("valid");
    let first = place(&blob, SectionKind::ContentStates, 0);
    let states = (0..).map(|index| first + index * size_of::<ContentStateRecord>());
    let is_deep = |at: &usize| blob[at + 17] == 2;
    let deep = states
        .into_iter()
        .find(is_deep)
        .expect("a state of two bytes");
    assert!(view.rule_count() > 0);
    let index = u32::try_from((deep - first) / size_of::<ContentStateRecord>()).expect("small");
    let to_itself = changed(deep, |state: &mut ContentStateRecord| {
        state.fail = index.into();
    });
    assert_eq!(refused(&to_itself).reason, Reason::Reference);
    let linked = changed(deep, |state: &mut ContentStateRecord| {
        state.link = index.into();
    });
    assert_eq!(refused(&linked).reason, Reason::Reference);
    let beyond = changed(deep, |state: &mut ContentStateRecord| {
        state.content = 4.into();
    });
    assert_eq!(refused(&beyond).reason, Reason::Reference);
    let reserved = changed(deep, |state: &mut ContentStateRecord| {
        state.reserved = 1.into();
    });
    assert_eq!(refused(&reserved).reason, Reason::Reserved);
}

#[test]
fn a_rule_that_looks_for_contents_can_only_block_and_has_no_host() {
    for (rule, flags) in [(0, 4), (3, 2 | 4)] {
        let at = place(&blob(), SectionKind::Rules, rule);
        let blob = changed(at, |rule: &mut RuleRecord| rule.flags = flags.into());
        assert_eq!(refused(&blob).reason, Reason::Flags);
    }
}

#[test]
fn a_validated_policy_owns_its_bytes_and_knows_its_hash() {
    let blob = blob();
    let policy = Policy::new(blob.clone()).expect("valid");
    assert_eq!(policy.view().rule_count(), 9);
    assert_eq!(policy.hash(), portcullis_proto::policy::hash(&blob));
    assert!(Policy::new(&blob[1..]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mere_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        refused(&bytes);
    }

    #[test]
    fn several_changes_behind_a_right_checksum_are_refused_or_harmless(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut blob = blob();
        for (offset, byte) in changes {
            let offset = offset.index(blob.len());
            blob[offset] = byte;
        }
        let blob = with_checksum(blob);
        if let Ok(view) = PolicyView::validate(&blob) {
            exercise(&view);
        }
        if let Some(view) = PolicyView::trusted(&blob) {
            exercise(&view);
        }
    }
}

#[test]
fn a_bind_is_decided_by_a_list_of_rules_that_ask_nothing_else() {
    let blob = blob();
    let [first, count] = header(&blob).binds;
    // Rules with hosts, contents or a remote side are not in it.
    assert!(count.get() > 0 && (count.get() as usize) < 9, "{count}");
    let at = core::mem::offset_of!(PolicyHeader, binds);
    let list = place(&blob, SectionKind::RuleLists, first.get() as usize);
    for (offset, value, reason) in [
        (at, first.get() + 1, Reason::RunOffset),
        (at + 4, count.get() + 1, Reason::RunEnd),
        (at + 4, count.get() - 1, Reason::Unused),
        (at + 4, 1025, Reason::Count),
        (list, 0, Reason::Reference),
        (list, 1000, Reason::Reference),
    ] {
        let mut wrong = blob.clone();
        wrong[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        assert_eq!(refused(&with_checksum(wrong)).reason, reason, "{offset}");
    }
}

#[test]
fn only_applications_have_children() {
    let wrong = changed_rule(8, |rule| rule.flags = 8.into());
    assert_eq!(refused(&wrong).reason, Reason::Flags);
}
