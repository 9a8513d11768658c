//! Literals in a flow's data, and decisions by them.

mod shared;

use portcullis_core::{
    Action, DatagramVerdict, Decision, FlowHandle, Host, PolicyView, StreamVerdict, Transfer,
    connection::{TCP, UDP},
};
use portcullis_policy::{Policy, Rule};
use portcullis_proto::{Counter, EventKind};
use proptest::prelude::*;
use shared::driver::{
    Core, core, count, events_of, indication, outgoing, receive, send, set_policy, set_policy_soon,
};
use shared::messages::http;

const NO_SECRETS: &str = "
    default = 'permit'
    [[rule]]
    name = 'secrets'
    action = 'block'
    content = ['top secret', 'attachment']
    content_hex = 'de ad be ef'
    log = true
";

fn begin(core: &Core, port: u16) -> FlowHandle {
    core.flow_established(&outgoing(TCP, port)).expect("room")
}

#[test]
fn a_stream_is_dropped_by_the_segment_in_which_a_literal_ends() {
    let core = core(1, NO_SECRETS);
    let flow = begin(&core, 9000);
    assert_eq!(send(&core, flow, b"this is top"), StreamVerdict::Permit);
    assert_eq!(send(&core, flow, b" secre"), StreamVerdict::Permit);
    assert_eq!(send(&core, flow, b"t!"), StreamVerdict::DropConnection);
    assert_eq!(
        send(&core, flow, b"anything"),
        StreamVerdict::DropConnection
    );
    assert_eq!(count(&core, Counter::ContentMatched), 1);
    let found = events_of(&core, EventKind::Content);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].rule.get(), found[0].verdict),
        (0, Action::Block.raw())
    );
}

#[test]
fn both_directions_are_looked_at_each_by_itself() {
    let core = core(2, NO_SECRETS);
    let flow = begin(&core, 9000);
    assert_eq!(send(&core, flow, b"top "), StreamVerdict::Permit);
    assert_eq!(receive(&core, flow, b"secret"), StreamVerdict::Permit);
    assert_eq!(receive(&core, flow, b" \xDE\xAD"), StreamVerdict::Permit);
    assert_eq!(
        receive(&core, flow, b"\xBE\xEF"),
        StreamVerdict::DropConnection
    );
}

#[test]
fn a_literal_that_ends_another_is_found_in_it() {
    let core = core(
        1,
        "default = 'permit'\n[[rule]]\naction = 'block'\ncontent = ['attack at dawn', 'tack at noon']",
    );
    let flow = begin(&core, 9000);
    assert_eq!(send(&core, flow, b"attack at "), StreamVerdict::Permit);
    assert_eq!(send(&core, flow, b"noon"), StreamVerdict::DropConnection);
}

#[test]
fn a_rule_before_it_that_permits_comes_first() {
    let core = core(
        4,
        "default = 'permit'
        [[rule]]
        action = 'permit'
        remote_port = 9001
        [[rule]]
        action = 'block'
        content = 'secret'
        remote_port = ['9000-9005']
        [[rule]]
        action = 'permit'
        remote_port = 9000",
    );
    for (port, verdict) in [
        (9000, StreamVerdict::DropConnection),
        (9001, StreamVerdict::Permit),
        (9005, StreamVerdict::DropConnection),
        (9006, StreamVerdict::Permit),
    ] {
        let flow = begin(&core, port);
        assert_eq!(send(&core, flow, b"a secret"), verdict, "port {port}");
    }
}

#[test]
fn each_datagram_is_looked_at_by_itself() {
    let core = core(1, NO_SECRETS);
    let flow = core.flow_established(&outgoing(UDP, 9000)).expect("room");
    let datagram =
        |bytes: &[u8]| core.datagram(Some(flow), indication(Transfer::Sent, bytes), [bytes]);
    assert_eq!(datagram(b"top "), DatagramVerdict::Permit);
    assert_eq!(datagram(b"secret"), DatagramVerdict::Permit);
    assert_eq!(datagram(b"top secret"), DatagramVerdict::Block);
    assert_eq!(datagram(b"anything"), DatagramVerdict::Block);
}

#[test]
fn a_host_that_is_permitted_before_saves_what_was_found_before_its_name() {
    const POLICY: &str = "
        default = 'permit'
        [[rule]]
        action = 'permit'
        host = 'good.example'
        [[rule]]
        action = 'block'
        content = 'GET /'
    ";
    let core = core(2, POLICY);
    for (host, verdict) in [
        ("good.example", StreamVerdict::Permit),
        ("bad.example", StreamVerdict::DropConnection),
    ] {
        let flow = begin(&core, 80);
        let request = http(host);
        let (first, rest) = request.split_at(8);
        assert_eq!(
            send(&core, flow, first),
            StreamVerdict::Permit,
            "its host is not known yet"
        );
        assert_eq!(send(&core, flow, rest), verdict, "{host}");
    }
}

#[test]
fn another_policy_forgets_what_a_literal_of_the_old_one_began_with() {
    let core = core(1, NO_SECRETS);
    let flow = begin(&core, 9000);
    assert_eq!(send(&core, flow, b"top "), StreamVerdict::Permit);
    set_policy(&core, NO_SECRETS);
    assert_eq!(send(&core, flow, b"secret"), StreamVerdict::Permit);
    assert_eq!(
        send(&core, flow, b" top secret"),
        StreamVerdict::DropConnection
    );
}

/// Between the look which policy is in force and the search another one may come into force.
#[test]
fn what_both_of_two_policies_forbid_does_not_pass_while_one_follows_the_other() {
    let core = core(2, NO_SECRETS);
    let stream = begin(&core, 9000);
    set_policy_soon(&core, NO_SECRETS);
    assert_eq!(
        send(&core, stream, b"a top secret"),
        StreamVerdict::DropConnection
    );
    let flow = core.flow_established(&outgoing(UDP, 9000)).expect("room");
    set_policy_soon(&core, NO_SECRETS);
    let datagram = b"a top secret".as_slice();
    assert_eq!(
        core.datagram(Some(flow), indication(Transfer::Sent, datagram), [datagram]),
        DatagramVerdict::Block
    );
    assert_eq!(count(&core, Counter::ContentMatched), 2);
}

#[test]
fn a_listener_may_listen_whatever_contents_are_looked_for() {
    let blob = portcullis_policy::compile(NO_SECRETS, &portcullis_policy::Options::default())
        .expect("valid")
        .blob;
    let view = PolicyView::validate(&blob).expect("valid");
    let decision = view.decide(&outgoing(TCP, 80), Host::Never);
    let expected = Decision {
        content_dependent: true,
        ..Decision::permit()
    };
    assert_eq!(decision, expected);
    assert_eq!(
        view.decide(&outgoing(1, 0), Host::Never),
        Decision::permit()
    );
}

proptest! {
    /// The rules' literals, the data in pieces, and where the first rule's first literal ends, found without an
    /// automaton.
    #[test]
    fn the_literal_that_ends_first_decides_in_any_division_into_segments(
        literals in prop::collection::vec(prop::collection::vec("[ab]{1,5}", 1..4), 1..6),
        data in "[abc]{1,80}",
        segment in 1_usize..20,
    ) {
        let rules = literals.iter().map(|literals| Rule {
            contents: literals.iter().map(|literal| literal.clone().into_bytes()).collect(),
            ..Rule::new("", Action::Block)
        });
        let policy = Policy { rules: rules.collect(), ..Policy::new(Action::Permit) };
        let blob = policy.encode().expect("small");
        let view = PolicyView::validate(&blob).expect("valid");
        let connection = outgoing(TCP, 80);
        let data = data.as_bytes();

        let mut state = portcullis_core::ContentState::START;
        let mut end = 0;
        let mut found = None;
        for piece in data.chunks(segment) {
            let (hit, rest) = view.find_content(&mut state, piece, &connection, None);
            end += piece.len() - rest.len();
            found = hit.map(|hit| (end, hit.rule.0 as usize));
            if found.is_some() {
                break;
            }
        }

        let expected = (1..=data.len()).find_map(|end| {
            let ending = |literal: &&Vec<u8>| data[..end].ends_with(literal);
            let longest = policy.rules.iter().flat_map(|rule| &rule.contents).filter(ending);
            let longest = longest.max_by_key(|literal| literal.len())?;
            let rule = policy.rules.iter().position(|rule| rule.contents.contains(longest));
            Some((end, rule.expect("it is some rule's")))
        });
        prop_assert_eq!(found, expected);
    }
}
