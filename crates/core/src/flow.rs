//! The flows that are followed: a fixed number of slots, each with its own lock.

use crate::connection::{Application, Connection, Endpoint, TCP, UDP};
use crate::cut::Cut;
use crate::endpoint::EndpointBucket;
use crate::engine::Indication;
use crate::flow_index::{Entries, Entry, FlowIndex};
use crate::free_list::{FreeList, Link, Linked, Links};
use crate::handle::slot_handle;
use crate::inspect::{DNS_PORT, HostName, HostSniffer, Quic};
use crate::policy::{ContentMatch, ContentState, Decision, Host};
use crate::stream::CourseHandle;
use core::marker::PhantomData;
use core::net::{IpAddr, Ipv4Addr};
use lock_api::{Mutex, MutexGuard, RawMutex};
use portcullis_proto::event::{HostSource, MAX_PATH_UNITS, MAX_SID};
use portcullis_proto::policy::{Action, Direction};

slot_handle! {
    /// Names a followed flow; what WFP keeps as the flow's context.
    FlowHandle
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transfer {
    /// From this machine.
    Sent,
    /// To this machine.
    Received,
}

impl Transfer {
    /// Whether the side that began a connection of this direction sends it.
    #[must_use]
    pub const fn is_initiators(self, direction: Direction) -> bool {
        matches!(
            (self, direction),
            (Self::Sent, Direction::Outbound) | (Self::Received, Direction::Inbound)
        )
    }
}

/// Packets and bytes of one way of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Indications: segments of a stream as the stack hands them over, or datagrams.
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) const fn add(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}

/// A followed flow.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says something of its own"
)]
pub struct Flow {
    pub(crate) direction: Direction,
    pub(crate) protocol: u8,
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
    pub(crate) process_id: u64,
    pub(crate) system_id: u64,
    /// The system's handle of its endpoint; 0 if unknown.
    pub(crate) endpoint: u64,
    /// The interface that its packets take, as its last authorization had it.
    pub(crate) interface: u64,
    pub(crate) sent: Traffic,
    pub(crate) received: Traffic,
    pub(crate) decision: Decision,
    /// What somebody answered when it began.
    pub(crate) answer: Option<Action>,
    pub(crate) epoch: u64,
    /// Its decisions and its end make events.
    pub(crate) reported: bool,
    /// A stream whose connection is to be dropped, for good.
    pub(crate) dropped: bool,
    /// Where its host name came from, or why there is none.
    pub(crate) host_source: Option<HostSource>,
    /// Of a DNS flow the last query's question, of QUIC the server's name; of a stream the sniffer has the name.
    pub(crate) question: HostName,
    pub(crate) quic: Quic,
    /// Of a stream, sent and received: how far a literal that a rule looks for has come.
    pub(crate) contents: [ContentState; 2],
    /// A literal that was found, and that decides when the host is known.
    pub(crate) content: Option<ContentMatch>,
    /// The `ClientHello` that named the host has an encrypted one in it too.
    pub(crate) has_encrypted_hello: bool,
    /// Of a stream, sent and received: how many places were changed.
    pub(crate) changes: [u64; 2],
    /// Of a stream: bytes of the initiator that the stack collects until the host is known. They have been looked at, and
    /// are at the front of what is indicated next.
    pub(crate) collected: u64,
    /// The slot of its stream, if that is edited or held.
    pub(crate) course: Option<CourseHandle>,
    pub(crate) sniffer: HostSniffer,
    user_length: u8,
    user: [u8; MAX_SID],
    path_truncated: bool,
    path_bytes: u16,
    path: [u8; 2 * MAX_PATH_UNITS],
}

impl Flow {
    const fn new() -> Self {
        const NOWHERE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            direction: Direction::Outbound,
            protocol: 0,
            local: NOWHERE,
            remote: NOWHERE,
            process_id: 0,
            system_id: 0,
            endpoint: 0,
            interface: 0,
            sent: Traffic {
                packets: 0,
                bytes: 0,
            },
            received: Traffic {
                packets: 0,
                bytes: 0,
            },
            decision: Decision::permit(),
            answer: None,
            epoch: 0,
            reported: false,
            dropped: false,
            host_source: None,
            question: HostName::EMPTY,
            quic: Quic::Unseen,
            contents: [ContentState::START; 2],
            content: None,
            has_encrypted_hello: false,
            changes: [0; 2],
            collected: 0,
            course: None,
            sniffer: HostSniffer::never(),
            user_length: 0,
            user: [0; MAX_SID],
            path_truncated: false,
            path_bytes: 0,
            path: [0; 2 * MAX_PATH_UNITS],
        }
    }

    fn begin(&mut self, connection: &Connection<'_>) {
        self.direction = connection.direction;
        self.protocol = connection.protocol;
        self.local = connection.local;
        self.remote = connection.remote;
        self.process_id = connection.process_id;
        self.system_id = connection.flow;
        self.endpoint = 0;
        self.interface = connection.interface;
        self.sent = Traffic::default();
        self.received = Traffic::default();
        self.decision = Decision::permit();
        self.answer = None;
        self.epoch = 0;
        self.reported = false;
        self.dropped = false;
        self.host_source = None;
        self.question = HostName::EMPTY;
        self.quic = Quic::Unseen;
        self.contents = [ContentState::START; 2];
        self.content = None;
        self.has_encrypted_hello = false;
        self.changes = [0; 2];
        self.collected = 0;
        self.course = None;
        self.sniffer = if connection.protocol == TCP {
            HostSniffer::stream(connection.responder_port())
        } else {
            HostSniffer::never()
        };
        // A SID that doesn't fit is none.
        self.user_length = keep(&mut self.user, connection.user)
            .map_or(0, |length| length.try_into().unwrap_or(0));
        let path = connection.application.as_utf16();
        let kept = path.get(..self.path.len()).unwrap_or(path);
        self.path_truncated = connection.application.is_truncated() || kept.len() < path.len();
        self.path_bytes =
            keep(&mut self.path, kept).map_or(0, |length| length.try_into().unwrap_or(0));
    }

    /// The connection that the flow belongs to.
    #[must_use]
    pub fn connection(&self) -> Connection<'_> {
        let path = self
            .path
            .get(..usize::from(self.path_bytes))
            .unwrap_or_default();
        Connection {
            direction: self.direction,
            protocol: self.protocol,
            local: self.local,
            remote: self.remote,
            application: if self.path_truncated {
                Application::truncated(path)
            } else {
                Application::new(path)
            },
            user: self
                .user
                .get(..usize::from(self.user_length))
                .unwrap_or_default(),
            process_id: self.process_id,
            flow: self.system_id,
            interface: self.interface,
        }
    }

    /// The decision in force.
    #[must_use]
    pub const fn decision(&self) -> Decision {
        self.decision
    }

    /// What was sent.
    #[must_use]
    pub const fn sent(&self) -> Traffic {
        self.sent
    }

    /// What was received.
    #[must_use]
    pub const fn received(&self) -> Traffic {
        self.received
    }

    /// The host name; empty if unknown.
    #[must_use]
    pub const fn host_name(&self) -> &HostName {
        if self.question.is_empty() {
            self.sniffer.name()
        } else {
            &self.question
        }
    }

    /// What is known of the host, for a decision about the flow as a whole.
    pub(crate) fn host(&self) -> Host<'_> {
        match self.host_source {
            None => Host::Pending,
            Some(HostSource::Tls | HostSource::Http | HostSource::Dns | HostSource::Quic) => {
                Host::Known(self.host_name().as_bytes())
            }
            Some(_) => Host::Never,
        }
    }

    /// Whether this way of the flow may yet name the host that decides it.
    pub(crate) const fn awaits_host(&self, transfer: Transfer) -> bool {
        self.decision.host_dependent
            && self.host_source.is_none()
            && transfer.is_initiators(self.direction)
    }

    /// What of an indication is new, and how many bytes before that were collected and have been looked at.
    pub(crate) fn take_collected(&mut self, indication: Indication) -> (Indication, u64) {
        if !indication.transfer.is_initiators(self.direction) {
            return (indication, 0);
        }
        let seen = core::mem::take(&mut self.collected).min(indication.bytes);
        let bytes = indication.bytes - seen;
        (
            Indication {
                bytes,
                ..indication
            },
            seen,
        )
    }

    /// Whether its datagrams are DNS.
    pub(crate) fn is_dns(&self) -> bool {
        self.protocol == UDP && self.connection().responder_port() == DNS_PORT
    }

    /// Whether the flow has been found to be blocked.
    pub(crate) const fn is_blocked(&self) -> bool {
        self.dropped || matches!(self.decision.action, Action::Block)
    }

    pub(crate) const fn count(&mut self, transfer: Transfer, bytes: u64) {
        self.add(transfer, Traffic { packets: 1, bytes });
    }

    /// Counts all datagrams that are left of a cut.
    pub(crate) const fn count_datagrams(&mut self, transfer: Transfer, cut: Cut) {
        self.add(
            transfer,
            Traffic {
                packets: cut.datagrams() as u64,
                bytes: cut.bytes() as u64,
            },
        );
    }

    const fn add(&mut self, transfer: Transfer, traffic: Traffic) {
        match transfer {
            Transfer::Sent => self.sent.add(traffic),
            Transfer::Received => self.received.add(traffic),
        }
    }
}

/// Copies `from` to the front of `to` and returns its length; `None` if it does not fit.
fn keep(to: &mut [u8], from: &[u8]) -> Option<usize> {
    to.get_mut(..from.len())?.copy_from_slice(from);
    Some(from.len())
}

/// Storage for one flow.
pub struct FlowSlot<R> {
    slot: Mutex<R, Slot>,
    link: Link,
    entry: Entry<R>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    used: bool,
    flow: Flow,
}

impl<R: RawMutex> FlowSlot<R> {
    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slot: Mutex::new(Slot {
                generation: 0,
                used: false,
                flow: Flow::new(),
            }),
            link: Link::new(),
            entry: Entry::new(),
        }
    }
}

impl<R> Linked for FlowSlot<R> {
    fn link(&self) -> &Link {
        &self.link
    }
}

impl<R: RawMutex> Default for FlowSlot<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// A flow in use, as [`FlowTable::for_each`] shows it: enough to take the system's context off it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowedFlow {
    /// The handle.
    pub handle: FlowHandle,
    /// The system's identifier of the flow, as given when it was established.
    pub system_flow: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether its addresses are IPv6.
    pub is_v6: bool,
    /// Whether the stack collects data of its stream.
    pub is_collecting: bool,
}

/// Where a [`FlowTable`] keeps its flows, and what is known of their endpoints.
pub trait FlowStorage<R> {
    /// How many slots there are: so many flows can be followed at a time. It may rise, by one caller at a time, and never
    /// falls.
    fn count(&self) -> usize;

    /// The slot with this index, of which there is one for each below [`count`](Self::count).
    fn slot(&self, index: u32) -> Option<&FlowSlot<R>>;

    /// Places for the statistics of endpoints.
    fn endpoints(&self) -> &[EndpointBucket<R>];
}

/// Storage that stays as large as it is.
impl<R, S: AsRef<[FlowSlot<R>]>, E: AsRef<[EndpointBucket<R>]>> FlowStorage<R> for (S, E) {
    fn count(&self) -> usize {
        self.0.as_ref().len()
    }

    fn slot(&self, index: u32) -> Option<&FlowSlot<R>> {
        self.0.as_ref().get(index as usize)
    }

    fn endpoints(&self) -> &[EndpointBucket<R>] {
        self.1.as_ref()
    }
}

/// The followed flows, over storage of the caller's.
///
/// Taking and freeing a slot costs one short lock on the free list and one in the index; everything else locks only the
/// flow's own slot. No two are ever held together.
pub struct FlowTable<R, S> {
    free: FreeList<R>,
    index: FlowIndex,
    storage: S,
}

/// What the free list sees of the storage.
struct Slots<'a, R, S>(&'a S, PhantomData<R>);

impl<R: RawMutex, S: FlowStorage<R>> Links for Slots<'_, R, S> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn link(&self, index: u32) -> Option<&Link> {
        Some(self.0.slot(index)?.link())
    }
}

impl<R: RawMutex, S: FlowStorage<R>> Entries<R> for Slots<'_, R, S> {
    fn entry(&self, index: u32) -> Option<&Entry<R>> {
        Some(&self.0.slot(index)?.entry)
    }
}

impl<R: RawMutex, S: FlowStorage<R>> FlowTable<R, S> {
    /// A table over free slots. Slots beyond 2³² − 2 are not used.
    pub fn new(storage: S) -> Self {
        let free = FreeList::new(&Slots(&storage, PhantomData));
        Self {
            index: FlowIndex::new(free.capacity()),
            free,
            storage,
        }
    }

    /// The storage.
    pub const fn storage(&self) -> &S {
        &self.storage
    }

    /// Takes the slots into use that the storage has more than before. Only one caller at a time may do so.
    pub fn grow(&self) {
        self.free.extend(&self.slots());
    }

    /// Whether less than half of the slots are free.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.len() > self.capacity() / 2
    }

    /// Flows that can be followed at a time.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.free.capacity()
    }

    /// Flows followed now.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.free.used()
    }

    /// Whether no flow is followed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no further flow can be followed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.capacity()
    }

    /// Begins to follow a flow; `prepare` completes it before anyone else can see it. `None`: the table is full.
    pub(crate) fn insert(
        &self,
        connection: &Connection<'_>,
        prepare: impl FnOnce(&mut Flow),
    ) -> Option<FlowHandle> {
        let index = self.free.take(&self.slots())?;
        let entry = self.storage.slot(index)?;
        let mut slot = entry.slot.lock();
        slot.generation = slot.generation.wrapping_add(1);
        slot.used = true;
        slot.flow.begin(connection);
        prepare(&mut slot.flow);
        let handle = FlowHandle::new(index, slot.generation)?;
        drop(slot);
        self.index
            .insert(&self.slots(), connection.flow, index, handle);
        Some(handle)
    }

    /// The followed flow that the system has this identifier for.
    pub(crate) fn find(&self, system_flow: u64) -> Option<FlowHandle> {
        self.index.find(&self.slots(), system_flow)
    }

    /// Calls `with` with the flow, under its lock. `None`: the handle names no followed flow.
    pub fn with<T>(&self, handle: FlowHandle, with: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        self.lock(handle).map(|mut slot| with(&mut slot.flow))
    }

    /// Ends a flow; `last` sees it under its lock before its slot is free. `None`: the handle names no followed flow.
    pub(crate) fn remove<T>(
        &self,
        handle: FlowHandle,
        last: impl FnOnce(&mut Flow) -> T,
    ) -> Option<T> {
        let index = handle.index()?;
        let mut slot = self.lock(handle)?;
        let result = last(&mut slot.flow);
        let system_flow = slot.flow.system_id;
        slot.used = false;
        drop(slot);
        self.index.remove(&self.slots(), system_flow, index);
        self.free.give(&self.slots(), index);
        Some(result)
    }

    /// Shows each followed flow, with no lock held. A flow that begins or ends meanwhile may be shown or not.
    ///
    /// Only slots that are taken are locked: most are not.
    pub fn for_each(&self, mut show: impl FnMut(FollowedFlow)) {
        let slots =
            (0..self.capacity()).filter_map(|index| Some((index, self.storage.slot(index)?)));
        for (index, entry) in slots.filter(|(_, entry)| entry.link().is_taken()) {
            let slot = entry.slot.lock();
            let followed = slot.used.then(|| {
                FlowHandle::new(index, slot.generation).map(|handle| FollowedFlow {
                    handle,
                    system_flow: slot.flow.system_id,
                    protocol: slot.flow.protocol,
                    is_v6: slot.flow.local.address.is_ipv6(),
                    is_collecting: slot.flow.collected > 0,
                })
            });
            drop(slot);
            if let Some(followed) = followed.flatten() {
                show(followed);
            }
        }
    }

    /// Where the endpoint's statistics are.
    pub(crate) fn endpoints(&self, endpoint: u64) -> Option<&EndpointBucket<R>> {
        // Handles are counted up, or are addresses: the lowest bits tell little.
        let hash = endpoint.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let buckets = self.storage.endpoints();
        buckets.get(usize::try_from(hash).ok()? % buckets.len().max(1))
    }

    const fn slots(&self) -> Slots<'_, R, S> {
        Slots(&self.storage, PhantomData)
    }

    fn lock(&self, handle: FlowHandle) -> Option<MutexGuard<'_, R, Slot>> {
        let entry = self.storage.slot(handle.index()?)?;
        let slot = entry.slot.lock();
        (slot.used && slot.generation == handle.generation()).then_some(slot)
    }
}
