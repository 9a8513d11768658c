//! What was answered, and what waits to be, by subject: a fixed number of buckets, each with its own lock.

use super::held::Ticket;
use super::subject::Subject;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};
use lock_api::{Mutex, RawMutex};
use portcullis_proto::policy::Action;

/// Subjects that share a bucket.
const WAYS: usize = 8;

/// Storage for eight answers.
pub struct AnswerBucket<R>(Mutex<R, [Option<Entry>; WAYS]>);

impl<R: RawMutex> AnswerBucket<R> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new([None; WAYS]))
    }
}

impl<R: RawMutex> Default for AnswerBucket<R> {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    subject: Subject,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// It waits in the slot of this ticket.
    Waits(Ticket),
    /// It was answered.
    Answered {
        action: Action,
        /// When it may be forgotten, unless flows need it.
        expires: u64,
        /// Living flows that need it.
        flows: u32,
    },
}

impl Entry {
    /// Whether it is of no use any more.
    const fn is_over(&self, now: u64) -> bool {
        matches!(self.state, State::Answered { expires, flows: 0, .. } if expires <= now)
    }

    const fn known(&self) -> Known {
        match self.state {
            State::Waits(_) => Known::Waits,
            State::Answered { action, .. } => Known::Answered(action),
        }
    }

    /// What may be forgotten first, the least first; `None` if it waits.
    const fn worth(&self) -> Option<(bool, u64)> {
        match self.state {
            State::Waits(_) => None,
            State::Answered { expires, flows, .. } => Some((flows > 0, expires)),
        }
    }
}

/// What is known of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It was answered.
    Answered(Action),
    /// It waits.
    Waits,
}

/// What became of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// The subject waits now.
    Taken,
    /// It was reserved or answered before.
    Known(Known),
    /// There is no room.
    Full,
}

/// The table.
pub(super) struct Answers<R, B> {
    buckets: B,
    seed: u64,
    forgotten: AtomicU64,
    _lock: PhantomData<R>,
}

impl<R: RawMutex, B: AsRef<[AnswerBucket<R>]>> Answers<R, B> {
    pub(super) const fn new(buckets: B, seed: u64) -> Self {
        Self {
            buckets,
            seed,
            forgotten: AtomicU64::new(0),
            _lock: PhantomData,
        }
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// What is known of the subject.
    pub(super) fn find(&self, subject: &Subject, now: u64) -> Option<Known> {
        self.with(subject, |bucket| {
            living(bucket, subject, now).map(|entry| entry.known())
        })
        .flatten()
    }

    /// Makes the subject wait, unless more is known of it.
    pub(super) fn reserve(&self, subject: &Subject, ticket: Ticket, now: u64) -> Reserved {
        let entry = Entry {
            subject: *subject,
            state: State::Waits(ticket),
        };
        let reserved = self.with(subject, |bucket| {
            if let Some(known) = living(bucket, subject, now) {
                return Reserved::Known(known.known());
            }
            let free = bucket
                .iter_mut()
                .find(|place| place.is_none_or(|entry| entry.is_over(now)));
            if let Some(place) = free {
                *place = Some(entry);
                return Reserved::Taken;
            }
            let worth = |place: &Option<Entry>| place.as_ref().and_then(Entry::worth);
            let least = bucket
                .iter_mut()
                .filter(|place| worth(place).is_some())
                .min_by_key(|place| worth(place));
            least.map_or(Reserved::Full, |place| {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
                *place = Some(entry);
                Reserved::Taken
            })
        });
        reserved.unwrap_or(Reserved::Full)
    }

    /// What waited under this ticket is answered.
    pub(super) fn decide(&self, subject: &Subject, ticket: Ticket, action: Action, expires: u64) {
        self.with(subject, |bucket| {
            if let Some(place) = waiting(bucket, ticket)
                && let Some(entry) = place
            {
                entry.state = State::Answered {
                    action,
                    expires,
                    flows: 0,
                };
            }
        });
    }

    /// What waited under this ticket waits no more.
    pub(super) fn forget(&self, subject: &Subject, ticket: Ticket) {
        self.with(subject, |bucket| {
            if let Some(place) = waiting(bucket, ticket) {
                *place = None;
            }
        });
    }

    /// A flow needs the subject's answer from now on, if there is one.
    pub(super) fn pin(&self, subject: &Subject, now: u64) -> Option<Action> {
        self.with(subject, |bucket| {
            let entry = living(bucket, subject, now)?;
            match &mut entry.state {
                State::Answered { action, flows, .. } => {
                    *flows = flows.saturating_add(1);
                    Some(*action)
                }
                State::Waits(_) => None,
            }
        })
        .flatten()
    }

    /// A flow no longer needs it. What was permitted is asked about anew next time.
    pub(super) fn unpin(&self, subject: &Subject) {
        self.with(subject, |bucket| {
            let place = bucket
                .iter_mut()
                .find(|place| place.is_some_and(|entry| entry.subject == *subject));
            if let Some(place) = place
                && let Some(Entry {
                    state: State::Answered { flows, .. },
                    ..
                }) = place
            {
                *flows = flows.saturating_sub(1);
                if *flows == 0 {
                    *place = None;
                }
            }
        });
    }

    fn with<T>(
        &self,
        subject: &Subject,
        with: impl FnOnce(&mut [Option<Entry>; WAYS]) -> T,
    ) -> Option<T> {
        let buckets = self.buckets.as_ref();
        let count = u64::try_from(buckets.len()).ok()?;
        let place = subject.hash(self.seed).checked_rem(count)?;
        let bucket = buckets.get(usize::try_from(place).ok()?)?;
        Some(with(&mut bucket.0.lock()))
    }
}

/// The subject's entry, if it is still of use.
fn living<'b>(
    bucket: &'b mut [Option<Entry>; WAYS],
    subject: &Subject,
    now: u64,
) -> Option<&'b mut Entry> {
    bucket
        .iter_mut()
        .flatten()
        .find(|entry| entry.subject == *subject && !entry.is_over(now))
}

/// The place of what waits under a ticket.
fn waiting(bucket: &mut [Option<Entry>; WAYS], ticket: Ticket) -> Option<&mut Option<Entry>> {
    bucket.iter_mut().find(
        |place| matches!(place, Some(Entry { state: State::Waits(its), .. }) if *its == ticket),
    )
}
