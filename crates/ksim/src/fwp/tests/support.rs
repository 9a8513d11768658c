//! A driver made of Rust functions, on a processor.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use wfp_schema::flags::{ManagementCalloutFlags, RuntimeFilterFlags};
use wfp_schema::{
    Action, CalloutFlags, ClassifyOutFlags, Direction, FilterFlags, Guid, IpVersion, Layer,
    LayerId, LayerKind, MetadataFields, NtStatus, Rights,
};

use crate::access::{In, Out, Plain};
use crate::cpu::Cpu;
use crate::fwp::callout::{FwpsCalloutRegister2, FwpsCalloutUnregisterById0};
use crate::fwp::layout::kernel::{
    Classify1, RawClassifyOut, RawFilter, RawIncomingValues, RawMetadata,
};
use crate::fwp::layout::value::RawValue;
use crate::fwp::layout::{kernel, management};
use crate::fwp::objects::callout::FwpmCalloutAdd0;
use crate::fwp::objects::filter::FwpmFilterAdd0;
use crate::fwp::objects::sublayer::FwpmSubLayerAdd0;
use crate::fwp::session::{FwpmEngineClose0, FwpmEngineOpen0};
use crate::fwp::{Config, KernelFiltering};
use crate::kernel::Kernel;
use crate::net::{
    End, Filtering, FlowInfo, Identity, Indication, InjectionMark, Metadata, Offload, Outcome,
    PacketData, PacketId, Sid, Value,
};
use crate::verifier::Report;

/// `&value` as a driver passes it.
pub(super) fn at<T: Plain>(value: &T) -> In<T> {
    // SAFETY: read during the call only, and not written meanwhile.
    unsafe { In::new(value) }
}

/// `&mut value` as a driver passes it.
pub(super) fn into<T: Plain>(value: &mut T) -> Out<T> {
    // SAFETY: written during the call only, and not borrowed meanwhile.
    unsafe { Out::new(value) }
}

/// A string as a driver passes it.
pub(super) fn wide(text: &[u16]) -> In<u16> {
    assert_eq!(text.last(), Some(&0));
    // SAFETY: NUL-terminated, read during the call only.
    unsafe { In::new(text.as_ptr()) }
}

pub(super) const OK: i32 = 0;
/// Any device object: nobody looks into it.
pub(super) const DEVICE: usize = 0xffff_8000_0000_1000;
const NAME: &[u16] = &[0x74, 0x65, 0x73, 0x74, 0];

/// What a callout does in a classify.
pub(super) type Behaviour = Box<dyn FnMut(&mut Classify<'_>)>;

/// A classify as a callout sees it.
pub(super) struct Classify<'a> {
    pub(super) values: Vec<RawValue>,
    pub(super) layer: u16,
    pub(super) metadata: RawMetadata,
    pub(super) layer_data: Out<u8>,
    /// `classifyContext`.
    pub(super) context: usize,
    pub(super) filter: RawFilter,
    pub(super) flow_context: u64,
    pub(super) out: &'a mut RawClassifyOut,
    pub(super) irql: u8,
}

impl Classify<'_> {
    /// `layerData` as a structure.
    pub(super) fn layer_data<T>(&self) -> Out<T> {
        self.layer_data.offset(0)
    }
}

/// Blocks for good.
pub(super) fn block(classify: &mut Classify<'_>) {
    classify.out.action = Action::Block.value();
    classify.out.rights &= !Rights::ACTION_WRITE.bits();
}

/// Blocks for good and keeps the packet.
pub(super) fn absorb(classify: &mut Classify<'_>) {
    block(classify);
    classify.out.flags |= ClassifyOutFlags::ABSORB.bits();
}

/// What the callouts of a test have heard besides.
#[derive(Default)]
pub(super) struct Heard {
    /// notifyFn: type, whether there was a key, the filter's context.
    pub(super) notified: Vec<(u32, Option<Guid>, u64)>,
    /// flowDeleteFn: layer, callout, context.
    pub(super) deleted: Vec<(u16, u32, u64)>,
    /// Injection completions: context and status.
    pub(super) completed: Vec<(usize, u32)>,
    /// States of the base filtering engine.
    pub(super) states: Vec<u32>,
    /// What notifyFn answers, and the context it gives to a filter that is added.
    pub(super) notify_status: i32,
    pub(super) filter_context: Option<u64>,
}

thread_local! {
    static BEHAVIOUR: RefCell<Option<Behaviour>> = const { RefCell::new(None) };
}

/// What has been heard on this processor so far.
pub(super) fn heard<T>(look: impl FnOnce(&mut Heard) -> T) -> T {
    Cpu::current().expect("a processor").locals().with(look)
}

/// From now on callouts behave so.
pub(super) fn behave(behaviour: impl FnMut(&mut Classify<'_>) + 'static) {
    BEHAVIOUR.set(Some(Box::new(behaviour)));
}

pub(super) extern "win64" fn classify(
    values: In<RawIncomingValues>,
    metadata: In<RawMetadata>,
    layer_data: Out<u8>,
    classify_context: usize,
    filter: In<RawFilter>,
    flow_context: u64,
    out: Out<RawClassifyOut>,
) {
    assert_ne!(classify_context, 0);
    let incoming = values.get().expect("inFixedValues is never NULL");
    let count = incoming.count as usize;
    let mut left = out.get().expect("classifyOut is never NULL");
    let mut seen = Classify {
        values: (0..count)
            .map(|index| incoming.values.as_in().at(index).expect("an array"))
            .collect(),
        layer: incoming.layer,
        metadata: metadata.get().expect("inMetaValues is never NULL"),
        layer_data,
        context: classify_context,
        filter: filter.get().expect("filter is never NULL"),
        flow_context,
        out: &mut left,
        irql: Cpu::current().expect("a driver runs on a processor").irql(),
    };
    // Taken out meanwhile: a behaviour may cause another classify.
    let behaviour = BEHAVIOUR.take();
    if let Some(mut behaviour) = behaviour {
        behaviour(&mut seen);
        BEHAVIOUR.set(Some(behaviour));
    }
    out.set(left);
}

pub(super) extern "win64" fn notify(kind: u32, key: In<Guid>, filter: Out<RawFilter>) -> i32 {
    heard(|heard| {
        let mut raw = filter.get().expect("a filter");
        heard.notified.push((kind, key.get(), raw.context));
        if let (0, Some(context)) = (kind, heard.filter_context) {
            raw.context = context;
            filter.set(raw);
        }
        heard.notify_status
    })
}

pub(super) extern "win64" fn flow_delete(layer: u16, callout: u32, context: u64) {
    heard(|heard| heard.deleted.push((layer, callout, context)));
}

/// A session with a sublayer, on a processor.
pub(super) struct Driver<'a> {
    pub(super) cpu: &'a Cpu,
    pub(super) engine: usize,
    pub(super) sublayer: Guid,
    pub(super) filtering: KernelFiltering,
    identity: Rc<Identity>,
    callouts: Vec<u32>,
}

/// Runs `test` with a driver on the processor of a fresh machine, lets the driver clean up, and returns what the
/// verifier found.
pub(super) fn run(config: Config, test: impl FnOnce(&mut Driver<'_>) + Send) -> Report {
    let kernel = Kernel::new(&crate::Config {
        fwp: config,
        ..crate::Config::default()
    })
    .expect("a kernel");
    kernel
        .on(0, |cpu| {
            BEHAVIOUR.set(None);
            let mut driver = Driver::start(cpu);
            test(&mut driver);
            driver.stop();
        })
        .expect("no bug check");
    let report = kernel.verifier().report();
    // The behaviour's memory belongs to the processor's thread.
    kernel.on(0, |_| BEHAVIOUR.set(None)).expect("no bug check");
    report
}

/// As [`run`], and expects that nothing was found.
pub(super) fn run_clean(config: Config, test: impl FnOnce(&mut Driver<'_>) + Send) {
    let report = run(config, test);
    assert!(report.is_clean(), "{report:#?}");
}

impl<'a> Driver<'a> {
    fn start(cpu: &'a Cpu) -> Self {
        let mut engine = 0;
        let mut driver = Self {
            cpu,
            engine,
            sublayer: Guid::from_u128(0x5eed_0001),
            filtering: cpu.machine().filtering(cpu.index()),
            identity: Rc::new(identity()),
            callouts: Vec::new(),
        };
        if cpu.machine().bfe().state() == wfp_schema::BfeState::Running {
            assert_eq!(open(&mut engine), OK);
            driver.engine = engine;
            let mut sublayer = raw_sublayer(driver.sublayer);
            sublayer.weight = 0x100;
            assert_eq!(FwpmSubLayerAdd0(engine, at(&sublayer), In::null()), OK);
        }
        driver
    }

    fn stop(&mut self) {
        if self.engine != 0 {
            assert_eq!(FwpmEngineClose0(self.engine), OK);
        }
        for callout in std::mem::take(&mut self.callouts) {
            assert_eq!(FwpsCalloutUnregisterById0(callout), OK);
        }
    }

    /// The test has unregistered its callouts itself.
    pub(super) fn forget_callouts(&mut self) {
        self.callouts.clear();
    }

    /// Registers and adds a callout at a layer; its identifier and key.
    pub(super) fn callout(&mut self, layer: LayerId) -> (u32, Guid) {
        self.callout_with(layer, CalloutFlags::NONE)
    }

    pub(super) fn callout_with(&mut self, layer: LayerId, flags: CalloutFlags) -> (u32, Guid) {
        let key = Guid::from_u128(
            0xca11_0000_0000 + 0x100 * u128::from(layer.get()) + self.callouts.len() as u128,
        );
        let mut id = 0;
        let registration = registration(key, flags);
        assert_eq!(
            FwpsCalloutRegister2(DEVICE, at(&registration), into(&mut id)),
            OK
        );
        let mut added = 0;
        let callout = raw_callout(key, layer.layer().expect("a known layer").key());
        assert_eq!(
            FwpmCalloutAdd0(self.engine, at(&callout), In::null(), into(&mut added)),
            OK
        );
        assert_eq!(added, id, "one number for one callout");
        self.callouts.push(id);
        (id, key)
    }

    /// A callout whose filters' provider contexts it sees; its key.
    pub(super) fn callout_using_contexts(&mut self, layer: LayerId) -> Guid {
        let key = Guid::from_u128(0xca11_c0de);
        let mut id = 0;
        let registration = registration(key, CalloutFlags::NONE);
        let registered = FwpsCalloutRegister2(DEVICE, at(&registration), into(&mut id));
        assert_eq!(registered, OK);
        let mut callout = raw_callout(key, layer.layer().expect("a known layer").key());
        callout.flags = ManagementCalloutFlags::USES_PROVIDER_CONTEXT.bits();
        let added = FwpmCalloutAdd0(self.engine, at(&callout), In::null(), Out::null());
        assert_eq!(added, OK);
        self.callouts.push(id);
        key
    }

    /// A callout with a filter of this action that matches everything at a layer; the callout's identifier.
    pub(super) fn filtered(&mut self, layer: LayerId, action: Action) -> u32 {
        self.filtered_with(layer, action, FilterFlags::NONE)
    }

    pub(super) fn filtered_with(
        &mut self,
        layer: LayerId,
        action: Action,
        flags: FilterFlags,
    ) -> u32 {
        let (id, key) = self.callout(layer);
        let mut filter = self.raw_filter(layer);
        filter.flags = flags.bits();
        filter.action = management::RawAction {
            kind: action.value(),
            key,
        };
        filter.context[0] = 0xc0de;
        assert_eq!(
            FwpmFilterAdd0(self.engine, at(&filter), In::null(), Out::null()),
            OK
        );
        id
    }

    /// A filter that permits everything at a layer.
    pub(super) fn raw_filter(&self, layer: LayerId) -> management::RawFilter {
        Self::filter_of(self.sublayer, layer)
    }

    /// The same in any sublayer.
    pub(super) fn filter_of(sublayer: Guid, layer: LayerId) -> management::RawFilter {
        management::RawFilter {
            key: Guid::ZERO,
            display: display(),
            flags: 0,
            provider: In::null(),
            data: NO_DATA,
            layer: layer.layer().expect("a known layer").key(),
            sublayer,
            weight: RawValue::number(wfp_schema::DataType::Empty, 0),
            condition_count: 0,
            conditions: In::null(),
            action: management::RawAction {
                kind: Action::Permit.value(),
                key: Guid::ZERO,
            },
            context: [0; 2],
            reserved: In::null(),
            id: 0,
            effective_weight: RawValue::number(wfp_schema::DataType::Empty, 0),
        }
    }

    /// Classifies at a layer.
    pub(super) fn classify(
        &mut self,
        layer: LayerId,
        values: &[Value<'_>],
        shown: Shown<'_>,
    ) -> Outcome {
        let metadata = shown.metadata(&self.identity);
        self.filtering.classify(&Indication {
            packet: shown.packet,
            pend_handle: shown.completion,
            ..Indication::new(layer, values, &metadata)
        })
    }

    /// Classifies at a redirect layer; `pend_handle` is 0 where the classify cannot be pended.
    pub(super) fn redirect(
        &mut self,
        layer: LayerId,
        redirection: &mut crate::net::Redirection,
        pend_handle: u64,
    ) -> Outcome {
        let metadata = Metadata::nothing(&self.identity);
        let indication = Indication {
            pend_handle,
            ..Indication::new(layer, &[], &metadata)
        };
        self.filtering.redirect(&indication, redirection)
    }

    /// A flow of TCP over IPv4 that this host began.
    pub(super) fn flow(&mut self) -> u64 {
        self.filtering.flow_created(&flow_info())
    }

    /// Indicates a piece of a stream to one stage.
    pub(super) fn classify_stream(
        &mut self,
        layer: LayerId,
        flow: u64,
        segment: &crate::net::StreamSegment<'_>,
    ) -> crate::net::StreamOutcome {
        let shown = Shown {
            flow,
            ..Shown::default()
        };
        let metadata = shown.metadata(&self.identity);
        let indication = Indication::new(layer, &[], &metadata);
        self.filtering.classify_stream(&indication, segment)
    }

    pub(super) fn identity(&self) -> Rc<Identity> {
        Rc::clone(&self.identity)
    }
}

/// What comes with an indication of a test.
#[derive(Default, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) packet: Option<PacketData<'a>>,
    pub(super) flow: u64,
    pub(super) completion: u64,
    pub(super) headers: Option<(u32, u32)>,
    pub(super) endpoint: u64,
    /// The members that an application's operation shows.
    pub(super) process: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn packet(bytes: &'a [u8], offset: usize) -> Self {
        Self::injected(bytes, offset, None)
    }

    pub(super) fn injected(
        bytes: &'a [u8],
        offset: usize,
        injection: Option<InjectionMark>,
    ) -> Self {
        let packet = Some(PacketData {
            bytes,
            offset,
            id: PacketId(3),
            injection,
            offload: Offload::default(),
            more: &[],
        });
        Self {
            packet,
            ..Self::default()
        }
    }

    fn metadata<'m>(&self, process: &'m Identity) -> Metadata<'m> {
        let mut present = MetadataFields::NONE;
        let mut add = |shown: bool, fields| {
            if shown {
                present |= fields;
            }
        };
        add(self.flow != 0, MetadataFields::FLOW_HANDLE);
        add(self.completion != 0, MetadataFields::COMPLETION_HANDLE);
        add(
            self.headers.is_some(),
            MetadataFields::IP_HEADER_SIZE | MetadataFields::TRANSPORT_HEADER_SIZE,
        );
        add(
            self.endpoint != 0,
            MetadataFields::TRANSPORT_ENDPOINT_HANDLE,
        );
        let of_process =
            MetadataFields::PROCESS_PATH | MetadataFields::PROCESS_ID | MetadataFields::TOKEN;
        add(self.process, of_process);
        let (ip_header_size, transport_header_size) = self.headers.unwrap_or_default();
        Metadata {
            present,
            flow_handle: self.flow,
            ip_header_size,
            transport_header_size,
            completion_handle: self.completion,
            endpoint_handle: self.endpoint,
            compartment_id: 1,
            path_mtu: 1500,
            ..Metadata::nothing(process)
        }
    }
}

const NO_DATA: crate::fwp::layout::value::RawBlob = crate::fwp::layout::value::RawBlob {
    size: 0,
    data: Out::null(),
};

pub(super) fn display() -> management::RawDisplayData {
    management::RawDisplayData {
        name: wide(NAME),
        description: In::null(),
    }
}

pub(super) fn raw_sublayer(key: Guid) -> management::RawSubLayer {
    management::RawSubLayer {
        key,
        display: display(),
        flags: 0,
        provider: In::null(),
        data: NO_DATA,
        weight: 1,
    }
}

pub(super) fn raw_provider(key: Guid) -> management::RawProvider {
    management::RawProvider {
        key,
        display: display(),
        flags: 0,
        data: NO_DATA,
        service: In::null(),
    }
}

/// A general provider context with this data.
pub(super) fn raw_provider_context(
    key: Guid,
    data: &crate::fwp::layout::value::RawBlob,
) -> management::RawProviderContext {
    management::RawProviderContext {
        key,
        display: display(),
        flags: 0,
        provider: In::null(),
        data: NO_DATA,
        context_type: wfp_schema::ProviderContextType::General.value(),
        context: at(data),
        id: 0,
    }
}

pub(super) fn raw_callout(key: Guid, layer: Guid) -> management::RawCallout {
    management::RawCallout {
        key,
        display: display(),
        flags: 0,
        provider: In::null(),
        data: NO_DATA,
        layer,
        id: 0,
    }
}

pub(super) fn registration(key: Guid, flags: CalloutFlags) -> kernel::RawCallout {
    let classify: Classify1 = classify;
    kernel::RawCallout {
        key,
        flags: flags.bits(),
        classify: classify as usize,
        notify: notify as *const () as usize,
        flow_delete: flow_delete as *const () as usize,
    }
}

/// An application and its user.
pub(super) fn identity() -> Identity {
    let user = Sid::new(5, &[21, 1, 2, 3, 1001]);
    Identity::new(r"C:\Program Files\App\app.exe", 77, user)
}

/// A flow of TCP over IPv4 that this host began.
pub(super) fn flow_info() -> FlowInfo {
    let end = |host, port| End {
        address: Ipv4Addr::new(192, 0, 2, host).into(),
        port,
    };
    FlowInfo {
        version: IpVersion::V4,
        protocol: 6,
        direction: Direction::Outbound,
        local: end(1, 50_000),
        remote: end(2, 443),
    }
}

/// Opens a dynamic session.
pub(super) fn open(engine: &mut usize) -> i32 {
    let session = management::RawSession {
        key: Guid::ZERO,
        display: management::RawDisplayData {
            name: In::null(),
            description: In::null(),
        },
        flags: 1,
        transaction_wait_ms: 0,
        process_id: 0,
        sid: In::null(),
        user_name: In::null(),
        kernel_mode: 0,
    };
    FwpmEngineOpen0(In::null(), 10, 0, at(&session), into(engine))
}

pub(super) fn layer(kind: LayerKind, version: IpVersion) -> LayerId {
    Layer::of(kind, version)
        .expect("the layer exists for both versions")
        .id()
}

/// A layer that is of no version of IP.
pub(super) fn unversioned(kind: LayerKind) -> LayerId {
    Layer::unversioned(kind).expect("the layer exists").id()
}

pub(super) fn v4(kind: LayerKind) -> LayerId {
    layer(kind, IpVersion::V4)
}

/// The name of a status, for assertions that read well.
pub(super) fn status(code: i32) -> NtStatus {
    NtStatus::from_i32(code)
}

pub(super) const CLEAR_RIGHT: u16 = RuntimeFilterFlags::CLEAR_ACTION_RIGHT.bits();
