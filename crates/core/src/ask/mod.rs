//! Asking somebody: what waits for an answer, and what was answered.
//!
//! A rule with the action [`Ask`](portcullis_proto::Action::Ask) decides nothing itself. [`Asking::authorize`] says what
//! becomes of such an operation: it was answered before, it waits already, it is to be held, or it cannot be held and
//! the rule's default decides. What is held waits in a slot with whatever the caller needs to let it go on, until it is
//! [answered](Asking::answer), its [time runs out](Asking::expire), or [nobody](Asking::close) is there to answer any
//! more. The answer is remembered under the operation's [`Subject`], because the system asks again.
//!
//! Nothing here allocates or waits; each lock is held for one slot, or for one bucket of answers, never two at a time.
//! What was held is given back with no lock held: letting it go on may authorize it again at once.

mod answers;
mod held;
mod subject;

pub use answers::AnswerBucket;
pub use held::{HeldSlot, Ticket};
pub use subject::Subject;

use answers::{Answers, Known, Reserved};
use core::sync::atomic::{AtomicU8, Ordering};
use held::Held;
use lock_api::RawMutex;
use portcullis_proto::event::EventRecord;
use portcullis_proto::policy::Action;
use zerocopy::little_endian::U64;

/// How long an answer is remembered that no living flow needs, in units of 100 ns: a minute. A peer that sends its SYN
/// again, or an application that sends its datagram again, finds it.
pub const REMEMBERED: u64 = 60 * 10_000_000;

/// On what terms a rule asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// For how long an operation is held, in milliseconds.
    pub milliseconds: u32,
    /// What happens if nobody answers: permit or block.
    pub otherwise: Action,
}

impl Terms {
    /// The terms of a decision that asks nobody.
    pub const NONE: Self = Self {
        milliseconds: 0,
        otherwise: Action::Block,
    };
}

/// Why nobody is there to answer. While there is any reason, nothing is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// No program reads questions.
    NoProgram = 1,
    /// The engine that would enforce an answer is down.
    NoEngine = 2,
    /// The system is about to sleep, or sleeps.
    Asleep = 4,
}

/// Why the rule's default decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// The operation cannot be held: it is authorized again, or somebody has decided before.
    CannotHold,
    /// Nobody is there to answer.
    Nobody,
    /// As many operations are held as there is room for, or as many answers are remembered.
    NoRoom,
}

/// What becomes of an operation about which somebody is to be asked.
#[derive(Debug)]
pub enum Ruling {
    /// It was answered before.
    Answered(Action),
    /// The rule's default decides.
    Default(Action, Unasked),
    /// It waits already. This packet is taken away; whoever sent it sends it again.
    Waits,
    /// It is to be held, and then [kept](Asking::keep), or else [given up](Asking::give_up).
    Hold(Hold),
}

/// A slot for what is about to be held.
#[derive(Debug)]
#[must_use = "the slot is taken until it is kept or given up"]
pub struct Hold {
    ticket: Ticket,
    subject: Subject,
    terms: Terms,
}

impl Hold {
    /// What names the question.
    #[must_use]
    pub const fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Gives the question its number and its deadline.
    pub fn label(&self, question: &mut EventRecord, now: u64) {
        let deadline = now.saturating_add(u64::from(self.terms.milliseconds) * 10_000);
        question.value = [U64::new(self.ticket.raw()), U64::new(deadline)];
    }
}

/// How it came that something is no longer held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Somebody answered.
    Answered,
    /// Its time ran out.
    TimedOut,
    /// Nobody is there to answer any more.
    Abandoned,
}

/// What was held, and is to go on.
#[derive(Debug)]
pub struct Released<T> {
    /// What the caller keeps for it.
    pub held: T,
    /// What was decided.
    pub action: Action,
    /// How.
    pub release: Release,
    /// The question.
    pub question: EventRecord,
    /// Whether it makes events.
    pub is_reported: bool,
}

/// What waits for an answer, and what was answered.
///
/// `R` is the lock, `H` the storage for as many [`HeldSlot`]s as operations can be held, `B` that for the
/// [`AnswerBucket`]s, `T` what the caller keeps for each operation that is held.
pub struct Asking<R, H, B, T> {
    held: Held<R, H, T>,
    answers: Answers<R, B>,
    /// Each [`Absence`] that there is, as a bit.
    absent: AtomicU8,
}

impl<R, H, B, T> Asking<R, H, B, T>
where
    R: RawMutex,
    H: AsRef<[HeldSlot<R, T>]>,
    B: AsRef<[AnswerBucket<R>]>,
{
    /// Nothing is held, nothing is remembered, and there is no program. `seed` keeps others from guessing which subjects share a
    /// bucket.
    pub fn new(slots: H, buckets: B, seed: u64) -> Self {
        Self {
            held: Held::new(slots),
            answers: Answers::new(buckets, seed),
            absent: AtomicU8::new(Absence::NoProgram as u8),
        }
    }

    /// How many operations are held, those among them that are about to be.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.held.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many can be held.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.held.capacity()
    }

    /// This is no reason any more that nobody answers.
    pub fn open(&self, absence: Absence) {
        self.absent.fetch_and(!(absence as u8), Ordering::SeqCst);
    }

    /// For this reason nobody is there to answer, until it is [`open`](Self::open) again. What is held is to be
    /// [released](Self::release_all) afterwards.
    pub fn close(&self, absence: Absence) {
        self.absent.fetch_or(absence as u8, Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        self.absent.load(Ordering::SeqCst) == 0
    }

    /// Lets everything that is held go on by its rule's default.
    pub fn release_all(&self, now: u64, release: impl FnMut(Released<T>)) {
        self.release_some(now, |_| Some(Release::Abandoned), release);
    }

    /// Lets what has waited long enough go on by its rule's default.
    pub fn expire(&self, now: u64, release: impl FnMut(Released<T>)) {
        let due = |deadline: u64| match deadline {
            // Kept when nobody was there any more.
            0 => Some(Release::Abandoned),
            deadline => (deadline <= now).then_some(Release::TimedOut),
        };
        self.release_some(now, due, release);
    }

    fn release_some(
        &self,
        now: u64,
        why: impl Fn(u64) -> Option<Release>,
        mut release: impl FnMut(Released<T>),
    ) {
        for index in 0..self.capacity() {
            let taken = self.held.take_at(index, |kept| {
                why(kept.deadline).map(|release| (release, kept.otherwise))
            });
            if let Some(taken) = taken {
                self.go_on(taken, now, &mut release);
            }
        }
    }

    /// Somebody answers the question of this number: permit or block. `false`: there is none, or not any more.
    pub fn answer(
        &self,
        ticket: Ticket,
        action: Action,
        now: u64,
        mut release: impl FnMut(Released<T>),
    ) -> bool {
        let taken = self
            .held
            .take(ticket, |_| Some((Release::Answered, action)));
        taken.is_some_and(|taken| {
            self.go_on(taken, now, &mut release);
            true
        })
    }

    fn go_on(&self, taken: held::Taken<T>, now: u64, release: &mut impl FnMut(Released<T>)) {
        let expires = now.saturating_add(REMEMBERED);
        self.answers
            .decide(&taken.subject, taken.ticket, taken.released.action, expires);
        release(taken.released);
    }

    /// Decides an operation about which somebody is to be asked.
    ///
    /// `may_hold`: the system lets the caller hold it, which it does not where it authorizes again.
    pub fn authorize(&self, subject: &Subject, terms: Terms, may_hold: bool, now: u64) -> Ruling {
        match self.answers.find(subject, now) {
            Some(Known::Answered(action)) => return Ruling::Answered(action),
            Some(Known::Waits) if may_hold => return Ruling::Waits,
            _ => {}
        }
        let default = |why| Ruling::Default(terms.otherwise, why);
        if !may_hold {
            return default(Unasked::CannotHold);
        }
        if !self.is_open() {
            return default(Unasked::Nobody);
        }
        let Some(ticket) = self.held.reserve() else {
            return default(Unasked::NoRoom);
        };
        let reserved = self.answers.reserve(subject, ticket, now);
        if !matches!(reserved, Reserved::Taken) {
            self.held.give_back(ticket);
        }
        match reserved {
            Reserved::Taken => Ruling::Hold(Hold {
                ticket,
                subject: *subject,
                terms,
            }),
            // Another processor was faster.
            Reserved::Known(Known::Answered(action)) => Ruling::Answered(action),
            Reserved::Known(Known::Waits) => Ruling::Waits,
            Reserved::Full => default(Unasked::NoRoom),
        }
    }

    /// The operation is held: from now on it can be asked about, by its [labelled](Hold::label) question.
    ///
    /// If nobody is there to answer any more, the next [`expire`](Self::expire) lets it go on; so one is to come soon.
    #[allow(clippy::needless_pass_by_value, reason = "a hold is used once")]
    pub fn keep(&self, hold: Hold, what: T, question: &EventRecord, is_reported: bool) {
        let Hold {
            ticket,
            subject,
            terms,
        } = hold;
        self.held.fill(ticket, || held::Kept {
            subject,
            // Under the slot's lock, which whoever releases all takes after closing: that sees the slot full, or this
            // sees that nobody is there.
            deadline: if self.is_open() {
                question.deadline()
            } else {
                0
            },
            otherwise: terms.otherwise,
            is_told: false,
            is_reported,
            question: *question,
            held: what,
        });
    }

    /// The operation could not be held.
    #[allow(clippy::needless_pass_by_value, reason = "a hold is used once")]
    pub fn give_up(&self, hold: Hold) {
        self.answers.forget(&hold.subject, hold.ticket);
        self.held.give_back(hold.ticket);
    }

    /// Takes the oldest question that nobody has been told yet. It keeps waiting for its answer.
    #[must_use]
    pub fn next_question(&self) -> Option<EventRecord> {
        self.held.next_untold()
    }

    /// Whether there is a question that nobody has been told yet.
    #[must_use]
    pub fn has_question(&self) -> bool {
        self.held.has_untold()
    }

    /// A flow begins. Its answer, if there was one, is remembered until [`flow_ended`](Self::flow_ended).
    #[must_use]
    pub fn flow_began(&self, subject: &Subject, now: u64) -> Option<Action> {
        self.answers.pin(subject, now)
    }

    /// A flow whose answer was remembered has ended.
    pub fn flow_ended(&self, subject: &Subject) {
        self.answers.unpin(subject);
    }

    /// Answers that were forgotten for want of room while they were still needed.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.answers.forgotten()
    }
}
