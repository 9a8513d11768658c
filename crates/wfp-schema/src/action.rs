//! Actions of filters and of callouts, and the right to write one.

code! {
    /// `FWP_ACTION_TYPE`: what a filter does, or what a callout answered.
    pub enum Action;
    /// Block (terminating). Of a filter or a callout's answer.
    Block = 0x1001, "BLOCK";
    /// Permit (terminating). Of a filter or a callout's answer.
    Permit = 0x1002, "PERMIT";
    /// Go on with the next filter. A callout's answer only.
    Continue = 0x2006, "CONTINUE";
    /// Ask a callout that may permit, block or continue. Of a filter only.
    CalloutUnknown = 0x4005, "CALLOUT_UNKNOWN";
    /// Ask a callout that always permits or blocks. Of a filter only.
    CalloutTerminating = 0x5003, "CALLOUT_TERMINATING";
    /// Show the traffic to a callout that never decides. Of a filter only.
    CalloutInspection = 0x6004, "CALLOUT_INSPECTION";
    /// No action (a stream callout that answers by stream action).
    None = 0x0007, "NONE";
    /// No filter matched.
    NoneNoMatch = 0x0008, "NONE_NO_MATCH";
}

/// `FWP_ACTION_FLAG_TERMINATING`: ends the evaluation of its sublayer.
pub const FLAG_TERMINATING: u32 = 0x1000;
/// `FWP_ACTION_FLAG_NON_TERMINATING`: never ends the evaluation of its sublayer.
pub const FLAG_NON_TERMINATING: u32 = 0x2000;
/// `FWP_ACTION_FLAG_CALLOUT`: a callout is asked.
pub const FLAG_CALLOUT: u32 = 0x4000;

impl Action {
    /// Whether a filter may have this action (`FWPM_ACTION0`).
    #[must_use]
    pub const fn is_filter_action(self) -> bool {
        matches!(self, Self::Block | Self::Permit) || self.is_callout()
    }

    /// Whether the action is to ask a callout.
    #[must_use]
    pub const fn is_callout(self) -> bool {
        self.value() & FLAG_CALLOUT != 0
    }
}

flag_set! {
    /// `FWPS_CLASSIFY_OUT0.rights`.
    pub struct Rights(u32);
    /// The callout may write an action; when absent it may only write a block, as a veto.
    ACTION_WRITE = 0x1;
}
