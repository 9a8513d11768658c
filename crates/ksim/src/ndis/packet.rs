//! The net buffer lists that the stack indicates.
//!
//! A [`Packet`] is memory for one indication, made once and filled anew for each classify.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::layout::NetBufferList;
use super::spread::{Contents, MdlLayout, Spread};
use crate::access::Out;

/// Memory for one indication.
///
/// Its owner fills it, and may do so only while nobody else uses it: it is not in a classify and no driver holds a
/// reference.
#[derive(Debug)]
pub(crate) struct Packet {
    layout: MdlLayout,
    spread: Mutex<Spread>,
    /// In a classify right now. Changed under the lock of `spread` only, so that the last reference and the next
    /// indication, which may come on two processors at once, do not both write the structures.
    indicated: AtomicBool,
    /// References that drivers hold: `FwpsReferenceNetBufferList0`, and one for each clone. Given back under the lock
    /// of `spread` only.
    references: AtomicU32,
    /// The owner has taken another packet, or has gone.
    abandoned: AtomicBool,
    /// The mark of the injection that made the stack indicate it; 0 for none.
    injection: AtomicU64,
    /// The stack's number of it.
    number: AtomicU64,
    /// The processor whose stack indicates it.
    processor: u32,
    address: usize,
}

impl Packet {
    fn new(layout: MdlLayout, processor: u32) -> std::io::Result<Self> {
        let spread = Spread::new(layout)?;
        let address = spread.address();
        Ok(Self {
            layout,
            spread: Mutex::new(spread),
            indicated: AtomicBool::new(false),
            references: AtomicU32::new(0),
            abandoned: AtomicBool::new(false),
            injection: AtomicU64::new(0),
            number: AtomicU64::new(0),
            processor,
            address,
        })
    }

    /// Whether a driver may use it.
    pub(crate) fn is_live(&self) -> bool {
        self.indicated.load(Ordering::Relaxed) || self.is_referenced()
    }

    /// Whether a driver keeps it.
    pub(crate) fn is_referenced(&self) -> bool {
        self.references.load(Ordering::Acquire) > 0
    }

    /// The mark of its injection, if it was injected.
    pub(crate) fn injection(&self) -> Option<u64> {
        Some(self.injection.load(Ordering::Relaxed)).filter(|mark| *mark != 0)
    }

    /// The stack's number of it.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// The processor whose stack indicates it.
    pub(crate) const fn processor(&self) -> u32 {
        self.processor
    }

    /// The bytes before its data that drivers are not shown.
    pub(crate) fn hidden_header(&self) -> Vec<u8> {
        self.spread.lock().hidden().to_vec()
    }

    /// Fills it with `contents` and begins a classify; the first list.
    pub(crate) fn indicate(
        &self,
        contents: Contents<'_>,
        number: u64,
        injection: Option<u64>,
    ) -> Out<NetBufferList> {
        let mut spread = self.spread.lock();
        spread.fill(self.layout, contents);
        self.number.store(number, Ordering::Relaxed);
        self.injection
            .store(injection.unwrap_or(0), Ordering::Relaxed);
        self.indicated.store(true, Ordering::Relaxed);
        spread.list(0)
    }

    /// Ends the classify; what the driver changed and had to leave as it was.
    pub(crate) fn finish(&self, contents: Contents<'_>) -> Option<&'static str> {
        let spread = self.spread.lock();
        let changed = spread.changed(contents);
        self.indicated.store(false, Ordering::Relaxed);
        if !self.is_referenced() {
            spread.poison();
        }
        changed
    }

    fn has(&self, list: usize) -> bool {
        self.spread.lock().has(list)
    }
}

/// The packets of a machine, by where their lists lie.
#[derive(Debug, Default)]
pub(crate) struct Packets(Mutex<HashMap<usize, Arc<Packet>>>);

impl Packets {
    /// A packet for its caller alone, the stack of `processor`.
    ///
    /// # Errors
    /// When the host gives no memory.
    pub(crate) fn allocate(
        &self,
        layout: MdlLayout,
        processor: u32,
    ) -> std::io::Result<Arc<Packet>> {
        let packet = Arc::new(Packet::new(layout, processor)?);
        self.0.lock().insert(packet.address, Arc::clone(&packet));
        Ok(packet)
    }

    /// The packet whose list this is; `None` if the stack indicates or indicated no such list.
    pub(crate) fn find(&self, list: usize) -> Option<Arc<Packet>> {
        self.0
            .lock()
            .values()
            .find(|packet| packet.has(list))
            .map(Arc::clone)
    }

    /// A driver keeps `packet`; the number of this reference, from 1.
    pub(crate) fn reference(packet: &Packet) -> usize {
        packet.references.fetch_add(1, Ordering::AcqRel) as usize + 1
    }

    /// A driver gives `packet` back; the number of the reference, `None` if it held none. Memory whose owner moved
    /// on is freed.
    pub(crate) fn dereference(&self, packet: &Packet) -> Option<usize> {
        let spread = packet.spread.lock();
        let taken = packet
            .references
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                count.checked_sub(1)
            })
            .ok()?;
        if taken == 1 && !packet.indicated.load(Ordering::Relaxed) {
            spread.poison();
        }
        drop(spread);
        if taken == 1 {
            self.forget_unused(packet);
        }
        Some(taken as usize)
    }

    /// The owner of `packet` does not use it any more; it stays for as long as drivers hold references.
    pub(crate) fn retire(&self, packet: &Packet) {
        packet.abandoned.store(true, Ordering::SeqCst);
        self.forget_unused(packet);
    }

    /// Forgets a packet that neither its owner nor a driver needs.
    fn forget_unused(&self, packet: &Packet) {
        let mut packets = self.0.lock();
        let unused = !packet.is_referenced() && packet.abandoned.load(Ordering::SeqCst);
        let known = packets.get(&packet.address);
        if unused && known.is_some_and(|known| ptr::eq(Arc::as_ptr(known), packet)) {
            packets.remove(&packet.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference of a clone goes away on one processor while another one uses the packet for its next indication.
    #[test]
    fn a_last_reference_and_the_next_indication_do_not_disturb_each_other() {
        const ROUNDS: u32 = 50_000;
        let packets = Packets::default();
        let packet = packets.allocate(MdlLayout::Whole, 0).unwrap();
        let contents = Contents {
            lists: true,
            ..Contents::of(b"data of a stream", 0)
        };
        let given = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    while given.load(Ordering::Acquire) < round {
                        std::thread::yield_now();
                    }
                    packets.dereference(&packet).unwrap();
                }
            });
            for round in 1..=ROUNDS {
                while packet.is_referenced() {
                    std::thread::yield_now();
                }
                packet.indicate(contents, 1, None);
                Packets::reference(&packet);
                let changed = packet.finish(contents);
                assert_eq!(changed, None, "round {round}");
                given.store(round, Ordering::Release);
            }
        });
    }

    #[test]
    fn a_packet_goes_when_its_owner_and_the_last_driver_have_left_it() {
        let packets = Packets::default();
        let packet = packets.allocate(MdlLayout::Whole, 0).unwrap();
        for owner_first in [true, false] {
            let other = packets.allocate(MdlLayout::Whole, 0).unwrap();
            Packets::reference(&other);
            if owner_first {
                packets.retire(&other);
                assert_eq!(packets.0.lock().len(), 2);
                assert_eq!(packets.dereference(&other), Some(1));
            } else {
                assert_eq!(packets.dereference(&other), Some(1));
                assert_eq!(packets.0.lock().len(), 2);
                packets.retire(&other);
            }
            assert_eq!(packets.0.lock().len(), 1);
        }
        packets.retire(&packet);
        assert!(packets.0.lock().is_empty());
    }
}
