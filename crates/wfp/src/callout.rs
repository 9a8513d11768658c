//! Callouts: a trait for what they do, and the one trampoline through which WFP calls them.

use core::{
    cell::Cell,
    ffi::c_void,
    fmt,
    num::NonZeroU64,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use wdk_sys::{GUID, NTSTATUS};
use wfp_schema::{
    CalloutFlags, ClassifyOutFlags, Direction, Guid, IpVersion, LayerData, NotifyType, NtStatus,
    Rights, flags::RuntimeFilterFlags, layer::Header,
};
use wfp_sys::{
    FWPS_CALLOUT2, FWPS_CLASSIFY_OUT0, FWPS_FILTER2, FWPS_INCOMING_METADATA_VALUES0,
    FWPS_INCOMING_VALUES0,
};

use crate::{
    engine::to_guid,
    flow::CalloutId,
    layer::{Fields, LayerType},
    metadata::Metadata,
    pend::PendedOperation,
    redirect::Call,
    values::Values,
    verdict::{Authorization, ClassifyOut, Outcome, Verdict},
};

/// A callout, for both IP versions of its layer.
///
/// Every function may be called at IRQL <= `DISPATCH_LEVEL`, on several processors at a time:
/// nothing here may wait, allocate, or take long.
pub trait Callout: 'static {
    /// Where it works.
    type Layer: LayerType;

    /// Whether contexts are associated with flows for it.
    const FLOW_CONTEXTS: bool = false;

    /// Where the calls of one IP version are counted: by default together with those of every other callout that has no
    /// counters of its own.
    #[must_use]
    fn counters(_version: IpVersion) -> &'static Counters {
        static COUNTERS: Counters = Counters::new();
        &COUNTERS
    }

    /// Decides about one indication.
    fn classify(call: &Classify<'_, Self::Layer>) -> <Self::Layer as LayerType>::Verdict;

    /// A filter that names the callout comes or goes.
    ///
    /// # Errors
    /// Refuses a filter that is being added.
    fn notify(_notification: NotifyType) -> Result<(), NtStatus> {
        Ok(())
    }

    /// A context that was associated for the callout is gone from its flow.
    fn flow_deleted(_context: NonZeroU64) {}
}

/// How often WFP has called a callout, and what it answered.
#[repr(align(64))]
pub struct Counters {
    /// Calls of `classifyFn`.
    pub classify: AtomicU64,
    /// Classifies that permitted.
    pub permit: AtomicU64,
    /// Classifies that blocked.
    pub block: AtomicU64,
    /// Classifies without an opinion.
    pub proceed: AtomicU64,
    /// Classifies whose opinion came too late: an earlier filter had taken the right.
    pub no_right: AtomicU64,
    /// Calls of `flowDeleteFn`.
    pub flow_delete: AtomicU64,
    /// Calls of `notifyFn`.
    pub notify: AtomicU64,
}

impl Counters {
    /// Counters at zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            classify: AtomicU64::new(0),
            permit: AtomicU64::new(0),
            block: AtomicU64::new(0),
            proceed: AtomicU64::new(0),
            no_right: AtomicU64::new(0),
            flow_delete: AtomicU64::new(0),
            notify: AtomicU64::new(0),
        }
    }

    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Continue => &self.proceed,
            Outcome::Permit => &self.permit,
            Outcome::Block => &self.block,
            Outcome::NoRight => &self.no_right,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters")
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}

/// One call of a classify function.
pub struct Classify<'a, L: LayerType> {
    /// The values of the layer's fields.
    pub fields: Fields<'a, L>,
    /// What is known besides.
    pub metadata: Metadata<'a>,
    /// The packet or stream data.
    pub data: L::Data<'a>,
    /// The callout itself, as WFP knows it.
    pub callout: CalloutId,
    /// The context that was associated with the flow for this callout.
    pub flow_context: Option<NonZeroU64>,
    /// Whether an earlier filter has taken the right to decide: then a permit changes nothing.
    pub decided: bool,
    /// A stream's data has to be decided now: the limit is reached to which it is collected, or nothing follows it.
    pub must_decide: bool,
    /// What redirection needs.
    pub(crate) call: Call,
    /// What the callout keeps of the classify.
    pub(crate) kept: Cell<Kept>,
}

/// What a callout keeps of a classify: one thing at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing.
    Nothing,
    /// A handle of it.
    Handle,
    /// The operation, by `FwpsPendOperation0`.
    Operation,
    /// The classify itself, by `FwpsPendClassify0`.
    Classify,
}

impl<L: LayerType> Classify<'_, L> {
    /// Whether [`pend`](Self::pend) can succeed: the layer shows a completion handle, which it does
    /// when an operation is authorized for the first time, and nobody has decided yet.
    #[must_use]
    pub fn may_pend(&self) -> bool {
        !self.decided
            && self.kept.get() == Kept::Nothing
            && self.metadata.completion_handle().is_some()
    }

    /// Keeps the operation that is being authorized. Whatever the callout answers then, the system
    /// is told to block and to absorb, as the DDI page of `FwpsPendOperation0` demands.
    ///
    /// At a layer where nothing can be pended this does not compile.
    ///
    /// # Errors
    /// `STATUS_FWP_CANNOT_PEND` where [`may_pend`](Self::may_pend) is false, and whatever WFP
    /// answers; nothing is pended then.
    pub fn pend(&self) -> Result<PendedOperation, NtStatus> {
        const {
            assert!(
                L::KIND.may_pend_operation(),
                "nothing can be pended at this layer"
            );
        }
        let handle = self
            .metadata
            .completion_handle()
            .filter(|_| self.may_pend())
            .ok_or(NtStatus::FWP_CANNOT_PEND)?;
        let operation = PendedOperation::pend(handle)?;
        self.kept.set(Kept::Operation);
        Ok(operation)
    }
}

impl<L: LayerType> Classify<'_, L> {
    /// Bytes from the packet's IP header to where its data begins at this layer; 0 if they begin
    /// with it. Retreat by them before a packet is cloned for the receive path. `None` if there is
    /// no IP header (a transport has not yet given an outbound packet one), or metadata is missing.
    #[must_use]
    pub fn behind_ip_header(&self, direction: Direction) -> Option<u32> {
        let LayerData::NetBufferList { inbound, outbound } = (const { L::KIND.data() }) else {
            return None;
        };
        let ip = || self.metadata.ip_header_size();
        match (direction, inbound, outbound) {
            (Direction::Inbound, Header::Ip, _) | (Direction::Outbound, _, Header::Ip) => Some(0),
            (Direction::Inbound, Header::Transport | Header::Icmp, _) => ip(),
            (Direction::Inbound, Header::Data, _) => {
                ip()?.checked_add(self.metadata.transport_header_size()?)
            }
            _ => None,
        }
    }
}

impl<L: LayerType> fmt::Debug for Classify<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classify")
            .field("layer", &self.fields.layer())
            .field("flow_context", &self.flow_context)
            .finish_non_exhaustive()
    }
}

/// What `FwpsCalloutRegister2` is told of a callout.
pub(crate) fn descriptor<C: Callout>(
    version: IpVersion,
    key: Guid,
    flags: CalloutFlags,
) -> FWPS_CALLOUT2 {
    FWPS_CALLOUT2 {
        calloutKey: to_guid(key),
        flags: flags.bits(),
        classifyFn: Some(classify::<C>),
        notifyFn: match version {
            IpVersion::V4 => Some(notify::<C, false>),
            IpVersion::V6 => Some(notify::<C, true>),
        },
        // NULL unless contexts are used (DDI page of FWPS_CALLOUT2).
        flowDeleteFn: C::FLOW_CONTEXTS.then_some(flow_delete::<C> as unsafe extern "C" fn(_, _, _)),
    }
}

/// `FWPS_CALLOUT_CLASSIFY_FN2` of every callout.
///
/// # Safety
/// Called by WFP: each argument is as the function type's DDI page says, for this callout's layer.
unsafe extern "C" fn classify<C: Callout>(
    in_fixed_values: *const FWPS_INCOMING_VALUES0,
    in_meta_values: *const FWPS_INCOMING_METADATA_VALUES0,
    layer_data: *mut c_void,
    classify_context: *const c_void,
    filter: *const FWPS_FILTER2,
    flow_context: u64,
    classify_out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: WFP passes NULL or values that live during the call.
    let fixed = unsafe { in_fixed_values.as_ref() };
    // SAFETY: as above.
    let meta = unsafe { in_meta_values.as_ref() };
    // SAFETY: as above.
    let filter = unsafe { filter.as_ref() };
    let (Some(fixed), Some(meta), Some(filter), Some(out)) =
        (fixed, meta, filter, NonNull::new(classify_out))
    else {
        return;
    };
    // SAFETY: `fixed` is what WFP passed.
    let values = unsafe { Values::new(fixed) };
    let Some(fields) = Fields::<C::Layer>::new(values) else {
        return;
    };
    let filter_flags = RuntimeFilterFlags::from_bits(filter.flags);
    let counters = C::counters(fields.version());
    counters.classify.fetch_add(1, Ordering::Relaxed);
    // SAFETY: WFP passed it. It is copied, because functions that the callout calls may write it.
    let found = unsafe { out.read() };
    let mut answer = ClassifyOut {
        action: found.actionType,
        rights: Rights::from_bits(found.rights),
        flags: ClassifyOutFlags::from_bits(found.flags),
        stream: None,
    };
    let call = Classify {
        fields,
        // SAFETY: `meta` is what WFP passed.
        metadata: unsafe { Metadata::new(meta) },
        // SAFETY: the layer data is of this layer, which `Fields::new` has checked.
        data: unsafe { C::Layer::data(layer_data) },
        callout: CalloutId::new(filter.action.calloutId),
        flow_context: NonZeroU64::new(flow_context),
        decided: !answer.rights.contains(Rights::ACTION_WRITE),
        must_decide: answer
            .flags
            .intersects(ClassifyOutFlags::BUFFER_LIMIT_REACHED | ClassifyOutFlags::NO_MORE_DATA),
        call: Call {
            context: classify_context,
            filter: filter.filterId,
            filter_flags,
            out,
            rights: answer.rights,
        },
        kept: Cell::new(Kept::Nothing),
    };
    let verdict = C::classify(&call);
    counters.count(match call.kept.get() {
        // As the DDI page of FwpsPendOperation0 demands.
        Kept::Operation => Authorization::BlockSilently.write(filter_flags, &mut answer),
        // As the page about redirection demands. It says nothing of absorbing, nor does that of the flag of these layers.
        Kept::Classify => Authorization::Block.write(filter_flags, &mut answer),
        Kept::Nothing | Kept::Handle => verdict.write(filter_flags, &mut answer),
    });
    // SAFETY: as above; the callout has returned, and nobody else refers to it.
    let out = unsafe { &mut *out.as_ptr() };
    // Acquiring writable layer data has written a block here, or, as measured by others, has not.
    out.actionType = answer.action;
    out.rights = answer.rights.bits();
    out.flags = answer.flags.bits();
    if let Some(stream) = answer.stream {
        // SAFETY: as for `data`; what the callout made of it is gone.
        unsafe { C::Layer::answer(layer_data, stream) };
    }
}

/// `FWPS_CALLOUT_NOTIFY_FN2` of every callout, for each IP version: no argument tells it.
///
/// # Safety
/// Called by WFP.
#[allow(
    clippy::cast_sign_loss,
    reason = "the types of notification are not negative; C makes enumerations signed"
)]
unsafe extern "C" fn notify<C: Callout, const V6: bool>(
    notify_type: wfp_sys::FWPS_CALLOUT_NOTIFY_TYPE,
    _filter_key: *const GUID,
    _filter: *mut FWPS_FILTER2,
) -> NTSTATUS {
    let version = if V6 { IpVersion::V6 } else { IpVersion::V4 };
    C::counters(version).notify.fetch_add(1, Ordering::Relaxed);
    // A type that a later system adds is none of ours: success (DDI page).
    NotifyType::from_u32(notify_type as u32)
        .map_or(Ok(()), C::notify)
        .err()
        .unwrap_or(NtStatus::SUCCESS)
        .to_i32()
}

/// `FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0` of every callout that takes contexts.
///
/// # Safety
/// Called by WFP.
unsafe extern "C" fn flow_delete<C: Callout>(layer_id: u16, _callout_id: u32, context: u64) {
    let version = if layer_id == crate::layer::row::<C::Layer>(IpVersion::V6).id().get() {
        IpVersion::V6
    } else {
        IpVersion::V4
    };
    C::counters(version)
        .flow_delete
        .fetch_add(1, Ordering::Relaxed);
    if let Some(context) = NonZeroU64::new(context) {
        C::flow_deleted(context);
    }
}
