//! What is measured: each row is one kind of classify on a machine of its own.

use std::ops::Range;

use ksim::fwp::KernelFiltering;
use ksim::net::{Filtering as _, Outcome, StageId, StreamOutcome, StreamSegment};
use ksim::{Cpu, Kernel};
use portcullis_tests::messages::{client_hello, dns_query, http_request};
use wfp_schema::{ClassifyOutFlags, IpVersion, LayerKind, StreamAction, StreamFlags};

use crate::machine::{
    Conversation, Indicated, Portcullis, TCP, UDP, begin_flow, conversation, without_driver,
};
use crate::policies::{Events, Kind, policy};
use crate::rounds::initial;
use crate::windivert::WinDivert;

/// Calls of one kind, as many as wanted in a row.
pub(crate) trait Subject {
    /// Prepares `calls` calls, hands them to `around`, and cleans up behind them.
    fn run(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut()));

    /// Where calls can be repeated inside of the platform ([`KernelFiltering::repeat`]): makes `calls` such calls.
    fn run_inside(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut())) -> bool {
        let _ = (calls, around);
        false
    }
}

/// The images that rows need.
#[derive(Clone)]
pub(crate) struct Images {
    pub(crate) portcullis: Vec<u8>,
    /// `None`: it could not be fetched.
    pub(crate) windivert: Option<Vec<u8>>,
}

/// A row: its name, what is called, and under which policy.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    what: What,
    policy: Policy,
}

#[derive(Clone, Copy)]
enum What {
    /// A filter without a callout: the platform alone.
    Platform(IpVersion),
    Connect(IpVersion),
    /// What a connection says first.
    First(Greeting),
    /// A segment of a connection whose host is known.
    StreamData,
    /// A datagram of a flow that is decided.
    DatagramData,
    /// Datagrams that are one packet.
    DatagramBurst,
    DatagramQuery,
    WinDivert {
        accepts: bool,
    },
}

/// What names the host.
#[derive(Clone, Copy)]
enum Greeting {
    Tls,
    Http,
    /// An Initial of version 1 with the whole hello.
    Quic,
}

#[derive(Clone, Copy)]
struct Policy {
    kind: Kind,
    rules: usize,
    events: Events,
}

const fn policy_of(kind: Kind, rules: usize) -> Policy {
    let events = Events::None;
    Policy {
        kind,
        rules,
        events,
    }
}

impl Policy {
    const NONE: Self = policy_of(Kind::Endpoints, 0);
    const FEW: Self = policy_of(Kind::Endpoints, 10);
    const MANY: Self = policy_of(Kind::Endpoints, 1_000);
    const MANY_APPLICATIONS: Self = policy_of(Kind::Applications, 1_000);
    const FEW_HOSTS: Self = policy_of(Kind::Hosts, 10);
    const MANY_HOSTS: Self = policy_of(Kind::Hosts, 1_000);

    /// 10,000 literals: two in each rule but the last.
    const MANY_CONTENTS: Self = policy_of(Kind::Contents, 5_001);

    const fn with_event(self) -> Self {
        let events = Events::Last;
        Self { events, ..self }
    }
}

const fn row(name: &'static str, what: What, policy: Policy) -> Row {
    Row { name, what, policy }
}

const V4: What = What::Connect(IpVersion::V4);
const V6: What = What::Connect(IpVersion::V6);
const REJECTS: What = What::WinDivert { accepts: false };
const ACCEPTS: What = What::WinDivert { accepts: true };

/// All rows, in their order.
pub(crate) const ROWS: &[Row] = &[
    row(
        "connect/v4/no callout",
        What::Platform(IpVersion::V4),
        Policy::NONE,
    ),
    row(
        "connect/v6/no callout",
        What::Platform(IpVersion::V6),
        Policy::NONE,
    ),
    row("connect/v4/10 rules", V4, Policy::FEW),
    row("connect/v4/1000 rules", V4, Policy::MANY),
    row(
        "connect/v4/1000 rules, applications",
        V4,
        Policy::MANY_APPLICATIONS,
    ),
    row("connect/v4/10 rules, event", V4, Policy::FEW.with_event()),
    row(
        "connect/v4/1000 rules, event",
        V4,
        Policy::MANY.with_event(),
    ),
    row("connect/v6/10 rules", V6, Policy::FEW),
    row("connect/v6/1000 rules", V6, Policy::MANY),
    row(
        "stream/TLS ClientHello/10 rules",
        What::First(Greeting::Tls),
        Policy::FEW_HOSTS,
    ),
    row(
        "stream/TLS ClientHello/1000 rules",
        What::First(Greeting::Tls),
        Policy::MANY_HOSTS,
    ),
    row(
        "stream/HTTP request/10 rules",
        What::First(Greeting::Http),
        Policy::FEW_HOSTS,
    ),
    row(
        "stream/1460 bytes/10 rules",
        What::StreamData,
        Policy::FEW_HOSTS,
    ),
    row(
        "stream/1460 bytes/1000 rules",
        What::StreamData,
        Policy::MANY_HOSTS,
    ),
    row(
        "stream/1460 bytes/10000 contents",
        What::StreamData,
        Policy::MANY_CONTENTS,
    ),
    row(
        "datagram/512 bytes/10 rules",
        What::DatagramData,
        Policy::FEW_HOSTS,
    ),
    row(
        "datagram/512 bytes/1000 rules",
        What::DatagramData,
        Policy::MANY_HOSTS,
    ),
    row(
        "datagram/40 of 1250 bytes in one/10 rules",
        What::DatagramBurst,
        Policy::FEW_HOSTS,
    ),
    row(
        "datagram/DNS query/10 rules",
        What::DatagramQuery,
        Policy::FEW_HOSTS,
    ),
    row(
        "datagram/DNS query/1000 rules",
        What::DatagramQuery,
        Policy::MANY_HOSTS,
    ),
    row(
        "datagram/QUIC Initial/10 rules",
        What::First(Greeting::Quic),
        Policy::FEW_HOSTS,
    ),
    row(
        "WinDivert/outbound packet, filter rejects",
        REJECTS,
        Policy::NONE,
    ),
    row(
        "WinDivert/outbound packet, accepted and sniffed",
        ACCEPTS,
        Policy::NONE,
    ),
];

const HOST: &str = "www.measured.example";

impl Row {
    /// Whether there is a driver to measure.
    pub(crate) const fn has_driver(&self) -> bool {
        !matches!(self.what, What::Platform(_))
    }

    /// Whether it is measured on `WinDivert`.
    pub(crate) const fn needs_windivert(&self) -> bool {
        matches!(self.what, What::WinDivert { .. })
    }

    /// Boots the row's machine and calls `with` on its processor with the row's subject and where its driver's code
    /// is. `None`: an image is missing.
    pub(crate) fn on_machine<T: Send>(
        &self,
        images: &Images,
        with: impl FnOnce(&mut dyn Subject, Range<usize>) -> T + Send,
    ) -> Option<T> {
        match self.what {
            What::Platform(version) => {
                let kernel = without_driver();
                let result = kernel.on(0, |cpu| {
                    let connect = Indicated::at(
                        LayerKind::AleAuthConnect,
                        conversation(version, TCP, 443),
                        None,
                    );
                    with(&mut Classify::new(filtering(cpu), connect, 0, &|| ()), 0..0)
                });
                Some(result.expect("no bug check"))
            }
            What::WinDivert { accepts } => {
                let driver = WinDivert::start(images.windivert.as_deref()?, accepts);
                let range = driver.code();
                let result = driver.kernel.on(0, |cpu| {
                    let talk = conversation(IpVersion::V4, UDP, 443);
                    let outbound = Indicated::at(
                        LayerKind::OutboundIpPacket,
                        talk,
                        Some(talk.datagram(&[0x40; 8])),
                    );
                    with(
                        &mut Classify::new(filtering(cpu), outbound, 0, &|| driver.settle(cpu)),
                        range,
                    )
                });
                driver.stop();
                Some(result.expect("no bug check"))
            }
            _ => Some(self.on_portcullis(images, with)),
        }
    }

    fn on_portcullis<T: Send>(
        &self,
        images: &Images,
        with: impl FnOnce(&mut dyn Subject, Range<usize>) -> T + Send,
    ) -> T {
        let talk = match self.what {
            What::Connect(version) => conversation(version, TCP, 443),
            What::DatagramData | What::DatagramBurst | What::First(Greeting::Quic) => {
                conversation(IpVersion::V4, UDP, 443)
            }
            What::DatagramQuery => conversation(IpVersion::V4, UDP, 53),
            _ => conversation(IpVersion::V4, TCP, 443),
        };
        let Policy {
            kind,
            rules,
            events,
        } = self.policy;
        let policy = policy(kind, rules, talk.remote, events);
        let machine = Portcullis::start(&images.portcullis, &policy);
        let base = machine.driver.base();
        let range = base..base + machine.driver.size();
        let result = machine.kernel.on(0, |cpu| {
            self.subject(cpu, &machine, talk, |subject| with(subject, range))
        });
        machine.stop();
        result.expect("no bug check")
    }

    fn subject<T>(
        &self,
        cpu: &Cpu,
        machine: &Portcullis,
        talk: Conversation,
        with: impl FnOnce(&mut dyn Subject) -> T,
    ) -> T {
        let mut filtering = filtering(cpu);
        match self.what {
            What::First(greeting) => {
                let segment = match greeting {
                    Greeting::Tls => Some(client_hello(Some(HOST))),
                    Greeting::Http => Some(http_request(HOST)),
                    Greeting::Quic => None,
                };
                with(&mut First {
                    filtering,
                    talk,
                    segment,
                })
            }
            What::StreamData => {
                let flow = begin_flow(&mut filtering, talk);
                let mut stream = Stream::new(filtering, talk, flow, client_hello(Some(HOST)));
                stream.run(1, &mut |call| call());
                stream.bytes = vec![0x17; 1_460];
                with(&mut stream)
            }
            What::DatagramData | What::DatagramBurst | What::DatagramQuery => {
                let (payload, size) = match self.what {
                    What::DatagramQuery => (dns_query(HOST), 0),
                    What::DatagramBurst => (vec![0x40; 40 * 1_250], 1_250),
                    _ => (vec![0x40; 512], 0),
                };
                let flow = begin_flow(&mut filtering, talk);
                let packet = Some(talk.datagram(&payload));
                let datagram = Indicated::at(LayerKind::DatagramData, talk, packet).split(size);
                with(&mut Classify::new(filtering, datagram, flow, &|| ()))
            }
            _ => {
                let connect = Indicated::at(LayerKind::AleAuthConnect, talk, None);
                let is_reported = self.policy.events == Events::Last;
                let settle = || {
                    assert_eq!(
                        machine.take_decisions() > 0,
                        is_reported,
                        "the last rule decided"
                    );
                };
                with(&mut Classify::new(filtering, connect, 0, &settle))
            }
        }
    }
}

fn filtering(cpu: &Cpu) -> KernelFiltering {
    cpu.machine().filtering(cpu.index())
}

/// The same indication of a layer again and again.
struct Classify<'a> {
    filtering: KernelFiltering,
    indicated: Indicated,
    flow: u64,
    settle: &'a dyn Fn(),
}

impl<'a> Classify<'a> {
    fn new(
        filtering: KernelFiltering,
        indicated: Indicated,
        flow: u64,
        settle: &'a dyn Fn(),
    ) -> Self {
        Self {
            filtering,
            indicated,
            flow,
            settle,
        }
    }
}

impl Subject for Classify<'_> {
    fn run(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut())) {
        let Self {
            filtering,
            indicated,
            flow,
            settle,
        } = self;
        indicated.with(*flow, |indication| {
            around(&mut || {
                for _ in 0..calls {
                    expect_pass(filtering.classify(indication));
                }
            });
        });
        settle();
    }

    fn run_inside(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut())) -> bool {
        self.filtering.repeat(calls);
        self.run(1, around);
        self.filtering.repeat(1);
        true
    }
}

/// Data of one connection.
struct Stream {
    filtering: KernelFiltering,
    indicated: Indicated,
    flow: u64,
    stage: StageId,
    bytes: Vec<u8>,
}

fn stage(filtering: &mut KernelFiltering, talk: Conversation, flow: u64) -> StageId {
    let mut stages = Vec::new();
    let layer = wfp_schema::Layer::of(LayerKind::Stream, talk.version())
        .expect("an IP layer")
        .id();
    filtering.stream_stages(layer, flow, &mut stages);
    *stages.first().expect("the driver has a stream callout")
}

const fn segment(stage: StageId, bytes: &[u8]) -> StreamSegment<'_> {
    StreamSegment {
        stage,
        flags: StreamFlags::SEND,
        bytes,
        missed_bytes: 0,
        out_flags: ClassifyOutFlags::NONE,
    }
}

fn expect_pass(outcome: Outcome) {
    assert_eq!(outcome, Outcome::Permit, "what is measured is permitted");
}

fn expect_permit(outcome: StreamOutcome) {
    assert_eq!(
        outcome.action,
        StreamAction::None,
        "what is measured is permitted"
    );
}

impl Stream {
    fn new(mut filtering: KernelFiltering, talk: Conversation, flow: u64, bytes: Vec<u8>) -> Self {
        let stage = stage(&mut filtering, talk, flow);
        Self {
            filtering,
            indicated: Indicated::at(LayerKind::Stream, talk, None),
            flow,
            stage,
            bytes,
        }
    }
}

impl Subject for Stream {
    fn run(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut())) {
        let Self {
            filtering,
            indicated,
            flow,
            stage,
            bytes,
        } = self;
        indicated.with(*flow, |indication| {
            around(&mut || {
                for _ in 0..calls {
                    expect_permit(filtering.classify_stream(indication, &segment(*stage, bytes)));
                }
            });
        });
    }

    fn run_inside(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut())) -> bool {
        self.filtering.repeat(calls);
        self.run(1, around);
        self.filtering.repeat(1);
        true
    }
}

/// The first data of connections: each call is another connection's.
struct First {
    filtering: KernelFiltering,
    talk: Conversation,
    /// `None`: it is a datagram, a QUIC Initial.
    segment: Option<Vec<u8>>,
}

impl Subject for First {
    fn run(&mut self, calls: u32, around: &mut dyn FnMut(&mut dyn FnMut())) {
        let Self {
            filtering,
            talk,
            segment: first,
        } = self;
        let flows: Vec<_> = (0..calls)
            .map(|_| {
                let flow = begin_flow(filtering, *talk);
                let first = first.as_deref();
                (
                    flow,
                    first.map(|first| segment(stage(filtering, *talk, flow), first)),
                )
            })
            .collect();
        // Metadata name the flow, so each call has an indication of its own; it is made outside of the call.
        let indicated = if first.is_some() {
            Indicated::at(LayerKind::Stream, *talk, None)
        } else {
            let initial = talk.datagram(&initial(HOST));
            Indicated::at(LayerKind::DatagramData, *talk, Some(initial))
        };
        let mut flow = flows.iter();
        indicated.with(u64::MAX, |common| {
            around(&mut || {
                for (handle, segment) in flow.by_ref() {
                    let metadata = ksim::net::Metadata {
                        flow_handle: *handle,
                        ..*common.metadata
                    };
                    let indication = ksim::net::Indication {
                        metadata: &metadata,
                        ..*common
                    };
                    match segment {
                        Some(segment) => {
                            expect_permit(filtering.classify_stream(&indication, segment));
                        }
                        None => expect_pass(filtering.classify(&indication)),
                    }
                }
            });
        });
        for (handle, _) in flows {
            filtering.flow_ended(handle);
        }
    }
}

/// How long loading and starting Portcullis takes, and stopping and unloading it.
pub(crate) fn life(image: &[u8]) -> [std::time::Duration; 2] {
    let kernel = Kernel::new(&ksim::Config::default()).expect("a machine");
    let begun = std::time::Instant::now();
    let driver = kernel
        .load(image, &ksim::LoadOptions::named("portcullis.sys"))
        .expect("the driver is loaded");
    let status = driver.start().expect("no bug check");
    let start = begun.elapsed();
    assert!(status.is_success(), "the driver does not start: {status}");
    let begun = std::time::Instant::now();
    let report = driver.unload().expect("no bug check");
    let stop = begun.elapsed();
    assert!(report.is_clean(), "{report:#?}");
    [start, stop]
}
