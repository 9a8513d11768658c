//! What is told of a path's packets: the first that was changed, and the first that was dropped.

use super::edit::Edit;
use super::path::Treatment;
use crate::connection::{Connection, Endpoint};
use crate::policy::{Decision, RuleIndex};
use portcullis_proto::policy::Direction;

/// What becomes of a packet, and what is new about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Treated {
    /// What becomes of it.
    pub treatment: Treatment,
    /// What has never happened to the path's packets before.
    pub news: Option<PathNews>,
}

impl Treated {
    /// A packet that no rule says anything of.
    pub(super) const PASSED: Self = Self {
        treatment: Treatment::Pass,
        news: None,
    };
}

/// Why a packet does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The rule wants so many to be lost.
    Lost,
    /// Too much waits.
    Full,
}

/// What was done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was changed so.
    Changed(Edit),
    /// It was dropped.
    Dropped(Dropped),
}

impl Done {
    /// Which of what is told once it is.
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Changed(_) => 1,
            Self::Dropped(_) => 2,
        }
    }
}

/// Something that was done to a path's packets for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathNews {
    /// What was done.
    pub done: Done,
    /// IP protocol number.
    pub protocol: u8,
    /// The path's local side.
    pub local: Endpoint,
    /// The remote side that the application knows.
    pub remote: Endpoint,
    /// The remote side on the wire.
    pub wire: Endpoint,
    /// Whose packets they are.
    pub(crate) owner: Owner,
}

/// The connection whose packets go a path, as far as it was known when it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) rule: Option<RuleIndex>,
    pub(crate) log: bool,
    pub(crate) direction: Direction,
    pub(crate) process_id: u64,
    pub(crate) flow: u64,
}

impl Owner {
    pub(super) const NOBODY: Self = Self {
        rule: None,
        log: false,
        direction: Direction::Outbound,
        process_id: 0,
        flow: 0,
    };

    /// The connection was decided, maybe once more: what is not known now may have been before.
    pub(super) const fn decided(self, connection: &Connection<'_>, decision: Decision) -> Self {
        const fn known(now: u64, before: u64) -> u64 {
            if now == 0 { before } else { now }
        }
        Self {
            rule: decision.rule,
            log: decision.log,
            direction: connection.direction,
            process_id: known(connection.process_id, self.process_id),
            flow: known(connection.flow, self.flow),
        }
    }
}
