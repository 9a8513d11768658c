//! The callouts: one table, each row for IPv4 and IPv6.

mod authorize;
mod closure;
mod connection;
mod datagram;
mod discard;
mod flow;
mod icmp_error;
mod listen;
mod network;
mod packet;
mod redirect;
mod socket;
mod stream;

use core::{
    num::NonZeroU64,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use portcullis_core::{EffectSet, PolicyView, connection::TCP, packet::PACKET_EFFECTS};
use portcullis_proto::{
    CALLOUTS, CalloutKind, EffectKind, Family, event::Operation, status::CalloutStatus,
};
use wfp::{
    Result,
    callout::{Callout, Counters},
    device::Device,
    engine::CalloutAction,
    flow::{Association, CalloutId, FlowId},
    irql::Passive,
    layer,
    registration::Registration,
    schema::{CalloutFlags, FilterFlags, Guid, IpVersion, Layer},
    wide::{Wide, WideString},
};

pub(crate) use connection::version_of;
use discard::Discard;

/// A set of flags.
macro_rules! flags {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$flag_meta:meta])* $flag:ident = $value:literal; )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(u32);

        impl $name {
            const NONE: Self = Self(0);
            $( $(#[$flag_meta])* const $flag: Self = Self($value); )*

            const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }
        }
    };
}

/// When a callout's filter exists. Where there is no filter, a callout costs nothing.
#[derive(Clone, Copy)]
pub(crate) enum Demand {
    /// While the filter engine runs.
    Always,
    /// While a rule of the policy in force has one of these effects.
    Effects(EffectSet),
    /// While one of these is so.
    Needs(Needs),
}

flags! {
    /// What calls for callouts besides effects.
    Needs {
        /// The policy wants to hear of more than connections.
        OBSERVE = 1;
        /// A rule is about binds.
        BIND = 2;
        /// A rule is about forwarded packets.
        FORWARD = 4;
        /// A rule is about ICMP errors.
        ICMP_ERROR = 8;
        /// A program captures packets.
        CAPTURE = 16;
    }
}

/// What the policy in force, and who captures, want of the callouts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    effects: EffectSet,
    needs: Needs,
}

impl Wanted {
    /// Nothing in particular.
    pub(crate) const NOTHING: Self = Self {
        effects: EffectSet::NONE,
        needs: Needs::NONE,
    };
    /// What a capture wants.
    pub(crate) const CAPTURE: Self = Self {
        needs: Needs::CAPTURE,
        ..Self::NOTHING
    };

    /// What a policy wants.
    pub(crate) const fn by(policy: &PolicyView<'_>) -> Self {
        let mut needs = Needs::NONE;
        if policy.observes() {
            needs = needs.union(Needs::OBSERVE);
        }
        if policy.is_about(Operation::Bind) {
            needs = needs.union(Needs::BIND);
        }
        if policy.is_about(Operation::Forward) {
            needs = needs.union(Needs::FORWARD);
        }
        if policy.is_about(Operation::IcmpError) {
            needs = needs.union(Needs::ICMP_ERROR);
        }
        Self {
            effects: policy.effect_set(),
            needs,
        }
    }

    /// The effects among it.
    pub(crate) const fn effects(self) -> EffectSet {
        self.effects
    }

    /// What one of them wants.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self {
            effects: self.effects.union(other.effects),
            needs: self.needs.union(other.needs),
        }
    }
}

impl Demand {
    /// Whether the filter exists while this is wanted.
    const fn is_met(self, wanted: Wanted) -> bool {
        match self {
            Self::Always => true,
            Self::Effects(needed) => needed.intersects(wanted.effects),
            Self::Needs(needed) => needed.intersects(wanted.needs),
        }
    }
}

/// A callout, whatever the IP version.
struct Row {
    kind: CalloutKind,
    /// What the callout tolerates.
    flags: CalloutFlags,
    /// How its filter asks it.
    action: CalloutAction,
    /// What becomes of traffic while the callout is not registered, and so on.
    filter: FilterFlags,
    weight: u64,
    demand: Demand,
    layer: fn(IpVersion) -> &'static Layer,
    counters: fn(IpVersion) -> &'static Counters,
    register: fn(Device, IpVersion, Guid, CalloutFlags, Passive) -> Result<Registration>,
}

impl Row {
    const fn new<C: Callout>(
        kind: CalloutKind,
        flags: CalloutFlags,
        action: CalloutAction,
    ) -> Self {
        Self {
            kind,
            flags,
            action,
            // The policy is lost with the callout, and a machine cut off from the network could
            // not get it back. (An inspection is passed over anyway, and may not have the flag.)
            filter: match action {
                CalloutAction::Inspection => FilterFlags::NONE,
                CalloutAction::Unknown | CalloutAction::Terminating => {
                    FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED
                }
            },
            // Who watches comes before those who decide, who end the sublayer's evaluation.
            weight: match action {
                CalloutAction::Inspection => 0xC000_0000_0000_0000,
                CalloutAction::Unknown | CalloutAction::Terminating => 0x8000_0000_0000_0000,
            },
            demand: Demand::Always,
            layer: layer::row::<C::Layer>,
            counters: C::counters,
            register: Registration::register::<C>,
        }
    }

    /// The row with a filter that exists only on demand.
    const fn on(self, demand: Demand) -> Self {
        Self { demand, ..self }
    }

    /// The row with a filter behind those who decide: it sees what they leave.
    const fn last(self) -> Self {
        Self {
            weight: 0x4000_0000_0000_0000,
            ..self
        }
    }
}

/// The callout takes segments and datagrams as the network card merges them or leaves them to be
/// split. Without these flags the system would switch that off for all traffic.
const MERGED: CalloutFlags = CalloutFlags::ALLOW_OFFLOAD
    .union(CalloutFlags::ALLOW_RSC)
    .union(CalloutFlags::ALLOW_USO)
    .union(CalloutFlags::ALLOW_URO);

/// Who wants to hear of ICMP errors.
const ICMP_ERRORS: Needs = Needs::ICMP_ERROR
    .union(Needs::OBSERVE)
    .union(Needs::CAPTURE);

/// A callout that watches a discard layer.
const fn watch<C: Callout>(kind: CalloutKind) -> Row {
    Row::new::<C>(kind, MERGED, CalloutAction::Inspection)
        .on(Demand::Needs(Needs::OBSERVE.union(Needs::CAPTURE)))
}

/// The table, in the order of [`CALLOUTS`].
const TABLE: [Row; COUNT / 2] = [
    // Only addresses, ports and identities count: no packet is looked at.
    Row::new::<authorize::Connect>(CalloutKind::Connect, MERGED, CalloutAction::Unknown),
    // Of merged datagrams that are held the first is copied, because merged ones may not be cloned and injected.
    Row::new::<authorize::RecvAccept>(CalloutKind::RecvAccept, MERGED, CalloutAction::Unknown),
    Row::new::<listen::Listen>(CalloutKind::Listen, MERGED, CalloutAction::Unknown),
    Row::new::<flow::FlowEstablished>(
        CalloutKind::FlowEstablished,
        MERGED,
        CalloutAction::Inspection,
    ),
    // A stream is the same however its segments were merged.
    Row::new::<stream::Stream>(
        CalloutKind::Stream,
        MERGED.union(CalloutFlags::CONDITIONAL_ON_FLOW),
        CalloutAction::Unknown,
    ),
    // Each datagram of those that are to be split or were merged is looked at as one.
    Row::new::<datagram::Datagram>(
        CalloutKind::Datagram,
        MERGED.union(CalloutFlags::CONDITIONAL_ON_FLOW),
        CalloutAction::Unknown,
    ),
    Row::new::<closure::EndpointClosure>(
        CalloutKind::EndpointClosure,
        MERGED,
        CalloutAction::Inspection,
    ),
    // No packet is looked at: what is redirected has none yet.
    Row::new::<redirect::ConnectRedirect>(
        CalloutKind::ConnectRedirect,
        MERGED,
        CalloutAction::Unknown,
    )
    .on(Demand::Effects(EffectSet::of(&[EffectKind::Redirect]))),
    Row::new::<redirect::BindRedirect>(CalloutKind::BindRedirect, MERGED, CalloutAction::Unknown)
        .on(Demand::Effects(EffectSet::of(&[EffectKind::Bind]))),
    // What is changed or shaped is taken packet by packet: checksums are made whole, and what the card would split or has
    // merged is split into the packets of the wire. Nothing is cloned.
    Row::new::<packet::Inbound>(CalloutKind::InboundPacket, MERGED, CalloutAction::Unknown)
        .on(Demand::Effects(PACKET_EFFECTS)),
    Row::new::<packet::Outbound>(CalloutKind::OutboundPacket, MERGED, CalloutAction::Unknown)
        .on(Demand::Effects(PACKET_EFFECTS)),
    // Nothing of a packet but its headers counts for a decision, and a copy may well be of what the
    // network card has merged.
    Row::new::<socket::Bind>(CalloutKind::Bind, MERGED, CalloutAction::Unknown)
        .on(Demand::Needs(Needs::BIND.union(Needs::OBSERVE))),
    Row::new::<socket::Release>(CalloutKind::Release, MERGED, CalloutAction::Inspection)
        .on(Demand::Needs(Needs::OBSERVE)),
    Row::new::<icmp_error::Inbound>(
        CalloutKind::InboundIcmpError,
        MERGED,
        CalloutAction::Unknown,
    )
    .on(Demand::Needs(ICMP_ERRORS)),
    Row::new::<icmp_error::Outbound>(
        CalloutKind::OutboundIcmpError,
        MERGED,
        CalloutAction::Unknown,
    )
    .on(Demand::Needs(ICMP_ERRORS)),
    Row::new::<network::Forward>(CalloutKind::Forward, MERGED, CalloutAction::Unknown)
        .on(Demand::Needs(Needs::FORWARD.union(Needs::CAPTURE))),
    Row::new::<network::Inbound>(
        CalloutKind::InboundCapture,
        MERGED,
        CalloutAction::Inspection,
    )
    // A packet that is changed or waits is captured when it has been injected, as what is above sees it.
    .last()
    .on(Demand::Needs(Needs::CAPTURE)),
    Row::new::<network::Outbound>(
        CalloutKind::OutboundCapture,
        MERGED,
        CalloutAction::Inspection,
    )
    .on(Demand::Needs(Needs::CAPTURE)),
    watch::<Discard<layer::InboundIpPacket, 0>>(CalloutKind::InboundPacketDiscard),
    watch::<Discard<layer::OutboundIpPacket, 1>>(CalloutKind::OutboundPacketDiscard),
    watch::<Discard<layer::IpForward, 2>>(CalloutKind::ForwardDiscard),
    watch::<Discard<layer::InboundTransport, 3>>(CalloutKind::InboundTransportDiscard),
    watch::<Discard<layer::OutboundTransport, 4>>(CalloutKind::OutboundTransportDiscard),
    watch::<Discard<layer::DatagramData, 5>>(CalloutKind::DatagramDiscard),
    watch::<Discard<layer::InboundIcmpError, 6>>(CalloutKind::InboundIcmpErrorDiscard),
    watch::<Discard<layer::OutboundIcmpError, 7>>(CalloutKind::OutboundIcmpErrorDiscard),
    watch::<Discard<layer::AleResourceAssignment, 8>>(CalloutKind::BindDiscard),
    watch::<Discard<layer::AleAuthListen, 9>>(CalloutKind::ListenDiscard),
    watch::<Discard<layer::AleAuthRecvAccept, 10>>(CalloutKind::AcceptDiscard),
    watch::<Discard<layer::AleAuthConnect, 11>>(CalloutKind::ConnectDiscard),
];

static ROWS: [Row; COUNT / 2] = TABLE;

const _: () = {
    let mut at = 0;
    while at < COUNT {
        let family = if at.is_multiple_of(2) {
            Family::V4
        } else {
            Family::V6
        };
        assert!(
            CALLOUTS[at].kind as u8 == TABLE[at / 2].kind as u8
                && CALLOUTS[at].family as u8 == family as u8,
            "a row stands where its kind is in the protocol's list"
        );
        at += 1;
    }
};

/// How many callouts there are.
pub(crate) const COUNT: usize = CALLOUTS.len();

/// Longest display name, its NUL included.
const NAME: usize = 48;

/// The display name of each callout and its filter.
static NAMES: [WideString<NAME>; COUNT] = {
    let mut names = [WideString::join("", ""); COUNT];
    let mut at = 0;
    while at < COUNT {
        names[at] = WideString::join("Portcullis ", CALLOUTS[at].name);
        at += 1;
    }
    names
};

/// What our objects are known by, one for all of them but for the last sixteen bits.
const KEYS: u128 = 0xF995_210D_E7AE_41BC_B37D_5960_E38A_0000;

/// The key of one of our objects.
pub(crate) const fn key(object: Object) -> Guid {
    let number = match object {
        Object::Provider => 0x0001,
        Object::Sublayer => 0x0002,
        Object::Callout(index) => 0x0100 + index as u128,
        Object::Filter(index) => 0x0200 + index as u128,
        Object::BootProvider => 0x0003,
        Object::BootSublayer => 0x0004,
        Object::PersistentFilter(number) => 0x4000 + number as u128,
        Object::BootTimeFilter(number) => 0x8000 + number as u128,
    };
    Guid::from_u128(KEYS | number)
}

/// An object of ours in the filter engine; an index is a callout's place in [`CALLOUTS`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    Provider,
    Sublayer,
    Callout(usize),
    Filter(usize),
    /// Whose the filters of the protection at boot are; they outlive sessions, which the others do not.
    BootProvider,
    /// Where they are.
    BootSublayer,
    /// The persistent one of this number.
    PersistentFilter(u16),
    /// The boot-time one of this number.
    BootTimeFilter(u16),
}

const _: () = assert!(
    portcullis_core::boot::Boot::MAX_FILTERS < 0x4000,
    "each number has a key of its own"
);

/// The run-time state of a callout for one IP version.
struct Live {
    /// 0 while it is not registered.
    callout: AtomicU32,
    /// Whether the filter engine has the callout's object.
    is_added: AtomicBool,
    /// 0 while there is no filter.
    filter: AtomicU64,
}

static LIVE: [Live; COUNT] = [const {
    Live {
        callout: AtomicU32::new(0),
        is_added: AtomicBool::new(false),
        filter: AtomicU64::new(0),
    }
}; COUNT];

/// A callout for one IP version.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    index: usize,
    row: &'static Row,
    live: &'static Live,
    name: &'static WideString<NAME>,
    version: IpVersion,
}

/// Every callout, in the order of [`CALLOUTS`].
pub(crate) fn entries() -> impl DoubleEndedIterator<Item = Entry> + ExactSizeIterator {
    (0..COUNT).map(|index| Entry {
        index,
        row: &ROWS[index / 2],
        live: &LIVE[index],
        name: &NAMES[index],
        version: if index % 2 == 0 {
            IpVersion::V4
        } else {
            IpVersion::V6
        },
    })
}

impl Entry {
    /// The callout's key.
    pub(crate) const fn callout_key(&self) -> Guid {
        key(Object::Callout(self.index))
    }

    /// Its filter's key.
    pub(crate) const fn filter_key(&self) -> Guid {
        key(Object::Filter(self.index))
    }

    /// The key of its layer.
    pub(crate) fn layer_key(&self) -> Guid {
        (self.row.layer)(self.version).key()
    }

    /// The display name.
    pub(crate) const fn name(&self) -> Wide<'static> {
        self.name.as_wide()
    }

    /// How its filter asks it.
    pub(crate) const fn action(&self) -> CalloutAction {
        self.row.action
    }

    /// Whether its filter exists while this is wanted.
    pub(crate) const fn is_wanted(&self, wanted: Wanted) -> bool {
        self.row.demand.is_met(wanted)
    }

    /// The weight of its filter in its sublayer.
    pub(crate) const fn weight(&self) -> u64 {
        self.row.weight
    }

    /// Its filter's flags.
    pub(crate) const fn filter_flags(&self) -> FilterFlags {
        self.row.filter
    }

    /// `FwpsCalloutRegister2`.
    pub(crate) fn register(&self, device: Device, passive: Passive) -> Result<Registration> {
        let key = self.callout_key();
        let registration = (self.row.register)(device, self.version, key, self.row.flags, passive)?;
        self.live
            .callout
            .store(registration.id().get(), Ordering::Release);
        Ok(registration)
    }

    /// It is no longer registered.
    pub(crate) fn forget(&self) {
        self.live.callout.store(0, Ordering::Release);
    }

    /// Its run-time identifier, while it is registered.
    pub(crate) fn id(&self) -> Option<CalloutId> {
        match self.live.callout.load(Ordering::Acquire) {
            0 => None,
            id => Some(CalloutId::new(id)),
        }
    }

    /// Keeps whether the filter engine has its object, and the identifier of its filter, 0 for none.
    pub(crate) fn set_objects(&self, is_added: bool, filter: u64) {
        self.live.is_added.store(is_added, Ordering::Release);
        self.live.filter.store(filter, Ordering::Release);
    }

    /// What a status reply tells of it.
    pub(crate) fn status(&self) -> CalloutStatus {
        let counters = (self.row.counters)(self.version);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed).into();
        let callout = self.live.callout.load(Ordering::Relaxed);
        let filter = self.live.filter.load(Ordering::Relaxed);
        let mut flags = 0;
        if callout != 0 {
            flags |= CalloutStatus::REGISTERED;
        }
        if self.live.is_added.load(Ordering::Relaxed) {
            flags |= CalloutStatus::ADDED;
        }
        if filter != 0 {
            flags |= CalloutStatus::FILTERED;
        }
        let mut status = CalloutStatus::zeroed();
        status.kind = self.row.kind.raw();
        status.family = CALLOUTS[self.index].family.raw();
        status.layer = (self.row.layer)(self.version).id().get().into();
        status.flags = flags.into();
        status.key = self.callout_key().to_bytes();
        status.callout_id = callout.into();
        status.filter_id = filter.into();
        status.classify = read(&counters.classify);
        status.permit = read(&counters.permit);
        status.block = read(&counters.block);
        status.proceed = read(&counters.proceed);
        status.no_right = read(&counters.no_right);
        status.flow_delete = read(&counters.flow_delete);
        status.notify = read(&counters.notify);
        status
    }
}

/// Where the context of a flow is: with the stream callout for TCP, else with the datagram callout.
pub(crate) fn association(flow: u64, protocol: u8, version: IpVersion) -> Option<Association> {
    let kind = if protocol == TCP {
        CalloutKind::Stream
    } else {
        CalloutKind::Datagram
    };
    let entry = entries().find(|entry| entry.row.kind == kind && entry.version == version)?;
    Some(Association {
        flow: FlowId::new(NonZeroU64::new(flow)?),
        layer: (entry.row.layer)(version).id(),
        callout: entry.id()?,
    })
}
