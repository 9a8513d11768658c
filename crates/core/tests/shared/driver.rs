//! A driver's surroundings for the core: a policy that can be changed, a clock that is told the time, an event ring.

use parking_lot::RawMutex;
use portcullis_core::{
    Application, AssemblyPool, AssemblySlot, Clock, Connection, Direction, Endpoint,
    EndpointBucket, EventRing, EventSink, FlowHandle, FlowSlot, FlowStorage, FlowTable, Indication,
    Look, Parts, Policy, PolicySource, PolicyView, Portcullis, StreamVerdict, Transfer,
};
use portcullis_policy::{Options, compile};
use portcullis_proto::{Counter, EventKind, EventRecord};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

/// The policy in force.
#[derive(Default)]
pub struct CurrentPolicy {
    policy: RwLock<Option<Policy<Vec<u8>>>>,
    epoch: AtomicU64,
    /// Comes into force as soon as somebody has looked at the epoch.
    soon: Mutex<Option<Policy<Vec<u8>>>>,
}

impl CurrentPolicy {
    fn put(&self, policy: Option<Policy<Vec<u8>>>) {
        *self.policy.write().expect("not poisoned") = policy;
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

impl PolicySource for CurrentPolicy {
    fn epoch(&self) -> u64 {
        let epoch = self.epoch.load(Ordering::Acquire);
        let soon = self.soon.lock().expect("not poisoned").take();
        if soon.is_some() {
            self.put(soon);
        }
        epoch
    }

    fn with<T>(&self, with: impl FnOnce(Option<PolicyView<'_>>, u64) -> T) -> T {
        let policy = self.policy.read().expect("not poisoned");
        with(
            policy.as_ref().map(Policy::view),
            self.epoch.load(Ordering::Acquire),
        )
    }
}

/// A clock that counts its readings.
#[derive(Default)]
pub struct CountingClock(AtomicU64);

impl Clock for CountingClock {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

pub type Core = Portcullis<Host>;

/// The memory of a program.
pub enum Host {}

impl Parts for Host {
    type Mutex = RawMutex;
    type Flows = Flows;
    type Assemblies = Vec<AssemblySlot<RawMutex>>;
    type Policy = CurrentPolicy;
    type Events = Ring;
    type Clock = CountingClock;
}

/// QUIC connections whose host can be sought at a time.
pub const ASSEMBLIES: usize = 2;

pub type Ring = EventRing<RawMutex, Vec<EventRecord>>;

/// Room for flows, of which there may be more later.
pub struct Flows {
    slots: Vec<FlowSlot<RawMutex>>,
    /// How many of the slots are in use.
    pub count: AtomicUsize,
    endpoints: Vec<EndpointBucket<RawMutex>>,
}

impl Flows {
    /// Of `most` slots, `first` to begin with.
    pub fn new(first: usize, most: usize) -> Self {
        Self {
            slots: std::iter::repeat_with(FlowSlot::new).take(most).collect(),
            count: AtomicUsize::new(first),
            endpoints: std::iter::repeat_with(EndpointBucket::new)
                .take(most)
                .collect(),
        }
    }
}

impl FlowStorage<RawMutex> for Flows {
    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    fn slot(&self, index: u32) -> Option<&FlowSlot<RawMutex>> {
        self.slots.get(index as usize)
    }

    fn endpoints(&self) -> &[EndpointBucket<RawMutex>] {
        &self.endpoints
    }
}

/// A core with room for so many flows and plenty of events, and this policy.
pub fn core(flows: usize, policy: &str) -> Core {
    core_over(Flows::new(flows, flows), policy)
}

/// The same over this storage.
pub fn core_over(flows: Flows, policy: &str) -> Core {
    let ring = EventRing::new(vec![EventRecord::default(); 4096]);
    let assemblies = std::iter::repeat_with(AssemblySlot::new).take(ASSEMBLIES);
    let core = Portcullis::new(
        FlowTable::new(flows),
        AssemblyPool::new(assemblies.collect()),
        CurrentPolicy::default(),
        ring,
        CountingClock::default(),
    );
    if !policy.is_empty() {
        set_policy(&core, policy);
    }
    core
}

/// Brings a policy into force.
pub fn set_policy(core: &Core, text: &str) {
    core.policy().put(Some(compiled(text)));
}

/// Brings a policy into force as soon as somebody has looked which one is.
pub fn set_policy_soon(core: &Core, text: &str) {
    *core.policy().soon.lock().expect("not poisoned") = Some(compiled(text));
}

fn compiled(text: &str) -> Policy<Vec<u8>> {
    let options = Options {
        events_all: true,
        ..Options::default()
    };
    let blob = compile(text, &options)
        .unwrap_or_else(|found| panic!("{found:?}"))
        .blob;
    Policy::new(blob).expect("valid")
}

/// Takes the policy away.
pub fn withdraw_policy(core: &Core) {
    core.policy().put(None);
}

/// All events that wait.
pub fn events(core: &Core) -> Vec<EventRecord> {
    std::iter::from_fn(|| core.events().read()).collect()
}

/// The events of one kind.
pub fn events_of(core: &Core, kind: EventKind) -> Vec<EventRecord> {
    events(core)
        .into_iter()
        .filter(|event| event.kind == kind.raw())
        .collect()
}

pub fn count(core: &Core, counter: Counter) -> u64 {
    core.statistics().get(counter)
}

/// An outgoing connection to a port of 192.0.2.1.
pub fn outgoing(protocol: u8, port: u16) -> Connection<'static> {
    Connection {
        direction: Direction::Outbound,
        protocol,
        local: Endpoint::new(IpAddr::from([10, 0, 0, 1]), 50000),
        remote: Endpoint::new(IpAddr::from([192, 0, 2, 1]), port),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 1234,
        flow: 0,
        interface: 0,
    }
}

/// The same seen from the other side.
pub fn incoming(protocol: u8, port: u16) -> Connection<'static> {
    let there = outgoing(protocol, port);
    Connection {
        direction: Direction::Inbound,
        local: there.remote,
        remote: there.local,
        ..there
    }
}

pub const fn indication(transfer: Transfer, bytes: &[u8]) -> Indication {
    Indication {
        transfer,
        bytes: bytes.len() as u64,
        is_end: false,
        look: Look::Inline,
    }
}

/// Sends bytes in a stream.
pub fn send(core: &Core, handle: FlowHandle, bytes: &[u8]) -> StreamVerdict {
    core.stream(Some(handle), indication(Transfer::Sent, bytes), [bytes])
}

/// Receives bytes in a stream.
pub fn receive(core: &Core, handle: FlowHandle, bytes: &[u8]) -> StreamVerdict {
    core.stream(Some(handle), indication(Transfer::Received, bytes), [bytes])
}

/// Everything events can be written to.
pub fn write(ring: &Ring, event: &EventRecord) -> bool {
    EventSink::write(ring, event)
}
