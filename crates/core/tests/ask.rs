//! What is held for an answer, and what was answered.

use parking_lot::RawMutex;
use portcullis_core::ask::{
    Absence, AnswerBucket, HeldSlot, Hold, REMEMBERED, Release, Released, Unasked,
};
use portcullis_core::{
    Application, Asking, Connection, Direction, Endpoint, Ruling, Subject, Terms, Ticket,
};
use portcullis_proto::EventRecord;
use portcullis_proto::policy::Action;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};

const TERMS: Terms = Terms {
    milliseconds: 30_000,
    otherwise: Action::Block,
};
const SECOND: u64 = 10_000_000;

type Table = Asking<RawMutex, Vec<HeldSlot<RawMutex, u32>>, Vec<AnswerBucket<RawMutex>>, u32>;

/// Room for so many operations and eight times as many answers, and somebody who answers.
fn table(slots: usize, buckets: usize) -> Table {
    let table = Asking::new(
        std::iter::repeat_with(HeldSlot::new).take(slots).collect(),
        std::iter::repeat_with(AnswerBucket::new)
            .take(buckets)
            .collect(),
        7,
    );
    table.open(Absence::NoProgram);
    table
}

fn connection(port: u16) -> Connection<'static> {
    Connection {
        direction: Direction::Outbound,
        protocol: 6,
        local: Endpoint::new([192, 0, 2, 10].into(), port),
        remote: Endpoint::new([198, 51, 100, 1].into(), 443),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 4,
        flow: 0,
        interface: 0,
    }
}

fn subject(port: u16) -> Subject {
    Subject::connection(&connection(port))
}

fn hold(table: &Table, port: u16, now: u64) -> Hold {
    match table.authorize(&subject(port), TERMS, true, now) {
        Ruling::Hold(hold) => hold,
        other => panic!("{other:?}"),
    }
}

/// Holds an operation; its number, by which its question is answered.
fn keep(table: &Table, port: u16, now: u64) -> Ticket {
    let hold = hold(table, port, now);
    let ticket = hold.ticket();
    let question = labelled(&hold, now);
    assert_eq!(question.question(), ticket.raw());
    assert_eq!(question.deadline(), now + 30 * SECOND);
    table.keep(hold, port.into(), &question, true);
    ticket
}

fn labelled(hold: &Hold, now: u64) -> EventRecord {
    let mut question = EventRecord::default();
    hold.label(&mut question, now);
    question
}

fn ruling(table: &Table, port: u16, may_hold: bool, now: u64) -> Ruling {
    table.authorize(&subject(port), TERMS, may_hold, now)
}

/// What lets itself be observed of what was released.
const fn seen(released: &Released<u32>) -> (u32, Action, Release) {
    (released.held, released.action, released.release)
}

#[test]
fn an_answer_lets_the_operation_go_on_and_is_found_when_it_is_authorized_again() {
    let table = table(4, 4);
    let ticket = keep(&table, 50_000, 0);
    assert!(matches!(ruling(&table, 50_000, true, 0), Ruling::Waits));
    let question = table.next_question().expect("a question");
    assert_eq!(question.value[0].get(), ticket.raw());
    assert!(table.next_question().is_none(), "told once");
    let mut released = Vec::new();
    assert!(table.answer(ticket, Action::Permit, SECOND, |one| {
        released.push(seen(&one));
    }));
    assert_eq!(released, [(50_000, Action::Permit, Release::Answered)]);
    assert!(!table.answer(ticket, Action::Block, SECOND, |_| panic!("twice")));
    assert!(table.is_empty());
    for may_hold in [false, true] {
        let again = ruling(&table, 50_000, may_hold, SECOND);
        assert!(
            matches!(again, Ruling::Answered(Action::Permit)),
            "{again:?}"
        );
    }
}

#[test]
fn without_an_answer_the_rules_default_decides_when_the_time_is_over() {
    let table = table(4, 4);
    keep(&table, 50_000, 0);
    table.expire(30 * SECOND - 1, |_| panic!("too early"));
    let mut released = Vec::new();
    table.expire(30 * SECOND, |one| released.push(seen(&one)));
    assert_eq!(released, [(50_000, Action::Block, Release::TimedOut)]);
    let again = ruling(&table, 50_000, false, 30 * SECOND);
    assert!(matches!(again, Ruling::Answered(Action::Block)));
}

#[test]
fn what_is_authorized_again_without_an_answer_is_decided_by_the_default() {
    let table = table(4, 4);
    let again = ruling(&table, 50_000, false, 0);
    assert!(matches!(
        again,
        Ruling::Default(Action::Block, Unasked::CannotHold)
    ));
    keep(&table, 50_001, 0);
    let again = ruling(&table, 50_001, false, 0);
    assert!(
        matches!(again, Ruling::Default(Action::Block, Unasked::CannotHold)),
        "it waits"
    );
}

const ABSENCES: [Absence; 3] = [Absence::NoProgram, Absence::NoEngine, Absence::Asleep];

#[test]
fn when_nobody_is_there_nothing_is_held() {
    for absence in ABSENCES {
        let table = table(4, 4);
        keep(&table, 50_000, 0);
        let late = hold(&table, 50_001, 0);
        let mut released = Vec::new();
        table.close(absence);
        table.release_all(SECOND, |one| released.push(seen(&one)));
        assert_eq!(released, [(50_000, Action::Block, Release::Abandoned)]);
        let nobody = ruling(&table, 50_002, true, SECOND);
        assert!(matches!(
            nobody,
            Ruling::Default(Action::Block, Unasked::Nobody)
        ));
        // What was about to be held goes on at the next look.
        let question = labelled(&late, SECOND);
        table.keep(late, 1, &question, false);
        released.clear();
        table.expire(SECOND, |one| released.push(seen(&one)));
        assert_eq!(released, [(1, Action::Block, Release::Abandoned)]);
    }
}

#[test]
fn somebody_is_there_when_no_reason_is_left_that_nobody_is() {
    let table = table(4, 4);
    for absence in ABSENCES {
        table.close(absence);
        table.close(absence);
    }
    for absence in ABSENCES {
        let nobody = ruling(&table, 50_000, true, 0);
        assert!(
            matches!(nobody, Ruling::Default(_, Unasked::Nobody)),
            "{absence:?}"
        );
        table.open(absence);
    }
    keep(&table, 50_000, 0);
}

#[test]
fn a_full_table_holds_no_more() {
    let table = table(2, 8);
    keep(&table, 1, 0);
    let second = hold(&table, 2, 0);
    let full = ruling(&table, 3, true, 0);
    assert!(matches!(
        full,
        Ruling::Default(Action::Block, Unasked::NoRoom)
    ));
    table.give_up(second);
    assert_eq!(table.len(), 1);
    keep(&table, 3, 0);
    keep_fails_again(&table);
}

fn keep_fails_again(table: &Table) {
    assert!(matches!(
        ruling(table, 4, true, 0),
        Ruling::Default(_, Unasked::NoRoom)
    ));
}

#[test]
fn questions_are_told_in_the_order_in_which_they_came() {
    let table = table(8, 8);
    let first: Vec<_> = (0..4).map(|port| keep(&table, port, 0)).collect();
    assert!(table.answer(first[0], Action::Permit, 0, drop));
    let last = keep(&table, 9, 0);
    let told: Vec<_> = std::iter::from_fn(|| table.next_question())
        .map(|question| question.value[0].get())
        .collect();
    let expected: Vec<_> = first[1..]
        .iter()
        .chain([&last])
        .map(|ticket| ticket.raw())
        .collect();
    assert_eq!(told, expected);
    assert!(!table.has_question());
}

#[test]
fn an_answer_is_forgotten_after_a_while_unless_a_flow_needs_it() {
    let table = table(4, 4);
    for port in [1, 2] {
        let ticket = keep(&table, port, 0);
        assert!(table.answer(ticket, Action::Permit, 0, drop));
    }
    assert_eq!(table.flow_began(&subject(1), 0), Some(Action::Permit));
    assert_eq!(table.flow_began(&subject(3), 0), None);
    let later = 1000 * REMEMBERED;
    assert!(matches!(
        ruling(&table, 1, false, later),
        Ruling::Answered(Action::Permit)
    ));
    assert!(matches!(
        ruling(&table, 2, false, later),
        Ruling::Default(..)
    ));
    table.flow_ended(&subject(1));
    assert!(
        matches!(ruling(&table, 1, false, 0), Ruling::Default(..)),
        "asked anew"
    );
}

#[test]
fn the_answer_that_is_needed_least_makes_room() {
    let table = table(16, 1);
    for port in 0..8 {
        let ticket = keep(&table, port, 0);
        assert!(table.answer(ticket, Action::Permit, u64::from(port), drop));
    }
    assert!(table.flow_began(&subject(0), 0).is_some());
    keep(&table, 100, 10);
    assert_eq!(table.forgotten(), 1);
    assert!(
        matches!(ruling(&table, 0, false, 10), Ruling::Answered(_)),
        "a flow needs it"
    );
    assert!(
        matches!(ruling(&table, 1, false, 10), Ruling::Default(..)),
        "the oldest"
    );
    for port in 101..108 {
        keep(&table, port, 10);
    }
    assert_eq!(table.forgotten(), 8);
    // Eight wait: none of them makes room.
    let full = ruling(&table, 200, true, 10);
    assert!(
        matches!(full, Ruling::Default(_, Unasked::NoRoom)),
        "{full:?}"
    );
    assert_eq!(table.len(), 8);
}

#[test]
fn the_type_and_code_of_icmp_messages_make_no_other_subject() {
    let ping = |kind, code| Connection {
        protocol: 1,
        local: Endpoint::new([192, 0, 2, 10].into(), kind),
        remote: Endpoint::new([198, 51, 100, 1].into(), code),
        ..connection(0)
    };
    assert_eq!(
        Subject::connection(&ping(8, 0)),
        Subject::connection(&ping(0, 1))
    );
    assert_ne!(subject(1), subject(2));
    let inbound = Connection {
        direction: Direction::Inbound,
        ..connection(1)
    };
    assert_ne!(Subject::connection(&inbound), subject(1));
}

/// What one processor does in a run on several.
#[test]
fn each_operation_goes_on_exactly_once_whoever_lets_it() {
    const PORTS: u16 = 400;
    let table = table(8, 64);
    let seen: Vec<AtomicU32> = (0..PORTS).map(|_| AtomicU32::new(0)).collect();
    let done = AtomicU32::new(0);
    let note = |one: Released<u32>| {
        seen[one.held as usize].fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (table, done) = (&table, &done);
            scope.spawn(move || {
                for port in (half..PORTS).step_by(2) {
                    loop {
                        match table.authorize(&subject(port), TERMS, true, 0) {
                            Ruling::Hold(hold) => {
                                let question = labelled(&hold, 0);
                                table.keep(hold, port.into(), &question, false);
                                break;
                            }
                            Ruling::Default(_, Unasked::NoRoom | Unasked::Nobody) => {
                                std::thread::yield_now();
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
                done.fetch_add(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            while done.load(Ordering::Acquire) < 2 {
                while let Some(question) = table.next_question() {
                    let ticket = Ticket::from_raw(question.value[0].get()).expect("a ticket");
                    table.answer(ticket, Action::Permit, 0, note);
                }
            }
        });
        scope.spawn(|| {
            while done.load(Ordering::Acquire) < 2 {
                table.close(Absence::NoProgram);
                table.release_all(0, note);
                table.open(Absence::NoProgram);
                table.expire(0, note);
            }
        });
    });
    table.release_all(0, note);
    assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    assert!(table.is_empty());
}

/// A step of a run in one thread.
#[derive(Clone, Debug)]
enum Step {
    Authorize {
        port: u16,
        may_hold: bool,
        kept: bool,
    },
    Answer {
        nth: usize,
        permit: bool,
    },
    /// An answer to a question that nobody asked.
    Forge(u64),
    Pass(u64),
    Close(Absence),
    Open(Absence),
    FlowBegins(u16),
    FlowEnds(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let port = 0..12u16;
    let absence = proptest::sample::select(&ABSENCES);
    let step = prop_oneof![
        4 => (port.clone(), any::<bool>(), any::<bool>()).prop_map(|(port, may_hold, kept)| Step::Authorize { port, may_hold, kept }),
        3 => (0..8usize, any::<bool>()).prop_map(|(nth, permit)| Step::Answer { nth, permit }),
        1 => any::<u64>().prop_map(Step::Forge),
        1 => (0..60 * SECOND).prop_map(Step::Pass),
        1 => absence.clone().prop_map(Step::Close),
        1 => absence.prop_map(Step::Open),
        1 => port.clone().prop_map(Step::FlowBegins),
        1 => port.prop_map(Step::FlowEnds),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    /// Whatever happens in whichever order: what is held goes on once, by its answer if it had one, else by the default.
    #[test]
    fn nothing_is_lost_and_nothing_is_invented(steps in steps()) {
        let table = table(3, 2);
        let mut now = 0;
        let mut waiting: HashMap<u64, u32> = HashMap::new();
        let mut absent = HashSet::new();
        let mut next = 0;
        for step in steps {
            let mut released = Vec::new();
            match step {
                Step::Authorize { port, may_hold, kept } => {
                    if let Ruling::Hold(hold) = ruling(&table, port, may_hold, now) {
                        prop_assert!(may_hold && absent.is_empty());
                        if kept {
                            next += 1;
                            let ticket = hold.ticket().raw();
                            let question = labelled(&hold, now);
                            table.keep(hold, next, &question, false);
                            prop_assert!(waiting.insert(ticket, next).is_none());
                        } else {
                            table.give_up(hold);
                        }
                    }
                }
                Step::Answer { nth, permit } => {
                    let mut tickets: Vec<_> = waiting.keys().copied().collect();
                    tickets.sort_unstable();
                    if let Some(&ticket) = tickets.get(nth) {
                        let action = if permit { Action::Permit } else { Action::Block };
                        let ticket = Ticket::from_raw(ticket).expect("not zero");
                        prop_assert!(table.answer(ticket, action, now, |one| released.push((one, action))));
                    }
                }
                Step::Forge(raw) => {
                    if let Some(ticket) = Ticket::from_raw(raw).filter(|_| !waiting.contains_key(&raw)) {
                        prop_assert!(!table.answer(ticket, Action::Permit, now, |_| ()));
                    }
                }
                Step::Pass(time) => {
                    now += time;
                    table.expire(now, |one| released.push((one, Action::Block)));
                }
                Step::Close(absence) => {
                    absent.insert(absence as u8);
                    table.close(absence);
                    table.release_all(now, |one| released.push((one, Action::Block)));
                }
                Step::Open(absence) => {
                    absent.remove(&(absence as u8));
                    table.open(absence);
                }
                Step::FlowBegins(port) => drop(table.flow_began(&subject(port), now)),
                Step::FlowEnds(port) => table.flow_ended(&subject(port)),
            }
            for (one, action) in released {
                prop_assert_eq!(one.action, action);
                prop_assert_eq!(waiting.remove(&one.question.value[0].get()), Some(one.held));
            }
            prop_assert_eq!(table.len() as usize, waiting.len());
        }
    }
}
