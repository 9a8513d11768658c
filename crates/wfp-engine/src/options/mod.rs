//! What the documentation of WFP leaves open, as data.
//!
//! Each field of [`Options`] that has named settings is a [`Question`]; the one
//! table below makes the field, its default, its name in texts and its place in
//! the [covering array](Options::covering_array).

mod covering;
mod question;
mod text;

pub use question::{Part, Question};
pub use text::ParseOptionsError;

use std::time::Duration;
use wfp_schema::{Action, ConditionFlags, NtStatus};

/// Which of two equally heavy filters, or sublayers, comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TieOrder {
    /// The one that was added first.
    #[default]
    OldestFirst,
    /// The one that was added last.
    NewestFirst,
}

/// How the automatic weight of a filter grows with its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AutoWeight {
    /// With every field that has a condition, then with how few values fulfil it.
    #[default]
    BySpecificity,
    /// With every field that has a condition, and with nothing else.
    ByFields,
}

/// What conditions on one field are that don't follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SeparatedConditions {
    /// Two demands, both to be fulfilled: the page calls consecutive conditions alternatives.
    #[default]
    BothRequired,
    /// Alternatives, as those that follow each other are.
    Alternatives,
    /// An error, `FWP_DUPLICATE_CONDITION`.
    Refused,
}

/// What a transaction that only reads is to one that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReadTransaction {
    /// A view of the objects when it began, which hinders nobody.
    #[default]
    Snapshot,
    /// A share of the one lock: it waits for the writer, and writers wait for it.
    SharedLock,
}

/// What unregistering does while functions of the callout run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RunningCallout {
    /// It waits until they have returned.
    #[default]
    Waits,
    /// It fails with `DEVICE_BUSY`, and can be tried again.
    Busy,
}

/// What a count of enforced bytes means that is larger than the data that was indicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EnforcedBeyondData {
    /// All of the data.
    #[default]
    AllData,
    /// All of the data, and as much of what comes next as is missing.
    NextData,
}

/// What a decision is when no filter decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NoMatch {
    /// The traffic goes on.
    #[default]
    Permit,
    /// The traffic is dropped.
    Block,
}

/// Which layers see IPv4 traffic of a dual-mode socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DualModeLayer {
    /// The IPv4 layers, as for any other IPv4 traffic.
    #[default]
    V4,
    /// The IPv6 layers, with IPv4-mapped addresses.
    V6Mapped,
    /// The redirect layers of IPv6, with IPv4-mapped addresses: what the application asked for is still an IPv6 one. All
    /// others are those of IPv4.
    V6Redirect,
}

/// The type of the value that a user identifier field has at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UserIdType {
    /// `FWP_TOKEN_ACCESS_INFORMATION_TYPE`.
    #[default]
    TokenAccessInformation,
    /// `FWP_TOKEN_INFORMATION_TYPE`.
    TokenInformation,
}

/// When the fast layers are indicated, which no page describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FastLayers {
    /// Right before the layer that they are named after.
    #[default]
    Before,
    /// Right behind it.
    Behind,
    /// Not at all.
    Never,
}

/// Which layer of a virtual switch sees a frame first, on its way in and on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SwitchOrder {
    /// That of frames, then that of the packets in them.
    #[default]
    EthernetFirst,
    /// That of packets.
    TransportFirst,
}

/// When, and at which IRQL, an injection is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InjectionCompletion {
    /// Later, at `DISPATCH_LEVEL`.
    #[default]
    Deferred,
    /// Later, at `PASSIVE_LEVEL`.
    DeferredPassive,
    /// Before the function returns, at the IRQL of its caller.
    Inline,
}

/// Where the data of a packet begins that a network layer's discard layer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DiscardPosition {
    /// Where it begins at the network layer: inbound at the transport header, outbound at the IP header.
    #[default]
    Layer,
    /// At the transport header.
    TransportHeader,
    /// At the IP header.
    IpHeader,
}

macro_rules! questions {
    ($(
        $(#[doc = $doc:literal])+
        $part:ident $field:ident: $type:ty, $source:literal {
            $first_name:literal = $first:expr
            $(, $name:literal = $value:expr)+ $(,)?
        }
    )+) => {
        /// Settings of an [`Engine`](crate::Engine) and of what is around it, fixed for its life.
        ///
        /// Each field but the two durations is a question that Microsoft's
        /// documentation does not answer; a driver should work under every answer.
        /// The default is the likeliest one. [`Options::questions`] lists them. An
        /// `Options` is written and read as `name=setting,name=setting`, where the
        /// questions that are left out have their default:
        ///
        /// ```
        /// # use wfp_engine::Options;
        /// let options: Options = "stop_on_hard_block=yes,filter_ties=newest".parse().unwrap();
        /// assert!(options.stop_on_hard_block);
        /// assert_eq!(options.to_string(), "stop_on_hard_block=yes,filter_ties=newest");
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(
            clippy::struct_excessive_bools,
            reason = "each is a question of its own"
        )]
        pub struct Options {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            /// How long a call waits for another session's transaction unless its session says otherwise.
            pub transaction_wait: Duration,
            /// How long a user-mode session may keep a transaction open.
            pub transaction_hold: Duration,
        }

        impl Default for Options {
            fn default() -> Self {
                Self {
                    $( $field: $first, )+
                    transaction_wait: Duration::from_secs(15),
                    transaction_hold: Duration::from_hours(1),
                }
            }
        }

        /// Every question, in the order of the fields.
        static QUESTIONS: &[Question] = &[$( Question {
            name: stringify!($field),
            asks: concat!($($doc),+),
            source: $source,
            part: Part::$part,
            settings: &[$first_name $(, $name)+],
            get: |options| {
                let values: &[$type] = &[$first $(, $value)+];
                values.iter().position(|value| *value == options.$field)
            },
            set: |options, setting| {
                let values: &[$type] = &[$first $(, $value)+];
                if let Some(value) = values.get(setting) {
                    options.$field = *value;
                }
            },
        }, )+];
    };
}

questions! {
    /// Stop evaluating sublayers at a hard block. Two sentences of the page on
    /// filter arbitration contradict each other; by default lighter sublayers
    /// still see the traffic.
    Engine stop_on_hard_block: bool, "Filter Arbitration; ARB-06, ARB-08" { "no" = false, "yes" = true }

    /// A static block filter overrides a heavier sublayer's hard permit.
    Engine static_block_over_hard_permit: bool, "Filter Arbitration; ARB-04" { "no" = false, "yes" = true }

    /// Whether the block that stands in for a callout that is not registered is
    /// hard, like that of a static block filter.
    Engine unregistered_block_is_hard: bool, "FwpmCalloutAdd0; CAL-03, CAL-04" { "yes" = true, "no" = false }

    /// `actionType` that the first callout finds when nothing is decided yet.
    Engine initial_action_type: u32, "FWPS_CLASSIFY_OUT0" { "none" = Action::None.value(), "zero" = 0 }

    /// Whether an action type that is neither permit, block nor continue blocks,
    /// when the callout of a `CALLOUT_UNKNOWN` filter answers it.
    Engine unknown_answer_blocks: bool, "FWPS_ACTION0; ARB-11" { "no" = false, "yes" = true }

    /// What becomes of traffic about which no filter decides.
    Engine no_match: NoMatch, "Filter Arbitration; ARB-14" { "permit" = NoMatch::Permit, "block" = NoMatch::Block }

    /// Order of equally heavy filters in one sublayer.
    Engine filter_ties: TieOrder, "Filter Weight Assignment" {
        "oldest" = TieOrder::OldestFirst, "newest" = TieOrder::NewestFirst
    }

    /// Order of equally heavy sublayers.
    Engine sublayer_ties: TieOrder, "FWPM_SUBLAYER0" {
        "oldest" = TieOrder::OldestFirst, "newest" = TieOrder::NewestFirst
    }

    /// The formula of automatic weights.
    Engine auto_weight: AutoWeight, "Filter Weight Assignment; WGT-02, WGT-03" {
        "specificity" = AutoWeight::BySpecificity, "fields" = AutoWeight::ByFields
    }

    /// Weight of the sublayer for filters that name none.
    Engine universal_weight: u16, "Management Filtering Sublayer Identifiers" { "middle" = 0x8000, "low" = 0x0100, "high" = 0xFF00 }

    /// What conditions on one field are when conditions on others stand between them.
    Engine separated_conditions: SeparatedConditions, "FWPM_FILTER0; CND-04" {
        "both" = SeparatedConditions::BothRequired,
        "alternatives" = SeparatedConditions::Alternatives,
        "refused" = SeparatedConditions::Refused,
    }

    /// Whether the upper end of a range belongs to it.
    Engine range_includes_high: bool, "FWP_MATCH_TYPE; CND-11" { "yes" = true, "no" = false }

    /// Type of the user identifier fields at run time.
    Network user_id_type: UserIdType, "Filtering Conditions Available at Each Filtering Layer" {
        "token-access-information" = UserIdType::TokenAccessInformation,
        "token-information" = UserIdType::TokenInformation,
    }

    /// Whether the tenant network identifier of a virtual switch has 32 bits, rather than 16.
    Engine wide_tenant_network_id: bool, "Filtering Conditions Available at Each Filtering Layer" { "no" = false, "yes" = true }

    /// Accept new flow contexts after unregistering was refused for being busy.
    Engine allow_association_after_busy: bool, "FwpsCalloutUnregisterById0; CAL-14" { "no" = false, "yes" = true }

    /// What unregistering does while functions of the callout run.
    Engine unregister_while_running: RunningCallout, "FwpsCalloutUnregisterById0; CAL-17" {
        "waits" = RunningCallout::Waits, "busy" = RunningCallout::Busy
    }

    /// Status of flow functions for a flow that does not exist.
    Engine unknown_flow: NtStatus, "FwpsFlowAssociateContext0" {
        "not-found" = NtStatus::NOT_FOUND,
        "invalid-parameter" = NtStatus::INVALID_PARAMETER,
    }

    /// Whether the deletion of a filter waits until classify calls with it have returned.
    Engine deletion_waits: bool, "FWPS_CALLOUT_NOTIFY_FN0" { "yes" = true, "no" = false }

    /// Notify the deletion of filters whose addition is undone by an abort.
    Engine notify_delete_on_abort: bool, "FWPS_CALLOUT_NOTIFY_FN0; TXN-05" { "yes" = true, "no" = false }

    /// What a transaction that only reads is to one that writes.
    Engine read_transaction: ReadTransaction, "FwpmTransactionBegin0; TXN-03" {
        "snapshot" = ReadTransaction::Snapshot, "shared-lock" = ReadTransaction::SharedLock
    }

    /// Static and dynamic filters stay in force while the base filtering engine is stopped.
    Engine filters_outlive_bfe: bool, "Object Management" { "no" = false, "yes" = true }

    /// Status of opening a session while the base filtering engine is not running.
    Engine open_without_bfe: NtStatus, "FwpmEngineOpen0; BFE-01" {
        "rpc-server-unavailable" = NtStatus::RPC_SERVER_UNAVAILABLE,
        "unsuccessful" = NtStatus::UNSUCCESSFUL,
    }

    /// Whether subscribers are told that the base filtering engine is about to
    /// start, before they are told that it runs.
    Engine start_pending_is_told: bool, "FwpmBfeStateSubscribeChanges0; BFE-02" { "yes" = true, "no" = false }

    /// Whether persistent objects are loaded whose provider names no service.
    /// Two pages contradict each other.
    Engine provider_needs_service: bool, "Object Management, FWPM_FILTER0" { "no" = false, "yes" = true }

    /// Status of adding a filter whose callout belongs to another layer.
    Engine callout_of_other_layer: NtStatus, "FWPM_CALLOUT0" {
        "incompatible-layer" = NtStatus::FWP_INCOMPATIBLE_LAYER,
        "invalid-parameter" = NtStatus::FWP_INVALID_PARAMETER,
    }

    /// Status of adding a filter with flags that exclude each other or don't go with its action.
    Engine illegal_filter_flags: NtStatus, "FWPM_FILTER0; OBJ-15, OBJ-16, OBJ-17" {
        "invalid-flags" = NtStatus::FWP_INVALID_FLAGS,
        "invalid-parameter" = NtStatus::FWP_INVALID_PARAMETER,
    }

    /// Status of registering a callout without its classify or notify function.
    Interface null_callout_function: NtStatus, "FWPS_CALLOUT0" {
        "null-pointer" = NtStatus::FWP_NULL_POINTER,
        "invalid-parameter" = NtStatus::INVALID_PARAMETER,
    }

    /// What a count of enforced bytes means that is larger than the data.
    Network enforced_beyond_data: EnforcedBeyondData, "FWPS_STREAM_CALLOUT_IO_PACKET0; STR-01" {
        "all-data" = EnforcedBeyondData::AllData, "next-data" = EnforcedBeyondData::NextData
    }

    /// Whether a callout of a `CALLOUT_TERMINATING` filter can drop a stream's
    /// connection; documented for `CALLOUT_UNKNOWN` only.
    Network terminating_drops_connection: bool, "FWPS_STREAM_CALLOUT_IO_PACKET0; STR-06" { "yes" = true, "no" = false }

    /// The flag of the second classify after a pended bind or listen has been completed.
    Network completed_bind_flag: ConditionFlags, "FwpsCompleteOperation0" {
        "reclassify" = ConditionFlags::IS_RECLASSIFY,
        "reauthorize" = ConditionFlags::IS_REAUTHORIZE,
        "none" = ConditionFlags::NONE,
    }

    /// The layers that see IPv4 traffic of a dual-mode socket.
    Network dual_mode_layer: DualModeLayer, "Application Layer Enforcement (ALE)" {
        "v4" = DualModeLayer::V4,
        "v6-mapped" = DualModeLayer::V6Mapped,
        "v6-redirect" = DualModeLayer::V6Redirect,
    }

    /// When the fast layers (`INBOUND_TRANSPORT_FAST` and their like) are indicated.
    Network fast_layers: FastLayers, "FWPS_BUILTIN_LAYERS" {
        "before" = FastLayers::Before, "behind" = FastLayers::Behind, "never" = FastLayers::Never
    }

    /// Which layer of a virtual switch sees a frame first.
    Network switch_order: SwitchOrder, "Using Virtual Switch Filtering" {
        "ethernet" = SwitchOrder::EthernetFirst, "transport" = SwitchOrder::TransportFirst
    }

    /// Where a packet's data begins at the discard layers of `INBOUND_IPPACKET` and
    /// `OUTBOUND_IPPACKET`: where the stack stopped processing, says the page.
    Network discard_position: DiscardPosition, "Data Offset Positions" {
        "layer" = DiscardPosition::Layer,
        "transport" = DiscardPosition::TransportHeader,
        "ip" = DiscardPosition::IpHeader,
    }

    /// When an injection is completed, and at which IRQL: the page allows both.
    Interface injection_completion: InjectionCompletion, "FWPS_INJECT_COMPLETE0; INJ-03, STR-13" {
        "deferred" = InjectionCompletion::Deferred,
        "deferred-passive" = InjectionCompletion::DeferredPassive,
        "inline" = InjectionCompletion::Inline,
    }
}
