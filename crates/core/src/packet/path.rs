//! The paths of packets: which of them a rule changes or shapes, and how.
//!
//! A path is what ALE calls a flow, known by what packets say of themselves: protocol, addresses and ports. It comes into being
//! when a connection is decided by a rule with such effects, before its first packet, and goes with its flow.
//!
//! A path with another remote side than the application knows has two entries: its own, under the remote side that the application
//! knows, and an alias under the one on the wire, by which answers find it.

use core::net::{IpAddr, Ipv4Addr};

use lock_api::{Mutex, RawMutex};
use portcullis_proto::effect::{EffectKind, EffectSet};

use super::edit::Edit;
use super::header::Layout;
use super::news::{Done, Dropped, Owner, PathNews, Treated};
use super::quote::Quote;
use crate::connection::{Connection, Endpoint, TCP, UDP};
use crate::flow::Transfer;
use crate::policy::{Decision, Effect, PolicyView};
use crate::shape::{Fate, Limit, LimitSlot, Limits, Random, Shape, Way};

/// The effects for which packets are looked at.
pub const PACKET_EFFECTS: EffectSet = EffectSet::of(&[
    EffectKind::Dscp,
    EffectKind::HopLimit,
    EffectKind::Translate,
    EffectKind::Rate,
    EffectKind::Delay,
    EffectKind::Loss,
]);

/// Entries of one bucket.
const ENTRIES: usize = 8;
/// A path that has not been used for so long gives its place to another, in 100-nanosecond units.
const IDLE: u64 = 120 * 10_000_000;

/// Names a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    protocol: u8,
    local: Endpoint,
    remote: Endpoint,
}

impl Key {
    /// The key of what a connection's packets say. Protocols without ports have none here.
    const fn of(connection: &Connection<'_>) -> Self {
        let (mut local, mut remote) = (connection.local, connection.remote);
        if !matches!(connection.protocol, TCP | UDP) {
            local.port = 0;
            remote.port = 0;
        }
        Self {
            protocol: connection.protocol,
            local,
            remote,
        }
    }

    const fn of_packet(layout: &Layout, transfer: Transfer) -> Self {
        let (local, remote) = match transfer {
            Transfer::Sent => (layout.source, layout.destination),
            Transfer::Received => (layout.destination, layout.source),
        };
        Self {
            protocol: layout.protocol,
            local,
            remote,
        }
    }

    fn hash(&self, seed: u64) -> u64 {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        let mix = |hash: u64, number: u64| {
            let mixed = (hash ^ number).wrapping_mul(ODD);
            mixed ^ mixed >> 29
        };
        let halves = |end: &Endpoint| {
            let number = end.number();
            let low = u64::try_from(number & u128::from(u64::MAX)).unwrap_or(0);
            let high = u64::try_from(number >> 64).unwrap_or(0);
            [low, high, end.port.into()]
        };
        [halves(&self.local), halves(&self.remote)]
            .iter()
            .flatten()
            .fold(mix(seed, self.protocol.into()), |hash, &part| {
                mix(hash, part)
            })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    /// `other` is the remote side on the wire.
    Path,
    /// `other` is the remote side that the application knows.
    Alias,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    used: Use,
    generation: u32,
    key: Key,
    other: Endpoint,
    /// What is changed in what is sent, but for the destination.
    marks: Edit,
    shape: Shape,
    /// The epoch of the policy that decided it last.
    epoch: u64,
    /// Sent, received.
    ways: [Way; 2],
    seen: u64,
    /// Whose packets they are, and whether what was done to them has been told.
    owner: Owner,
    told: u8,
}

impl Entry {
    const fn new() -> Self {
        const NOWHERE: Endpoint = Endpoint::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            used: Use::Free,
            generation: 0,
            key: Key {
                protocol: 0,
                local: NOWHERE,
                remote: NOWHERE,
            },
            other: NOWHERE,
            marks: Edit {
                dscp: None,
                hop_limit: None,
                source: None,
                destination: None,
            },
            shape: Shape::NONE,
            epoch: 0,
            ways: [Way::NEW; 2],
            seen: 0,
            owner: Owner::NOBODY,
            told: 0,
        }
    }
}

/// Storage for a few paths.
pub struct PathBucket<R>(Mutex<R, [Entry; ENTRIES]>);

impl<R: RawMutex> PathBucket<R> {
    /// No paths.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new([Entry::new(); ENTRIES]))
    }
}

impl<R: RawMutex> Default for PathBucket<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> core::fmt::Debug for PathBucket<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PathBucket").finish_non_exhaustive()
    }
}

/// Names one way of a path, for a packet that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    bucket: u32,
    entry: u8,
    transfer: Transfer,
    generation: u32,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It goes on as it is: no rule says anything.
    Pass,
    /// It is changed, and goes on at once.
    Now(Edit),
    /// It is changed, and waits until the time. Whoever holds it, or cannot, says when it is [gone](Paths::gone).
    At(Edit, u64, Ticket),
    /// It is lost, by chance.
    Lost,
    /// What waits before it is too much.
    Full,
}

/// Why a path could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPath {
    /// No place is free.
    Full,
    /// The remote side on the wire is another path's already: its answers could not be told apart.
    Taken,
}

/// The paths, over storage of the caller's: `S` for them, `L` for the limits that rules share among theirs.
#[derive(Debug)]
pub struct Paths<S, L> {
    buckets: S,
    limits: Limits<L>,
    /// Nobody outside can choose ports that all fall into one bucket.
    seed: u64,
    random: Random,
}

impl<S, L> Paths<S, L> {
    /// No paths. Equal seeds give equal chances.
    pub const fn new(buckets: S, limits: L, seed: u64) -> Self {
        Self {
            buckets,
            limits: Limits::new(limits),
            seed,
            random: Random::new(seed),
        }
    }

    /// A connection was decided, or decided again: its path comes into being, changes, or goes.
    ///
    /// # Errors
    /// [`NoPath`]; the path does not exist then.
    pub fn decided<R: RawMutex>(
        &self,
        (policy, epoch): (&PolicyView<'_>, u64),
        connection: &Connection<'_>,
        decision: Decision,
        now: u64,
    ) -> Result<(), NoPath>
    where
        S: AsRef<[PathBucket<R>]>,
    {
        // Under such a policy no packet is asked about, and a later one decides each flow again.
        if !policy.effect_set().intersects(PACKET_EFFECTS) {
            return Ok(());
        }
        let key = Key::of(connection);
        if !decision.effects.intersects(PACKET_EFFECTS) {
            self.remove(key);
            return Ok(());
        }
        let (mut marks, mut shape, mut wire) = (Edit::default(), Shape::NONE, key.remote);
        for effect in policy.effects(decision.rule) {
            match effect {
                Effect::Dscp(dscp) => marks.dscp = Some(dscp),
                Effect::HopLimit(limit) => marks.hop_limit = Some(limit),
                Effect::Translate { address, port } => {
                    // One address is of one version: connections of the other go where they want.
                    if address.is_none_or(|to| to.is_ipv4() == key.remote.address.is_ipv4())
                        && matches!(key.protocol, TCP | UDP)
                    {
                        wire.address = address.unwrap_or(wire.address);
                        wire.port = port.unwrap_or(wire.port);
                    }
                }
                other => shape.add(&other),
            }
        }
        let known = self.with(key, |entry| {
            (entry.used == Use::Path).then_some(entry.other)
        });
        if known.flatten().is_some_and(|known| known != wire) {
            self.remove(key);
        }
        if wire != key.remote {
            let alias = Key {
                remote: wire,
                ..key
            };
            self.place(alias, Use::Alias, key.remote, now, |_| ())?;
        }
        let placed = self.place(key, Use::Path, wire, now, |entry| {
            entry.marks = marks;
            entry.shape = shape;
            entry.epoch = epoch;
            let owner = entry.owner.decided(connection, decision);
            // Another rule's effects are told anew.
            if owner.rule != entry.owner.rule {
                entry.told = 0;
            }
            entry.owner = owner;
        });
        if placed.is_err() {
            self.remove_alias(key, wire);
        }
        placed
    }

    /// A flow has ended, and its path goes with it.
    pub fn ended<R: RawMutex>(&self, connection: &Connection<'_>)
    where
        S: AsRef<[PathBucket<R>]>,
    {
        self.remove(Key::of(connection));
    }

    /// Whether anything is done to packets like this one.
    pub fn follows<R: RawMutex>(&self, transfer: Transfer, layout: &Layout) -> bool
    where
        S: AsRef<[PathBucket<R>]>,
    {
        if layout.fragment.is_piece() {
            return false;
        }
        let found = self.with(Key::of_packet(layout, transfer), |entry| entry.used);
        match found {
            Some(Use::Path) => true,
            Some(Use::Alias) => transfer == Transfer::Received,
            Some(Use::Free) | None => false,
        }
    }

    /// What the remote side of a packet that an ICMP error quotes is called where the error goes: by the application, or on the
    /// wire. `None` if it is called the same.
    pub fn other_side<R: RawMutex>(&self, error: Transfer, quote: &Quote) -> Option<Endpoint>
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let (local, remote) = quote.sides(error);
        let key = Key {
            protocol: quote.protocol(),
            local,
            remote,
        };
        let (used, other) = self.with(key, |entry| (entry.used, entry.other))?;
        let is_translated = match error {
            Transfer::Received => used == Use::Alias,
            Transfer::Sent => used == Use::Path,
        };
        (is_translated && other != remote).then_some(other)
    }

    /// A packet comes by that begins with `first`. `length` is that of the IP packet.
    pub fn packet<R: RawMutex>(
        &self,
        transfer: Transfer,
        first: &[u8],
        layout: &Layout,
        length: u64,
        now: u64,
    ) -> Treated
    where
        S: AsRef<[PathBucket<R>]>,
        L: AsRef<[LimitSlot<R>]>,
    {
        if layout.fragment.is_piece() {
            return Treated::PASSED;
        }
        let mut key = Key::of_packet(layout, transfer);
        let look = |key| {
            self.with(key, |entry| {
                entry.seen = now;
                (entry.used, entry.other)
            })
        };
        let mut found = look(key);
        let mut source = None;
        if transfer == Transfer::Received
            && let Some((Use::Alias, known)) = found
        {
            source = Some(known);
            key.remote = known;
            found = look(key);
        }
        // What is sent to the wire's remote side by itself is nobody's path.
        let Some((Use::Path, wire)) = found else {
            return Treated::PASSED;
        };
        let destination = (wire != key.remote).then_some(wire);
        if transfer == Transfer::Sent && destination.is_some() {
            // Its answers may be long in coming.
            look(Key {
                remote: wire,
                ..key
            });
        }
        let bucket = self.bucket_of(key);
        let treated = self.with_at(key, |at, entry| {
            let edit = match transfer {
                Transfer::Sent => Edit {
                    destination,
                    ..entry.marks
                },
                Transfer::Received => Edit {
                    source,
                    ..Edit::default()
                },
            };
            let way = entry.ways.get_mut(transfer as usize)?;
            let limit = entry.shape.shared.map(|number| Limit {
                number,
                epoch: entry.epoch,
            });
            let shared = limit.and_then(|limit| {
                self.limits.with(limit, transfer, |bucket| {
                    way.arrive(&entry.shape, Some(bucket), length, now, &self.random)
                })
            });
            let (fate, next) =
                shared.unwrap_or_else(|| way.arrive(&entry.shape, None, length, now, &self.random));
            *way = next;
            let done = match fate {
                Fate::Lost => Done::Dropped(Dropped::Lost),
                Fate::Full => Done::Dropped(Dropped::Full),
                Fate::Now | Fate::At(_) => Done::Changed(edit),
            };
            // Whether the packet is changed is looked at only as long as that is news.
            let is_news = entry.told & done.bit() == 0
                && (!matches!(done, Done::Changed(_)) || edit.changes(first, layout));
            let news = is_news.then_some(done);
            entry.told |= news.map_or(0, Done::bit);
            let treatment = match fate {
                Fate::Now => Treatment::Now(edit),
                Fate::At(due) => {
                    way.wait();
                    let ticket = Ticket {
                        bucket: u32::try_from(bucket).ok()?,
                        entry: u8::try_from(at).ok()?,
                        transfer,
                        generation: entry.generation,
                    };
                    Treatment::At(edit, due, ticket)
                }
                Fate::Lost => Treatment::Lost,
                Fate::Full => Treatment::Full,
            };
            let news = news.map(|done| PathNews {
                done,
                protocol: key.protocol,
                local: key.local,
                remote: key.remote,
                wire,
                owner: entry.owner,
            });
            Some(Treated { treatment, news })
        });
        treated.flatten().unwrap_or(Treated::PASSED)
    }

    /// A packet that waited has gone on, or has been dropped.
    pub fn gone<R: RawMutex>(&self, ticket: Ticket)
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let Some(bucket) = self.buckets.as_ref().get(ticket.bucket as usize) else {
            return;
        };
        let mut entries = bucket.0.lock();
        if let Some(entry) = entries.get_mut(usize::from(ticket.entry))
            && entry.generation == ticket.generation
            && let Some(way) = entry.ways.get_mut(ticket.transfer as usize)
        {
            way.leave();
        }
    }

    /// How many entries are in use.
    pub fn used<R: RawMutex>(&self) -> usize
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let used = |bucket: &PathBucket<R>| {
            let entries = bucket.0.lock();
            entries
                .iter()
                .filter(|entry| entry.used != Use::Free)
                .count()
        };
        self.buckets.as_ref().iter().map(used).sum()
    }

    fn bucket_of<R>(&self, key: Key) -> usize
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let count = self.buckets.as_ref().len().max(1) as u64;
        usize::try_from(key.hash(self.seed) % count).unwrap_or(0)
    }

    /// Shows the entry with this key, under its lock.
    fn with<R: RawMutex, T>(&self, key: Key, with: impl FnOnce(&mut Entry) -> T) -> Option<T>
    where
        S: AsRef<[PathBucket<R>]>,
    {
        self.with_at(key, |_, entry| with(entry))
    }

    fn with_at<R: RawMutex, T>(
        &self,
        key: Key,
        with: impl FnOnce(usize, &mut Entry) -> T,
    ) -> Option<T>
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let mut entries = self.buckets.as_ref().get(self.bucket_of(key))?.0.lock();
        entries
            .iter_mut()
            .enumerate()
            .find(|(_, entry)| entry.used != Use::Free && entry.key == key)
            .map(|(at, entry)| with(at, entry))
    }

    /// Makes or finds the entry with this key.
    fn place<R: RawMutex>(
        &self,
        key: Key,
        used: Use,
        other: Endpoint,
        now: u64,
        set: impl FnOnce(&mut Entry),
    ) -> Result<(), NoPath>
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let bucket = self.buckets.as_ref().get(self.bucket_of(key));
        let mut entries = bucket.ok_or(NoPath::Full)?.0.lock();
        let is_known = |entry: &Entry| entry.used != Use::Free && entry.key == key;
        let known = entries.iter().position(is_known);
        // Else the one that is free, or was not used for longest.
        let oldest = entries
            .iter()
            .enumerate()
            .min_by_key(|(_, entry)| (entry.used != Use::Free, entry.seen))
            .map_or(0, |(at, _)| at);
        let entry = entries
            .get_mut(known.unwrap_or(oldest))
            .ok_or(NoPath::Full)?;
        if known.is_some() {
            if entry.used != used || entry.other != other {
                return Err(NoPath::Taken);
            }
        } else {
            let is_waiting = entry.ways.iter().any(|way| way.waiting() > 0);
            let is_idle = now.saturating_sub(entry.seen) >= IDLE && !is_waiting;
            if entry.used != Use::Free && !is_idle {
                return Err(NoPath::Full);
            }
            *entry = Entry {
                used,
                generation: entry.generation.wrapping_add(1),
                key,
                other,
                ..Entry::new()
            };
        }
        entry.seen = now;
        set(entry);
        drop(entries);
        Ok(())
    }

    /// Frees the path with this key, and its alias.
    fn remove<R: RawMutex>(&self, key: Key)
    where
        S: AsRef<[PathBucket<R>]>,
    {
        let wire = self.with(key, |entry| {
            (entry.used == Use::Path).then(|| {
                entry.used = Use::Free;
                entry.generation = entry.generation.wrapping_add(1);
                entry.other
            })
        });
        if let Some(wire) = wire.flatten() {
            self.remove_alias(key, wire);
        }
    }

    /// Frees the alias of the path with this key.
    fn remove_alias<R: RawMutex>(&self, key: Key, wire: Endpoint)
    where
        S: AsRef<[PathBucket<R>]>,
    {
        if wire == key.remote {
            return;
        }
        let alias = Key {
            remote: wire,
            ..key
        };
        self.with(alias, |entry| {
            if entry.used == Use::Alias && entry.other == key.remote {
                entry.used = Use::Free;
                entry.generation = entry.generation.wrapping_add(1);
            }
        });
    }
}
