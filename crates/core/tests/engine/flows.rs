//! What is remembered of a flow, and how long.

use portcullis_core::{
    Action, Connection, DatagramVerdict, FlowHandle, NotFollowed, StreamVerdict, Transfer,
};
use portcullis_proto::event::Operation;
use portcullis_proto::{Counter, EventKind};

use crate::shared::driver::{
    Core, core, count, events, events_of, indication, outgoing, receive, send, set_policy,
    withdraw_policy,
};
use crate::shared::messages::tls;
use crate::{BLOCK_EVIL, ONLY_GOOD, TCP, UDP, connect, establish};

#[test]
fn without_a_policy_everything_is_permitted_and_counted() {
    let core = core(4, "");
    let handle = establish(&core, &outgoing(TCP, 443));
    assert_eq!(
        send(&core, handle, &tls("evil.example")),
        StreamVerdict::Permit
    );
    assert_eq!(count(&core, Counter::NoPolicy), 1);
    assert!(events(&core).is_empty());
}

/// Data that was looked at under one policy may be edited under the next.
#[test]
fn what_both_of_two_policies_edit_is_edited_while_one_follows_the_other() {
    let policy = |with| {
        format!(
            "default = 'permit'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\n\
             replace = [{{ find = 'secret', with = '{with}' }}]"
        )
    };
    let core = core(4, &policy("******"));
    let stream = establish(&core, &outgoing(TCP, 80));
    assert_eq!(send(&core, stream, b"a secret"), StreamVerdict::Permit);
    let edits = || core.with_edits(stream, Transfer::Sent, |edits| !edits.is_none());
    assert!(edits());
    set_policy(&core, &policy("------"));
    assert!(edits());
    set_policy(&core, "default = 'permit'");
    assert!(!edits());
    set_policy(&core, &policy("******"));
    assert!(edits());
    withdraw_policy(&core);
    assert!(!edits());
}

#[test]
fn a_change_of_policy_reaches_flows_at_their_next_indication() {
    let core = core(4, "default = \"permit\"");
    let stream = establish(&core, &outgoing(TCP, 443));
    let datagrams = establish(&core, &outgoing(UDP, 4000));
    assert_eq!(
        send(&core, stream, &tls("example.com")),
        StreamVerdict::Permit
    );
    events(&core);
    set_policy(
        &core,
        "default = \"permit\"\n[[rule]]\naction = \"block\"\nhost = \"example.com\"\n[[rule]]\naction = \"block\"\nremote_port = 4000",
    );
    assert_eq!(
        receive(&core, stream, b"data"),
        StreamVerdict::DropConnection
    );
    let datagram = |core: &Core| {
        core.datagram(
            Some(datagrams),
            indication(Transfer::Sent, b"x"),
            [&b"x"[..]],
        )
    };
    assert_eq!(datagram(&core), DatagramVerdict::Block);
    let again = events_of(&core, EventKind::Reauthorize);
    assert_eq!(
        again
            .iter()
            .map(portcullis_proto::EventRecord::rule)
            .collect::<Vec<_>>(),
        [Some(0), Some(1)]
    );
    assert_eq!(count(&core, Counter::FlowsRedecided), 2);
    // A datagram flow may be permitted again, a dropped stream is gone.
    withdraw_policy(&core);
    assert_eq!(datagram(&core), DatagramVerdict::Permit);
    assert_eq!(
        receive(&core, stream, b"data"),
        StreamVerdict::DropConnection
    );
}

#[test]
fn a_full_table_leaves_decided_flows_unwatched_and_decides_others_without_their_host() {
    let core = core(1, BLOCK_EVIL);
    let connection = outgoing(TCP, 443);
    let first = establish(&core, &connection);
    let decision = core.authorize(Operation::Connect, &connection, false);
    assert_eq!(
        (decision.action, decision.host_dependent),
        (Action::Permit, false)
    );
    assert_eq!(
        core.flow_established(&Connection {
            flow: 2,
            ..outgoing(UDP, 4000)
        }),
        Err(NotFollowed::Unwatched)
    );
    assert_eq!(
        core.flow_established(&Connection {
            flow: 3,
            ..connection
        }),
        Err(NotFollowed::Unwatched),
        "it was decided without its host"
    );
    assert_eq!(
        core.stream(None, indication(Transfer::Sent, b"x"), [&b"x"[..]]),
        StreamVerdict::Permit
    );
    assert_eq!(
        (
            count(&core, Counter::FlowTableFull),
            count(&core, Counter::FlowRefused)
        ),
        (2, 0)
    );
    assert_eq!(count(&core, Counter::FlowMissing), 1);
    core.flow_deleted(first);
    assert!(
        core.flow_established(&Connection {
            flow: 4,
            ..connection
        })
        .is_ok()
    );
}

#[test]
fn a_flow_that_only_its_host_could_permit_is_aborted_when_the_table_has_filled_meanwhile() {
    let core = core(1, ONLY_GOOD);
    let connection = outgoing(TCP, 443);
    assert_eq!(connect(&core, &connection), Action::Permit, "for its host");
    let _first = establish(&core, &connection);
    assert_eq!(
        core.flow_established(&Connection {
            flow: 2,
            ..connection
        }),
        Err(NotFollowed::MustAbort)
    );
    assert_eq!(count(&core, Counter::FlowRefused), 1);
}

#[test]
fn a_handle_of_an_ended_flow_names_nothing() {
    let core = core(1, BLOCK_EVIL);
    let first = establish(&core, &outgoing(TCP, 443));
    core.flow_deleted(first);
    let second = establish(&core, &outgoing(TCP, 443));
    assert_ne!(first, second);
    assert_eq!(
        send(&core, first, &tls("evil.example")),
        StreamVerdict::Permit
    );
    core.flow_deleted(first);
    assert_eq!(count(&core, Counter::FlowStale), 2);
    assert_eq!(core.flows().len(), 1);
    assert_eq!(FlowHandle::from_raw(second.raw()), Some(second));
    assert_eq!(FlowHandle::from_raw(0), None);
}

#[test]
fn an_abandoned_flow_leaves_no_trace_but_its_count() {
    let core = core(1, BLOCK_EVIL);
    let handle = establish(&core, &outgoing(TCP, 443));
    events(&core);
    assert_eq!(core.flow_abandoned(handle), NotFollowed::Unwatched);
    assert!(core.flows().is_empty());
    assert!(events(&core).is_empty());
    assert_eq!(count(&core, Counter::FlowAssociateFailed), 1);
}

#[test]
fn at_a_stop_every_followed_flow_can_be_found() {
    let core = core(4, BLOCK_EVIL);
    let kept: Vec<_> = (0..3)
        .map(|flow| {
            core.flow_established(&Connection {
                flow,
                ..outgoing(TCP, 443)
            })
            .expect("room")
        })
        .collect();
    core.flow_deleted(kept[1]);
    let mut shown = Vec::new();
    core.flows()
        .for_each(|flow| shown.push((flow.handle, flow.system_flow, flow.protocol, flow.is_v6)));
    assert_eq!(shown, [(kept[0], 0, TCP, false), (kept[2], 2, TCP, false)]);
}

#[test]
fn flows_on_several_processors_are_counted_to_the_last_byte() {
    let core = core(64, "default = \"permit\"");
    let rounds = 200;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let core = &core;
            scope.spawn(move || {
                for round in 0..rounds {
                    let handle = core
                        .flow_established(&Connection {
                            flow: thread * 1000 + round,
                            ..outgoing(TCP, 443)
                        })
                        .expect("room");
                    send(core, handle, &tls("example.com"));
                    receive(core, handle, b"hello");
                    core.flow_deleted(handle);
                }
            });
        }
    });
    assert!(core.flows().is_empty());
    assert_eq!(count(&core, Counter::FlowsCreated), 4 * rounds);
    assert_eq!(count(&core, Counter::FlowsDeleted), 4 * rounds);
    let closed = events_of(&core, EventKind::FlowClosed);
    assert_eq!(closed.len() as u64, 4 * rounds);
    let handles: std::collections::HashSet<_> =
        closed.iter().map(|event| event.flow.get()).collect();
    assert_eq!(handles.len() as u64, 4 * rounds, "no handle is used twice");
    assert!(
        closed
            .iter()
            .all(|event| event.bytes_received.get() == 5 && event.host() == Some("example.com"))
    );
}

#[test]
fn a_flow_whose_data_a_rule_would_change_or_look_through_does_not_go_on_unwatched() {
    for (policy, verdict) in [
        ("default = 'permit'", NotFollowed::Unwatched),
        (
            "default = 'permit'\n[[rule]]\naction = 'block'\ncontent = 'secret'",
            NotFollowed::MustAbort,
        ),
        (
            "default = 'permit'\n[[rule]]\naction = 'permit'\nprotocol = 'tcp'\nreplace = [{ find = 'a', with = 'b' }]",
            NotFollowed::MustAbort,
        ),
    ] {
        let core = core(4, policy);
        let handle = establish(&core, &outgoing(TCP, 443));
        assert_eq!(core.flow_abandoned(handle), verdict, "{policy}");
    }
}
