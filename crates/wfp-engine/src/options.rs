//! What the documentation of WFP leaves open, as settings.

use std::time::Duration;
use wfp_schema::{Action, NtStatus};

/// Which of two equally heavy filters, or sublayers, comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TieOrder {
    /// The one that was added first.
    #[default]
    OldestFirst,
    /// The one that was added last.
    NewestFirst,
}

/// Settings of an [`Engine`](crate::Engine), fixed for its life.
///
/// Each is a question that Microsoft's documentation does not answer; a driver
/// should work under every answer. The default is the likeliest one.
#[derive(Clone, Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub struct Options {
    /// Stop evaluating sublayers at a hard block. Two sentences of the page on
    /// filter arbitration contradict each other; by default lighter sublayers
    /// still see the traffic.
    pub stop_on_hard_block: bool,
    /// A static block filter overrides a heavier sublayer's hard permit.
    pub static_block_over_hard_permit: bool,
    /// Whether the block that stands in for a callout that is not registered is
    /// hard, like that of a static block filter.
    pub unregistered_block_is_hard: bool,
    /// `actionType` that the first callout finds when nothing is decided yet.
    pub initial_action_type: u32,
    /// Order of equally heavy filters in one sublayer.
    pub filter_ties: TieOrder,
    /// Order of equally heavy sublayers.
    pub sublayer_ties: TieOrder,
    /// Accept new flow contexts after unregistering was refused for being busy.
    pub allow_association_after_busy: bool,
    /// Status of flow functions for a flow that does not exist.
    pub unknown_flow: NtStatus,
    /// Notify the deletion of filters whose addition is undone by an abort.
    pub notify_delete_on_abort: bool,
    /// Static and dynamic filters stay in force while the base filtering engine is stopped.
    pub filters_outlive_bfe: bool,
    /// Status of opening a session while the base filtering engine is not running.
    pub open_without_bfe: NtStatus,
    /// Status of adding a filter whose callout belongs to another layer.
    pub callout_of_other_layer: NtStatus,
    /// How long a call waits for another session's transaction unless its session says otherwise.
    pub transaction_wait: Duration,
    /// How long a user-mode session may keep a transaction open.
    pub transaction_hold: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            stop_on_hard_block: false,
            static_block_over_hard_permit: false,
            unregistered_block_is_hard: true,
            initial_action_type: Action::None.value(),
            filter_ties: TieOrder::OldestFirst,
            sublayer_ties: TieOrder::OldestFirst,
            allow_association_after_busy: false,
            unknown_flow: NtStatus::NOT_FOUND,
            notify_delete_on_abort: true,
            filters_outlive_bfe: false,
            open_without_bfe: NtStatus::RPC_SERVER_UNAVAILABLE,
            callout_of_other_layer: NtStatus::FWP_INCOMPATIBLE_LAYER,
            transaction_wait: Duration::from_secs(15),
            transaction_hold: Duration::from_hours(1),
        }
    }
}
