//! Bytes are conserved: what a sender wrote, what each stage of a waterfall saw and what the receiver got agree,
//! whatever the stages do and however the segments come.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use wfp_schema::{StreamAction, StreamFlags};

use super::build::{ACK, Dialogue, FIN};
use super::recorder::{Piece, Recorder, setup};
use super::robustness::config;
use crate::net::{Host, Output, Setup, StageId, StreamInjection, StreamOutcome, Verdict};

const STAGES: usize = 3;

/// What a stage does about a piece; where it may not, it permits everything.
#[derive(Clone, Copy, Debug)]
enum Act {
    Permit(usize),
    Block(usize),
    Need(usize),
    Defer,
    Allow,
    /// Blocks everything and injects it again changed: every byte becomes its complement.
    Edit,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..9_usize).prop_map(Act::Permit),
        2 => (0..9_usize).prop_map(Act::Block),
        2 => (1..30_usize).prop_map(Act::Need),
        1 => Just(Act::Defer),
        1 => Just(Act::Edit),
        1 => Just(Act::Allow),
    ]
}

/// What a stage has decided.
#[derive(Debug, Default)]
struct Account {
    /// The bytes about which it gave a verdict.
    consumed: Vec<u8>,
    /// What it let go: permitted or injected.
    passed: Vec<u8>,
    blocked: u64,
    /// What it was told that stages above had withheld.
    missed: u64,
    allowed: bool,
    ends: usize,
    /// What it has still to inject.
    injection: Vec<u8>,
    deferred: bool,
    /// Whether it has deferred what it is shown now: it does so once.
    waited: bool,
}

/// The stages, and what they still have to do.
#[derive(Debug)]
struct Record {
    acts: Vec<Act>,
    next: usize,
    stages: [Account; STAGES],
}

impl Record {
    fn answer(&mut self, piece: &Piece) -> StreamOutcome {
        let stage = usize::try_from(piece.stage).expect("few stages");
        let account = &mut self.stages[stage];
        account.missed += piece.missed;
        if piece.bytes.is_empty() {
            account.ends += 1;
            return StreamOutcome::PERMIT;
        }
        let act = self.acts[self.next % self.acts.len()];
        self.next += 1;
        let must_decide = !piece.out_flags.is_empty();
        let inbound = piece.flags.contains(StreamFlags::RECEIVE);
        let waited = std::mem::take(&mut account.waited);
        let (verdict, enforced) = match act {
            Act::Need(more) if !must_decide => return StreamOutcome::need(more),
            Act::Defer if !must_decide && inbound && !waited => {
                (account.deferred, account.waited) = (true, true);
                return StreamOutcome::action(StreamAction::Defer);
            }
            // What it has still to inject would come behind what it allows.
            Act::Allow if account.injection.is_empty() => {
                account.allowed = true;
                account.consumed.extend(&piece.bytes);
                account.passed.extend(&piece.bytes);
                return StreamOutcome::action(StreamAction::AllowConnection);
            }
            Act::Edit if !must_decide => {
                account
                    .injection
                    .extend(piece.bytes.iter().map(|byte| !byte));
                (Verdict::Block, 0)
            }
            Act::Block(enforced) => (Verdict::Block, enforced),
            Act::Permit(enforced) => (Verdict::Permit, enforced),
            Act::Need(_) | Act::Defer | Act::Edit | Act::Allow => (Verdict::Permit, 0),
        };
        let count = match enforced {
            0 => piece.bytes.len(),
            count => count.min(piece.bytes.len()),
        };
        account.consumed.extend(&piece.bytes[..count]);
        match verdict {
            Verdict::Permit => account.passed.extend(&piece.bytes[..count]),
            Verdict::Block => account.blocked += count as u64,
        }
        StreamOutcome::first(verdict, enforced)
    }
}

/// Lets deferred stages go on and injects what stages changed, the lowest first.
fn serve(host: &mut Host<Recorder>, record: &RefCell<Record>, flags: StreamFlags) {
    let handle = host.flows()[0].handles[0];
    let mut busy = true;
    while busy {
        busy = false;
        for stage in (0..STAGES).rev() {
            let (injection, deferred) = {
                let account = &mut record.borrow_mut().stages[stage];
                let injection = std::mem::take(&mut account.injection);
                account.passed.extend(&injection);
                (injection, std::mem::take(&mut account.deferred))
            };
            let id = StageId(stage as u64);
            if !injection.is_empty() {
                assert!(host.stream_inject(handle, &StreamInjection::new(id, flags, &injection)));
            }
            if deferred {
                assert!(host.stream_continue(handle, id));
            }
            busy |= deferred || !injection.is_empty();
        }
    }
}

/// What came out of the stack: the data, and how often the end.
fn received(host: &mut Host<Recorder>, flags: StreamFlags) -> (Vec<u8>, usize) {
    let (mut data, mut ends) = (Vec::new(), 0);
    for output in host.output() {
        if let Output::Stream {
            flags: of, bytes, ..
        } = output
            && of.contains(flags)
        {
            ends += usize::from(bytes.is_empty());
            data.extend(bytes);
        }
    }
    (data, ends)
}

/// The segments of a stream, each as long as `cuts` say.
fn segments(talk: &mut Dialogue, from_here: bool, written: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    let mut rest = written;
    for &cut in cuts.iter().chain([&usize::MAX]) {
        let (head, tail) = rest.split_at(cut.min(rest.len()));
        if !head.is_empty() {
            segments.push(talk.say(from_here, head));
        }
        rest = tail;
    }
    segments
}

/// Compares what each stage saw and let go with what came before and after it.
fn compare(record: &Record, written: &[u8], got: &[u8], ends: usize) -> Result<(), TestCaseError> {
    prop_assert_eq!(ends, 1, "the end is received once");
    let mut above = written.to_vec();
    let mut withheld = 0;
    for (stage, account) in record.stages.iter().enumerate() {
        prop_assert!(
            above.starts_with(&account.consumed),
            "stage {stage} saw {:?} of {above:?}",
            account.consumed
        );
        let bypassed = &above[account.consumed.len()..];
        if !account.allowed {
            prop_assert!(
                bypassed.is_empty(),
                "stage {stage} did not see {bypassed:?}"
            );
            prop_assert_eq!(account.ends, 1, "stage {} sees the end once", stage);
            prop_assert_eq!(account.missed, withheld, "missed by stage {}", stage);
        }
        above = [&account.passed[..], bypassed].concat();
        withheld += account.blocked;
    }
    prop_assert_eq!(
        got,
        above,
        "what the last stage let go is what was received"
    );
    Ok(())
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn what_was_written_is_what_stages_see_and_what_they_let_go_is_received(
        written in proptest::collection::vec(any::<u8>(), 1..300),
        cuts in proptest::collection::vec(1..60_usize, 0..8),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        acts in proptest::collection::vec(act(), 1..20),
        inbound in any::<bool>(),
    ) {
        let with_output = Setup { output: true, ..setup() };
        let mut host = Host::new(Recorder::default(), with_output);
        let mut talk = Dialogue::new("10.0.0.1:50000", "192.0.2.1:443");
        for packet in talk.handshake() {
            host.packet(0, &packet);
        }
        let stages = std::array::from_fn(|_| Account::default());
        let record = Rc::new(RefCell::new(Record { acts, next: 0, stages }));
        let answers = Rc::clone(&record);
        host.filtering().stages = STAGES as u64;
        host.filtering().stream = Box::new(move |piece| answers.borrow_mut().answer(piece));
        host.output();
        let flags = if inbound { StreamFlags::RECEIVE } else { StreamFlags::SEND };
        let segments = segments(&mut talk, !inbound, &written, &cuts);
        // In any order and with repeats, then whatever has not come yet.
        let mut sent: Vec<_> = order.iter().map(|index| index.index(segments.len())).collect();
        sent.extend(0..segments.len());
        for index in sent {
            host.packet(0, &segments[index]);
            serve(&mut host, &record, flags);
        }
        host.packet(0, &talk.segment(!inbound, FIN | ACK, &[]));
        serve(&mut host, &record, flags);
        let (got, ends) = received(&mut host, flags);
        compare(&record.borrow(), &written, &got, ends)?;
    }
}
