//! Redirection: which proxies there are, and where redirected connections were to go.

use crate::connection::Endpoint;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use lock_api::{Mutex, RawMutex};

/// Proxies that can be registered at a time.
pub const MAX_PROXIES: usize = 16;

/// A proxy of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What it serves: the IP protocol number of TCP or UDP; 0 for both.
    pub protocol: u8,
    /// Its process.
    pub process_id: u32,
    /// Who registered it, and takes it along when it goes.
    pub owner: u64,
}

impl Proxy {
    /// Whether it listens there, for that protocol.
    fn serves(&self, endpoint: Endpoint, protocol: u8) -> bool {
        self.endpoint == endpoint && (self.protocol == 0 || self.protocol == protocol)
    }

    /// Whether some connection could be meant for both.
    fn collides(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint
            && (self.protocol == 0 || other.protocol == 0 || self.protocol == other.protocol)
    }
}

/// Why a proxy was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyRefused {
    /// There are [`MAX_PROXIES`] already.
    Full,
    /// Another proxy listens there.
    Taken,
}

/// The proxies that are registered.
pub struct Proxies<R>(Mutex<R, [Option<Proxy>; MAX_PROXIES]>);

impl<R: RawMutex> Proxies<R> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::from_raw(R::INIT, [None; MAX_PROXIES]))
    }

    /// Registers a proxy. What its owner has registered for the same endpoint it replaces.
    ///
    /// # Errors
    /// [`ProxyRefused`]
    pub fn register(&self, proxy: Proxy) -> Result<(), ProxyRefused> {
        let mut proxies = self.0.lock();
        let mut place = None;
        for slot in proxies.iter_mut() {
            match slot {
                Some(known) if known.collides(&proxy) => {
                    if known.owner != proxy.owner {
                        return Err(ProxyRefused::Taken);
                    }
                    place = Some(slot);
                    break;
                }
                None if place.is_none() => place = Some(slot),
                _ => {}
            }
        }
        *place.ok_or(ProxyRefused::Full)? = Some(proxy);
        drop(proxies);
        Ok(())
    }

    /// Forgets what an owner has registered; how many that were.
    pub fn forget(&self, owner: u64) -> u64 {
        let forget = |slot: &mut Option<Proxy>| slot.take_if(|proxy| proxy.owner == owner);
        self.0.lock().iter_mut().filter_map(forget).map(|_| 1).sum()
    }

    /// The process of the proxy that listens there and serves that protocol.
    pub fn find(&self, endpoint: Endpoint, protocol: u8) -> Option<u32> {
        let proxies = self.0.lock();
        let serving = |proxy: &&Proxy| proxy.serves(endpoint, protocol);
        proxies
            .iter()
            .flatten()
            .find(serving)
            .map(|proxy| proxy.process_id)
    }

    /// Whether a process has registered a proxy.
    pub fn is_proxy(&self, process_id: u64) -> bool {
        self.0
            .lock()
            .iter()
            .flatten()
            .any(|proxy| u64::from(proxy.process_id) == process_id)
    }
}

impl<R> fmt::Debug for Proxies<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl<R: RawMutex> Default for Proxies<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// Flows that share a lock in [`Origins`].
const WAYS: usize = 4;

/// What the layers that follow a connection's authorization do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it was to go, before it was redirected.
    pub remote: Endpoint,
    /// The interface that its packets take, as [`Connection::interface`](crate::Connection::interface).
    pub interface: u64,
}

/// A few flows, by their handles.
pub struct OriginSlot<R>(Mutex<R, Flows>);

struct Flows {
    flows: [(u64, Origin); WAYS],
    /// Which is forgotten next.
    oldest: usize,
}

impl<R: RawMutex> OriginSlot<R> {
    /// No flow.
    #[must_use]
    pub const fn new() -> Self {
        const NOTHING: Origin = Origin {
            remote: Endpoint::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            interface: 0,
        };
        Self(Mutex::from_raw(
            R::INIT,
            Flows {
                flows: [(0, NOTHING); WAYS],
                oldest: 0,
            },
        ))
    }
}

impl<R> fmt::Debug for OriginSlot<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginSlot").finish_non_exhaustive()
    }
}

impl<R: RawMutex> Default for OriginSlot<R> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where connections were to go, and by which interface, from their authorization until they are established, of those
/// that are shown otherwise then.
///
/// The number of slots is fixed; connections that are never established stay until later ones take their places.
#[derive(Debug)]
pub struct Origins<S>(S);

impl<S> Origins<S> {
    /// The slots, all without a flow.
    pub const fn new(slots: S) -> Self {
        Self(slots)
    }

    fn slot<R>(&self, flow: u64) -> Option<&Mutex<R, Flows>>
    where
        S: AsRef<[OriginSlot<R>]>,
    {
        let slots = self.0.as_ref();
        let count = u64::try_from(slots.len()).ok().filter(|&count| count > 0)?;
        let place = usize::try_from(flow % count).ok()?;
        slots.get(place).map(|slot| &slot.0)
    }

    /// Remembers where a flow was to go. `false`: another flow was forgotten for it.
    pub fn remember<R: RawMutex>(&self, flow: u64, origin: Origin) -> bool
    where
        S: AsRef<[OriginSlot<R>]>,
    {
        self.slot(flow)
            .is_some_and(|slot| slot.lock().remember(flow, origin))
    }

    /// Where a flow was to go; it is forgotten with this.
    pub fn take<R: RawMutex>(&self, flow: u64) -> Option<Origin>
    where
        S: AsRef<[OriginSlot<R>]>,
    {
        self.slot(flow)?.lock().take(flow)
    }
}

impl Flows {
    fn remember(&mut self, flow: u64, origin: Origin) -> bool {
        let known = self.flows.iter().position(|(known, _)| *known == flow);
        let place = known.or_else(|| self.flows.iter().position(|(known, _)| *known == 0));
        let was_free = place.is_some();
        let place = place.unwrap_or_else(|| {
            let oldest = self.oldest;
            self.oldest = (oldest + 1) % WAYS;
            oldest
        });
        if let Some(entry) = self.flows.get_mut(place) {
            *entry = (flow, origin);
        }
        was_free
    }

    fn take(&mut self, flow: u64) -> Option<Origin> {
        let entry = self.flows.iter_mut().find(|(known, _)| *known == flow)?;
        entry.0 = 0;
        Some(entry.1)
    }
}

/// How a connection came to go where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nobody redirected it. A rule that sends connections to a proxy lets it pass only if the rule says so.
    Straight,
    /// It was redirected to there.
    Redirected(Endpoint),
    /// It is a proxy's own, or the question whether a redirected one would have been permitted: nothing is asked of
    /// its way.
    Free,
}

#[cfg(test)]
mod tests {
    use super::{MAX_PROXIES, Origin, OriginSlot, Origins, Proxies, Proxy, ProxyRefused, WAYS};
    use crate::connection::{Endpoint, TCP, UDP};
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use parking_lot::RawMutex;

    fn here(port: u16) -> Endpoint {
        Endpoint::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    }

    fn to(port: u16) -> Origin {
        Origin {
            remote: here(port),
            interface: 6 << 48,
        }
    }

    fn proxy(port: u16, protocol: u8, owner: u64) -> Proxy {
        Proxy {
            endpoint: here(port),
            protocol,
            process_id: u32::try_from(owner).unwrap() * 4,
            owner,
        }
    }

    #[test]
    fn a_proxy_is_found_by_its_endpoint_and_what_it_serves() {
        let proxies = Proxies::<RawMutex>::new();
        assert_eq!(proxies.register(proxy(8080, TCP, 1)), Ok(()));
        assert_eq!(proxies.register(proxy(8080, UDP, 2)), Ok(()));
        assert_eq!(proxies.register(proxy(9090, 0, 1)), Ok(()));
        assert_eq!(proxies.find(here(8080), TCP), Some(4));
        assert_eq!(proxies.find(here(8080), UDP), Some(8));
        assert_eq!(proxies.find(here(9090), UDP), Some(4));
        assert_eq!(proxies.find(here(8081), TCP), None);
        let elsewhere = Endpoint::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 8080);
        assert_eq!(proxies.find(elsewhere, TCP), None);
        assert!(proxies.is_proxy(4));
        assert!(!proxies.is_proxy(12));
    }

    #[test]
    fn what_an_owner_registered_goes_with_it() {
        let proxies = Proxies::<RawMutex>::new();
        for port in [1, 2] {
            proxies.register(proxy(port, 0, 1)).unwrap();
        }
        proxies.register(proxy(3, 0, 2)).unwrap();
        assert_eq!(proxies.forget(1), 2);
        assert_eq!(proxies.forget(1), 0);
        assert_eq!(proxies.find(here(1), TCP), None);
        assert_eq!(proxies.find(here(3), TCP), Some(8));
    }

    #[test]
    fn an_endpoint_is_taken_by_one_owner_and_the_places_are_few() {
        let proxies = Proxies::<RawMutex>::new();
        proxies.register(proxy(1, TCP, 1)).unwrap();
        assert_eq!(proxies.register(proxy(1, 0, 2)), Err(ProxyRefused::Taken));
        assert_eq!(
            proxies.register(proxy(1, 0, 1)),
            Ok(()),
            "it replaces its own"
        );
        for port in 2..=u16::try_from(MAX_PROXIES).unwrap() {
            proxies.register(proxy(port, 0, 1)).unwrap();
        }
        assert_eq!(proxies.register(proxy(99, 0, 1)), Err(ProxyRefused::Full));
        assert_eq!(proxies.register(proxy(5, UDP, 1)), Ok(()));
    }

    #[test]
    fn an_original_destination_is_taken_once() {
        let origins: Origins<[OriginSlot<RawMutex>; 2]> =
            Origins::new([OriginSlot::new(), OriginSlot::new()]);
        assert!(origins.remember(7, to(443)));
        assert!(origins.remember(7, to(80)), "the same flow again");
        assert_eq!(origins.take(7), Some(to(80)));
        assert_eq!(origins.take(7), None);
        assert_eq!(origins.take(8), None);
    }

    #[test]
    fn when_there_is_no_room_the_oldest_is_forgotten() {
        let origins: Origins<[OriginSlot<RawMutex>; 1]> = Origins::new([OriginSlot::new()]);
        for flow in 1..=u64::try_from(WAYS).unwrap() {
            assert!(origins.remember(flow, to(1)));
        }
        assert!(!origins.remember(100, to(2)));
        assert_eq!(origins.take(1), None);
        assert_eq!(origins.take(2), Some(to(1)));
        assert_eq!(origins.take(100), Some(to(2)));
    }
}
