//! What a classify function may answer, and how the answer is written.
//!
//! Each kind of layer has its own verdict type, so that an answer that is not
//! legal there does not compile. [`Verdict::write`] is the one place where
//! action, rights and flags of `FWPS_CLASSIFY_OUT0` are decided.

use wfp_schema::{Action, ClassifyOutFlags, Rights, StreamAction, flags::RuntimeFilterFlags};

/// The members of `FWPS_CLASSIFY_OUT0` that belong to the callout, as found and as left, with
/// what a stream's packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassifyOut {
    /// `actionType`: on entry an earlier decision, or anything if there is none.
    pub action: u32,
    /// `rights`.
    pub rights: Rights,
    /// `flags`.
    pub flags: ClassifyOutFlags,
    /// What a stream verdict writes to the packet; `None` as found.
    pub stream: Option<StreamOut>,
}

impl ClassifyOut {
    const fn set_action(&mut self, action: Action) {
        self.action = action.value();
    }

    /// Makes the decision hard: filters of lighter sublayers may not override it.
    const fn clear_right(&mut self) {
        self.rights = self.rights.without(Rights::ACTION_WRITE);
    }
}

/// The members of `FWPS_STREAM_CALLOUT_IO_PACKET0` that a callout answers by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOut {
    /// `streamAction`.
    pub action: StreamAction,
    /// `countBytesRequired`: how many more bytes are wanted.
    pub required: u32,
    /// `countBytesEnforced`: to how many bytes the verdict applies; 0 for all.
    pub enforced: usize,
}

/// What became of an answer, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The callout had no opinion.
    Continue,
    /// The callout permitted.
    Permit,
    /// The callout blocked, or ended the connection.
    Block,
    /// The callout had an opinion, but an earlier filter has taken the right to decide.
    NoRight,
}

/// An answer of a classify function.
pub trait Verdict: Copy {
    /// The answer when the callout cannot look: the traffic goes on as if there were no callout.
    const ABSTAIN: Self;

    /// Writes the answer by the rules of the DDI pages of `FWPS_CLASSIFY_OUT0` and
    /// `FWPS_CALLOUT_CLASSIFY_FN2`.
    fn write(self, filter: RuntimeFilterFlags, out: &mut ClassifyOut) -> Outcome;
}

/// The verdict at layers that authorize, and at those where packets are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// No opinion: the next filter decides.
    Continue,
    /// Permit; lighter sublayers may still block.
    Permit,
    /// Block, finally.
    Block,
    /// Block without a trace: no discard layer, no audit event.
    BlockSilently,
}

impl Verdict for Authorization {
    const ABSTAIN: Self = Self::Continue;

    fn write(self, filter: RuntimeFilterFlags, out: &mut ClassifyOut) -> Outcome {
        let writable = out.rights.contains(Rights::ACTION_WRITE);
        match self {
            // Without the right the action stays as it was found.
            Self::Continue if !writable => Outcome::Continue,
            Self::Permit if !writable => Outcome::NoRight,
            Self::Continue => {
                out.set_action(Action::Continue);
                Outcome::Continue
            }
            Self::Permit => {
                out.set_action(Action::Permit);
                out.flags = out.flags.without(ClassifyOutFlags::ABSORB);
                if filter.contains(RuntimeFilterFlags::CLEAR_ACTION_RIGHT) {
                    out.clear_right();
                }
                Outcome::Permit
            }
            // Without the right a block may only veto a permit; an earlier block stands anyway.
            Self::Block | Self::BlockSilently
                if !writable && out.action != Action::Permit.value() =>
            {
                Outcome::NoRight
            }
            Self::Block | Self::BlockSilently => {
                out.set_action(Action::Block);
                out.clear_right();
                out.flags = match self {
                    Self::BlockSilently => out.flags | ClassifyOutFlags::ABSORB,
                    _ => out.flags.without(ClassifyOutFlags::ABSORB),
                };
                Outcome::Block
            }
        }
    }
}

/// The only verdict at layers where a callout watches: it has seen the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen;

impl Verdict for Seen {
    const ABSTAIN: Self = Self;

    fn write(self, filter: RuntimeFilterFlags, out: &mut ClassifyOut) -> Outcome {
        Authorization::Continue.write(filter, out)
    }
}

/// The verdict at the stream layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamVerdict {
    /// Permit the whole indication.
    Permit,
    /// Permit this many of its first bytes; the rest is indicated again.
    PermitFirst(core::num::NonZeroUsize),
    /// Take the whole indication out of the stream.
    Block,
    /// Take this many of its first bytes out of the stream; the rest is indicated again. What was injected in the same
    /// classify stands in their place.
    BlockFirst(core::num::NonZeroUsize),
    /// Received data only, and not its end: indicate it again after [`resume`](crate::stream::resume). The sender is
    /// slowed down meanwhile.
    ///
    /// Where that is not allowed the connection is reset, because what is deferred is not to pass.
    Defer,
    /// Collect at least this many more bytes and indicate all of them again.
    ///
    /// Where that is not allowed (the limit is reached, or the stream has ended) the indication
    /// is permitted instead.
    NeedMoreData(core::num::NonZeroU32),
    /// Reset the connection. The filter's action has to be `CALLOUT_UNKNOWN`.
    DropConnection,
    /// Permit, and never show this flow to the callout again.
    AllowConnection,
}

impl Verdict for StreamVerdict {
    const ABSTAIN: Self = Self::Permit;

    /// At a stream layer every callout that decides assigns the action, whatever the rights are.
    fn write(self, filter: RuntimeFilterFlags, out: &mut ClassifyOut) -> Outcome {
        let end = ClassifyOutFlags::BUFFER_LIMIT_REACHED | ClassifyOutFlags::NO_MORE_DATA;
        let verdict = match self {
            Self::NeedMoreData(_) if out.flags.intersects(end) => Self::Permit,
            Self::Defer if out.flags.intersects(end) => Self::DropConnection,
            verdict => verdict,
        };
        let mut stream = StreamOut {
            action: StreamAction::None,
            required: 0,
            enforced: 0,
        };
        let outcome = match verdict {
            Self::Permit | Self::PermitFirst(_) => {
                out.set_action(Action::Permit);
                if filter.contains(RuntimeFilterFlags::CLEAR_ACTION_RIGHT) {
                    out.clear_right();
                }
                if let Self::PermitFirst(bytes) = verdict {
                    stream.enforced = bytes.get();
                }
                Outcome::Permit
            }
            Self::Block | Self::BlockFirst(_) => {
                out.set_action(Action::Block);
                out.clear_right();
                if let Self::BlockFirst(bytes) = verdict {
                    stream.enforced = bytes.get();
                }
                Outcome::Block
            }
            Self::Defer => {
                out.set_action(Action::None);
                stream.action = StreamAction::Defer;
                Outcome::Continue
            }
            // With any other stream action the engine ignores the action.
            Self::NeedMoreData(bytes) => {
                out.set_action(Action::None);
                stream.action = StreamAction::NeedMoreData;
                stream.required = bytes.get();
                Outcome::Continue
            }
            Self::DropConnection => {
                out.set_action(Action::None);
                stream.action = StreamAction::DropConnection;
                Outcome::Block
            }
            Self::AllowConnection => {
                out.set_action(Action::None);
                stream.action = StreamAction::AllowConnection;
                Outcome::Permit
            }
        };
        out.stream = Some(stream);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU32;

    use wfp_schema::{Action, ClassifyOutFlags, Rights, StreamAction, flags::RuntimeFilterFlags};

    use super::{Authorization, ClassifyOut, Outcome, Seen, StreamVerdict, Verdict};

    const WITH_RIGHT: ClassifyOut = ClassifyOut {
        action: Action::None.value(),
        rights: Rights::ACTION_WRITE,
        flags: ClassifyOutFlags::NONE,
        stream: None,
    };

    const fn without_right(action: Action) -> ClassifyOut {
        ClassifyOut {
            action: action.value(),
            rights: Rights::NONE,
            flags: ClassifyOutFlags::NONE,
            stream: None,
        }
    }

    fn written(
        verdict: impl Verdict,
        filter: RuntimeFilterFlags,
        found: ClassifyOut,
    ) -> ClassifyOut {
        let mut out = found;
        verdict.write(filter, &mut out);
        out
    }

    #[test]
    fn a_block_clears_the_right() {
        let out = written(Authorization::Block, RuntimeFilterFlags::NONE, WITH_RIGHT);
        assert_eq!(out, without_right(Action::Block));
    }

    #[test]
    fn a_permit_keeps_the_right_unless_the_filter_clears_it() {
        let soft = written(Authorization::Permit, RuntimeFilterFlags::NONE, WITH_RIGHT);
        assert_eq!(soft.action, Action::Permit.value());
        assert_eq!(soft.rights, Rights::ACTION_WRITE);
        let hard = written(
            Authorization::Permit,
            RuntimeFilterFlags::CLEAR_ACTION_RIGHT,
            WITH_RIGHT,
        );
        assert_eq!(hard, without_right(Action::Permit));
    }

    #[test]
    fn without_the_right_permit_and_continue_leave_everything_alone() {
        for found in [Action::Permit, Action::Block, Action::None] {
            for verdict in [Authorization::Permit, Authorization::Continue] {
                let out = written(
                    verdict,
                    RuntimeFilterFlags::CLEAR_ACTION_RIGHT,
                    without_right(found),
                );
                assert_eq!(out, without_right(found));
            }
        }
    }

    #[test]
    fn an_opinion_without_the_right_is_counted_as_such() {
        let mut out = without_right(Action::Block);
        assert_eq!(
            Authorization::Permit.write(RuntimeFilterFlags::NONE, &mut out),
            Outcome::NoRight
        );
        assert_eq!(
            Authorization::Continue.write(RuntimeFilterFlags::NONE, &mut out),
            Outcome::Continue
        );
    }

    #[test]
    fn without_the_right_a_block_vetoes_a_permit_and_nothing_else() {
        let veto = written(
            Authorization::Block,
            RuntimeFilterFlags::NONE,
            without_right(Action::Permit),
        );
        assert_eq!(veto, without_right(Action::Block));
        for found in [Action::Block, Action::None] {
            let out = written(
                Authorization::BlockSilently,
                RuntimeFilterFlags::NONE,
                without_right(found),
            );
            assert_eq!(out, without_right(found));
        }
    }

    #[test]
    fn a_silent_block_absorbs_and_a_later_permit_takes_that_back() {
        let silent = written(
            Authorization::BlockSilently,
            RuntimeFilterFlags::NONE,
            WITH_RIGHT,
        );
        assert!(silent.flags.contains(ClassifyOutFlags::ABSORB));
        let found = ClassifyOut {
            flags: ClassifyOutFlags::ABSORB,
            ..WITH_RIGHT
        };
        for verdict in [Authorization::Permit, Authorization::Block] {
            assert!(
                written(verdict, RuntimeFilterFlags::NONE, found)
                    .flags
                    .is_empty()
            );
        }
    }

    #[test]
    fn an_inspection_only_continues() {
        let out = written(Seen, RuntimeFilterFlags::NONE, WITH_RIGHT);
        assert_eq!(out.action, Action::Continue.value());
        assert_eq!(out.rights, Rights::ACTION_WRITE);
        let hard = without_right(Action::Block);
        assert_eq!(written(Seen, RuntimeFilterFlags::NONE, hard), hard);
    }

    #[test]
    fn a_stream_verdict_assigns_the_action_without_the_right_too() {
        let out = written(
            StreamVerdict::Permit,
            RuntimeFilterFlags::NONE,
            without_right(Action::None),
        );
        assert_eq!(out.action, Action::Permit.value());
    }

    #[test]
    fn dropping_a_connection_leaves_no_action() {
        let mut out = WITH_RIGHT;
        let outcome = StreamVerdict::DropConnection.write(RuntimeFilterFlags::NONE, &mut out);
        let stream = out.stream.unwrap();
        assert_eq!(outcome, Outcome::Block);
        assert_eq!(out.action, Action::None.value());
        assert_eq!(stream.action, StreamAction::DropConnection);
        assert_eq!((stream.required, stream.enforced), (0, 0));
    }

    #[test]
    fn more_data_is_not_asked_for_at_the_end_or_the_limit() {
        let want = StreamVerdict::NeedMoreData(NonZeroU32::MIN);
        let mut out = WITH_RIGHT;
        want.write(RuntimeFilterFlags::NONE, &mut out);
        let stream = out.stream.unwrap();
        assert_eq!(stream.action, StreamAction::NeedMoreData);
        assert_eq!(stream.required, 1);
        for end in [
            ClassifyOutFlags::BUFFER_LIMIT_REACHED,
            ClassifyOutFlags::NO_MORE_DATA,
        ] {
            let mut out = ClassifyOut {
                flags: end,
                ..WITH_RIGHT
            };
            want.write(RuntimeFilterFlags::NONE, &mut out);
            let stream = out.stream.unwrap();
            assert_eq!(stream.action, StreamAction::None);
            assert_eq!(stream.required, 0);
            assert_eq!(out.action, Action::Permit.value());
        }
    }
}
