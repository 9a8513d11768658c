//! What a rule that asks holds, and how it goes on.

mod answers;
mod defaults;
mod operations;
mod program;
mod races;
mod redirected;
mod stops;

use ksim::net::{PacketReport, Reason};
use portcullis_proto::event::EventRecord;
use portcullis_proto::{Action as Verdict, EventKind};
use portcullis_tests::World;
use wfp_schema::LayerId;

/// Asks about everything that goes to one port, or comes from it.
pub(crate) const ASK: &str =
    "default = 'permit'\n[[rule]]\nname = 'ask'\naction = 'ask'\nremote_port = 4433";

/// The same, and permits if nobody answers.
pub(crate) const ASK_OR_PERMIT: &str = "default = 'permit'\n[[rule]]\nname = 'ask'\naction = 'ask'\nremote_port = 4433\nask_seconds = 5\nask_default = 'permit'";

/// A machine on which the driver enforces this policy, and a program that answers.
pub(crate) fn asked(policy: &str) -> World {
    let world = World::with_policy(policy);
    assert!(world.device().questions().is_empty());
    drop(world.events());
    world
}

/// The only question that waits.
pub(crate) fn question(world: &World) -> EventRecord {
    let mut questions = world.device().questions();
    assert_eq!(questions.len(), 1, "{questions:?}");
    questions.remove(0)
}

pub(crate) fn waits(report: &PacketReport) -> bool {
    !report.passed && report.reason == Some(Reason::AwaitsAuthorization)
}

/// Answers the only question, and says which of the packets that waited passed.
pub(crate) fn answer(world: &mut World, verdict: Verdict) -> Vec<bool> {
    let question = question(world);
    assert!(world.device().reply(&question, verdict));
    settled(world)
}

pub(crate) fn settled(world: &mut World) -> Vec<bool> {
    world
        .net
        .settle()
        .into_iter()
        .map(|(_, passed)| passed)
        .collect()
}

/// The events of one kind since the last call, with their verdicts.
pub(crate) fn verdicts(events: &[EventRecord], kind: EventKind) -> Vec<Option<Verdict>> {
    events
        .iter()
        .filter(|event| event.kind == kind.raw())
        .map(|event| Verdict::from_raw(event.verdict))
        .collect()
}

pub(crate) const TCP_CONNECTS: [(&str, &str); 2] = [
    ("192.0.2.10:50000", "198.51.100.1:4433"),
    ("[2001:db8::10]:50000", "[2001:db8::80]:4433"),
];

pub(crate) const TCP_ACCEPTS: [(&str, &str); 2] = [
    ("198.51.100.1:4433", "192.0.2.10:80"),
    ("[2001:db8::80]:4433", "[2001:db8::10]:80"),
];

pub(crate) const CONNECT_V4: LayerId = LayerId::new(48);
