//! The driver's status: what state it is in, its policy, its callouts, and what went wrong where.

use crate::message::{Header, read_array, read_padded};
use crate::wire::wire_enum;
use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

wire_enum! {
    /// What the driver is doing.
    pub enum DriverState: u32 {
        /// Not started, or stopped.
        Stopped = 0, "stopped";
        /// Callouts are registered; the base filtering engine is not running, so no traffic is seen.
        WaitingForBfe = 1, "waiting for BFE";
        /// The filter engine's objects are being added.
        Starting = 2, "starting";
        /// Every filter is in place.
        Active = 3, "active";
        /// Adding the objects failed; the errors say where. No traffic is seen.
        Degraded = 4, "degraded";
        /// Objects, flow contexts and callouts are being removed.
        Stopping = 5, "stopping";
    }
}

wire_enum! {
    /// A step of starting or stopping the driver, as in the errors of a [`StatusReply`].
    pub enum LifecycleStep: u8 {
        /// The control device with its security descriptor.
        CreateDevice = 0, "create device";
        /// The device's symbolic link.
        CreateSymbolicLink = 1, "create symbolic link";
        /// The queues for control requests.
        CreateQueue = 2, "create queue";
        /// Room for what the objects in the filter engine are, and the lock over it.
        PrepareManagement = 3, "prepare management";
        /// The table of flows, counters and the event ring.
        CreateFlowTable = 4, "create flow table";
        /// The injection handles of packets, and room for those that wait.
        PreparePackets = 5, "prepare packets";
        /// `FwpsCalloutRegister2` for each callout.
        RegisterCallouts = 6, "register callouts";
        /// `FwpmBfeStateSubscribeChanges0`.
        SubscribeBfe = 7, "subscribe to BFE state";
        /// `FwpmEngineOpen0`.
        OpenSession = 8, "open session";
        /// `FwpmTransactionBegin0`.
        BeginTransaction = 9, "begin transaction";
        /// `FwpmProviderAdd0`.
        AddProvider = 10, "add provider";
        /// `FwpmSubLayerAdd0`.
        AddSublayer = 11, "add sublayer";
        /// `FwpmCalloutAdd0` for each callout.
        AddCallouts = 12, "add callouts";
        /// `FwpmFilterAdd0` for each filter.
        AddFilters = 13, "add filters";
        /// `FwpmTransactionCommit0`.
        CommitTransaction = 14, "commit transaction";
        /// The injection handles of streams, and room for what is taken out of them.
        PrepareStreams = 15, "prepare streams";
        /// `FwpmFilterDeleteById0` for each filter.
        DeleteFilters = 16, "delete filters";
        /// `FwpsFlowRemoveContext0` for each flow, and the wait for the last one's end.
        RemoveFlowContexts = 17, "remove flow contexts";
        /// `FwpsCalloutUnregisterById0` for each callout.
        UnregisterCallouts = 18, "unregister callouts";
        /// `FwpsInjectionHandleDestroy0`.
        DestroyInjectionHandles = 19, "destroy injection handles";
        /// Deletion of the provider, the sublayer and the callout objects.
        DeleteObjects = 20, "delete objects";
        /// `FwpmEngineClose0`.
        CloseSession = 21, "close session";
        /// `FwpmBfeStateUnsubscribeChanges0`.
        UnsubscribeBfe = 22, "unsubscribe from BFE state";
        /// `PsSetCreateProcessNotifyRoutineEx`, and the table of processes.
        WatchProcesses = 23, "watch processes";
        /// `FwpsRedirectHandleCreate0`.
        CreateRedirectHandle = 24, "create redirect handle";
        /// The injection handles of packets that were held, and room for what is asked.
        PrepareAsking = 25, "prepare asking";
        /// The control device ends its initialization: requests arrive.
        TakeRequests = 26, "take requests";
        /// The filters that hold while the driver does not decide.
        ChangeBootFilters = 28, "change boot filters";
        /// `ExRegisterCallback` with `\Callback\PowerState`.
        ListenToPower = 29, "listen to power";
        /// Room for a capture.
        PrepareCapture = 30, "prepare captures";
    }
}

/// Places for steps in a status reply; more than there are, so that steps can be added.
pub const STEP_SLOTS: usize = 32;

const _: () = assert!(LifecycleStep::ALL.len() <= STEP_SLOTS);

/// The fixed part of the reply to [`GetStatus`](crate::device::ControlCode::GetStatus). `callout_count` entries of
/// `callout_size` bytes follow at `header.size`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct StatusReply {
    /// Size and version.
    pub header: Header,
    /// A [`DriverState`].
    pub state: U32,
    /// How many callout entries follow.
    pub callout_count: U16,
    /// Size in bytes of one callout entry.
    pub callout_size: U16,
    /// How often the policy has been set since the driver started; 0 before the first.
    pub policy_epoch: U64,
    /// [`hash`](crate::policy::hash) of the policy in force; 0 without one.
    pub policy_hash: U64,
    /// Rules of the policy in force.
    pub policy_rules: U32,
    /// Flows followed now.
    pub flows: U32,
    /// Flows that can be followed at a time.
    pub flow_capacity: U32,
    /// Events waiting to be read.
    pub events: U32,
    /// Events that can wait.
    pub event_capacity: U32,
    /// Operations that are held until somebody answers.
    pub held: U32,
    /// When the driver started, in units of 100 ns since 1601-01-01 UTC (Windows system time).
    pub started: U64,
    /// The last `NTSTATUS` of each [`LifecycleStep`], by its value; 0 where it never failed.
    pub errors: [I32; STEP_SLOTS],
    /// Filters that this instance of the driver has added to hold while it does not decide.
    pub boot_filters: U32,
    /// Zero.
    pub reserved: U32,
}

impl StatusReply {
    /// The error of one step.
    #[must_use]
    pub fn error(&self, step: LifecycleStep) -> i32 {
        self.errors
            .get(usize::from(step.raw()))
            .map_or(0, |error| error.get())
    }

    /// Reads a reply and its callouts. `None` if it isn't one of this major version.
    #[must_use]
    pub fn read(reply: &[u8]) -> Option<(Self, impl Iterator<Item = CalloutStatus>)> {
        let (status, fixed) = read_padded::<Self>(reply)?;
        let stride = usize::from(status.callout_size.get());
        let count = usize::from(status.callout_count.get());
        let callouts = reply.get(fixed..)?;
        (callouts.len() >= stride * count).then(|| (status, read_array(callouts, stride, count)))
    }

    /// Bytes that a reply with `callouts` entries takes.
    #[must_use]
    pub const fn size_with(callouts: usize) -> usize {
        size_of::<Self>() + callouts * size_of::<CalloutStatus>()
    }

    /// Writes the reply with its callouts; `header`, `callout_count` and `callout_size` are filled in here.
    ///
    /// Returns the bytes written; `None` if `output` is too small (answer `STATUS_BUFFER_TOO_SMALL`;
    /// [`size_with`](Self::size_with) says what it takes), and then nothing is written.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "an entry and the table are far smaller than 64 KiB"
    )]
    pub fn write(
        mut self,
        callouts: impl ExactSizeIterator<Item = CalloutStatus>,
        output: &mut [u8],
    ) -> Option<usize> {
        self.header = Header::of::<Self>();
        self.callout_count = U16::new(callouts.len() as u16);
        self.callout_size = U16::new(size_of::<CalloutStatus>() as u16);
        let size = Self::size_with(callouts.len());
        let (fixed, array) = output
            .get_mut(..size)?
            .split_at_mut_checked(size_of::<Self>())?;
        self.write_to(fixed).ok()?;
        let places = array.chunks_exact_mut(size_of::<CalloutStatus>());
        for (place, callout) in places.zip(callouts) {
            callout.write_to(place).ok()?;
        }
        Some(size)
    }
}

/// One callout in a status reply.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CalloutStatus {
    /// A [`CalloutKind`](crate::callout::CalloutKind).
    pub kind: u8,
    /// A [`Family`](crate::callout::Family).
    pub family: u8,
    /// The run-time layer identifier (`FWPS_BUILTIN_LAYERS`).
    pub layer: U16,
    /// [`REGISTERED`](Self::REGISTERED), [`ADDED`](Self::ADDED), [`FILTERED`](Self::FILTERED).
    pub flags: U32,
    /// The callout's key, in the layout of a Windows `GUID`.
    pub key: [u8; 16],
    /// The run-time callout identifier; 0 while not registered.
    pub callout_id: U32,
    /// Zero.
    pub reserved: U32,
    /// The filter's run-time identifier; 0 while there is none.
    pub filter_id: U64,
    /// Calls of `classifyFn`.
    pub classify: U64,
    /// Calls that returned permit.
    pub permit: U64,
    /// Calls that returned block (for a stream: that dropped the connection).
    pub block: U64,
    /// Calls that returned continue, or had no opinion.
    pub proceed: U64,
    /// Calls that found the right to decide already taken.
    pub no_right: U64,
    /// Calls of `flowDeleteFn`.
    pub flow_delete: U64,
    /// Calls of `notifyFn`.
    pub notify: U64,
}

impl CalloutStatus {
    /// `FwpsCalloutRegister2` has succeeded.
    pub const REGISTERED: u32 = 1;
    /// `FwpmCalloutAdd0` has succeeded.
    pub const ADDED: u32 = 2;
    /// Its filter is in place.
    pub const FILTERED: u32 = 4;

    /// An entry of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}
