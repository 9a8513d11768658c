//! What ends a command that goes on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ends a command that goes on: the user does, or its time is over. A constant of it may be `static`, as what Ctrl+C
/// calls needs it.
#[derive(Debug, Default)]
pub struct Stop {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    end: End,
    deadline: Option<Instant>,
}

impl State {
    const fn new() -> Self {
        Self {
            end: End::NotYet,
            deadline: None,
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Requested,
    /// It had ended before.
    Over,
}

impl Stop {
    /// Nobody has asked for the end.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            changed: Condvar::new(),
        }
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.end(End::Requested);
    }

    /// Asks for the end when this much time has gone by. The earliest deadline counts.
    pub(super) fn request_after(&self, time: Duration) {
        // Later than any clock tells is never.
        let Some(new) = Instant::now().checked_add(time) else {
            return;
        };
        let mut state = self.lock();
        state.deadline = Some(state.deadline.map_or(new, |old| old.min(new)));
        drop(state);
        self.changed.notify_all();
    }

    /// It has ended: whoever waits need not do anything.
    pub(super) fn over(&self) {
        self.end(End::Over);
    }

    /// Waits for the end. `false`: it has ended by itself.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.lock();
        while state.end == End::NotYet {
            let left = state
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => return true,
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.end == End::Requested
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end == End::NotYet {
            state.end = end;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing panics while it is locked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Stop;
    use std::time::Duration;

    #[test]
    fn the_first_end_counts() {
        let stop = Stop::new();
        stop.request();
        stop.over();
        assert!(stop.wait());
        let stop = Stop::new();
        stop.over();
        stop.request();
        assert!(!stop.wait());
    }

    #[test]
    fn its_time_ends_it_and_the_earliest_deadline_counts() {
        let stop = Stop::new();
        stop.request_after(Duration::MAX);
        stop.request_after(Duration::from_hours(1));
        stop.request_after(Duration::ZERO);
        stop.request_after(Duration::from_hours(1));
        assert!(stop.wait());
    }
}
