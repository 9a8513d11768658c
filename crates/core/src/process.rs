//! Which process was started by which application: the families that rules with `children` are about.
//!
//! The driver tells of each process that begins and ends. Kept of each is its *lineage*: the path of its own application,
//! then those of its ancestors, nearest first, each once. It is worked out when the process begins, so it stays when a
//! parent ends first, and when an identifier is used again.
//!
//! The table has a fixed number of places for processes and for paths, of which each is kept once. A process that finds
//! no place has no lineage: no rule takes it for a child. So it is with what began before the driver did, and with
//! their children as far as they go back beyond that.

use crate::connection::Application;
use core::fmt;
use lock_api::{Mutex, RawMutex};
use portcullis_proto::event::MAX_PATH_UNITS;
use portcullis_proto::policy::application_key;

/// Paths in a lineage, the process's own included. Farther ancestors are forgotten.
pub const MAX_LINEAGE: usize = 16;
/// Longest path kept, in bytes.
const MAX_PATH: usize = 2 * MAX_PATH_UNITS;

/// Which application started a process, directly or not.
pub trait Ancestry: Sync {
    /// Whether `matches` is true of the application of one of the process's ancestors.
    ///
    /// `application` is the process's own: where the process with this identifier is of another, it is another process,
    /// and has no ancestors here. `matches` is called at most [`MAX_LINEAGE`] times.
    fn any_ancestor(
        &self,
        process_id: u64,
        application: Application<'_>,
        matches: &mut dyn FnMut(Application<'_>) -> bool,
    ) -> bool;
}

/// The place of a process.
#[derive(Debug)]
pub struct ProcessSlot {
    process_id: u64,
    /// The first process with this slot's number as its hash.
    first: Option<u16>,
    /// The next process of the same hash, or the next free place.
    next: Option<u16>,
    lineage: Lineage,
}

impl ProcessSlot {
    /// A free place.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            process_id: 0,
            first: None,
            next: None,
            lineage: Lineage::EMPTY,
        }
    }
}

impl Default for ProcessSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// The place of a path.
#[derive(Debug)]
pub struct PathSlot {
    key: u64,
    references: u32,
    first: Option<u16>,
    next: Option<u16>,
    /// The path is longer than is kept.
    truncated: bool,
    length: u16,
    path: [u8; MAX_PATH],
}

impl PathSlot {
    /// A free place.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            key: 0,
            references: 0,
            first: None,
            next: None,
            truncated: false,
            length: 0,
            path: [0; MAX_PATH],
        }
    }

    fn application(&self) -> Application<'_> {
        let path = self
            .path
            .get(..usize::from(self.length))
            .unwrap_or_default();
        if self.truncated {
            Application::truncated(path)
        } else {
            Application::new(path)
        }
    }
}

impl Default for PathSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// Places of paths: the process's own, then its ancestors'.
#[derive(Clone, Copy, Debug)]
struct Lineage {
    paths: [u16; MAX_LINEAGE],
    length: u8,
}

impl Lineage {
    const EMPTY: Self = Self {
        paths: [0; MAX_LINEAGE],
        length: 0,
    };

    fn as_slice(&self) -> &[u16] {
        self.paths
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }

    /// `false`: there is no room.
    fn push(&mut self, path: u16) -> bool {
        let Some(place) = self.paths.get_mut(usize::from(self.length)) else {
            return false;
        };
        *place = path;
        self.length += 1;
        true
    }
}

/// What became of the news of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is known, with its parent.
    Whole,
    /// It is known; its parent is not, so it is taken for the first of its family.
    First,
    /// There is no place for it, or for its path: it has no family.
    NoRoom,
}

/// The processes that run, as far as there is room: `P` is the storage for processes, `A` that for paths.
pub struct ProcessTable<R, P, A>(Mutex<R, Tables<P, A>>);

struct Tables<P, A> {
    processes: P,
    paths: A,
    /// The first free place of each.
    free: [Option<u16>; 2],
    count: u32,
}

impl<R, P, A> ProcessTable<R, P, A>
where
    R: RawMutex,
    P: AsMut<[ProcessSlot]>,
    A: AsMut<[PathSlot]>,
{
    /// An empty table. Places beyond 2¹⁶ − 1 are not used.
    pub fn new(mut processes: P, mut paths: A) -> Self {
        let mut free = [None; 2];
        for (at, slot) in (0..u16::MAX).zip(processes.as_mut()).rev() {
            slot.next = free[0].replace(at);
        }
        for (at, slot) in (0..u16::MAX).zip(paths.as_mut()).rev() {
            slot.next = free[1].replace(at);
        }
        Self(Mutex::new(Tables {
            processes,
            paths,
            free,
            count: 0,
        }))
    }

    /// How many processes are known.
    pub fn len(&self) -> u32 {
        self.0.lock().count
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A process begins, with the application of this path (UTF-16 in NT form).
    pub fn began(&self, process_id: u64, parent: u64, path: &[u8]) -> Known {
        let mut tables = self.0.lock();
        // The end of a process with this identifier was not heard of.
        tables.forget(process_id);
        tables.remember(process_id, parent, path)
    }

    /// A process has ended. Its children keep their lineage.
    pub fn ended(&self, process_id: u64) {
        self.0.lock().forget(process_id);
    }
}

/// An index of `length` places for a hash.
fn bucket(hash: u64, length: usize) -> usize {
    // The upper half of the product is as well mixed as its factor.
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    usize::try_from(mixed).unwrap_or(0) % length.max(1)
}

impl<P, A> Tables<P, A>
where
    P: AsMut<[ProcessSlot]>,
    A: AsMut<[PathSlot]>,
{
    /// The place of a process. A chain is at most as long as there are places.
    fn find(&mut self, process_id: u64) -> Option<u16> {
        let slots = self.processes.as_mut();
        let mut at = slots.get(bucket(process_id, slots.len()))?.first;
        for _ in 0..slots.len() {
            let slot = slots.get(usize::from(at?))?;
            if slot.process_id == process_id {
                return at;
            }
            at = slot.next;
        }
        None
    }

    fn remember(&mut self, process_id: u64, parent: u64, path: &[u8]) -> Known {
        let above = self
            .find(parent)
            .and_then(|at| self.processes.as_mut().get(usize::from(at)))
            .map(|slot| slot.lineage);
        // A path is kept only for a process that has a place.
        let Some(place) = self.free[0] else {
            return Known::NoRoom;
        };
        let Some(own) = self.keep(path) else {
            return Known::NoRoom;
        };
        let mut lineage = Lineage::EMPTY;
        lineage.push(own);
        for &ancestor in above.as_ref().map_or(&[][..], Lineage::as_slice) {
            if lineage.as_slice().contains(&ancestor) {
                continue;
            }
            if !lineage.push(ancestor) {
                break;
            }
            if let Some(slot) = self.paths.as_mut().get_mut(usize::from(ancestor)) {
                slot.references += 1;
            }
        }
        let slots = self.processes.as_mut();
        let bucket = bucket(process_id, slots.len());
        let first = slots.get(bucket).and_then(|slot| slot.first);
        let Some(slot) = slots.get_mut(usize::from(place)) else {
            return Known::NoRoom;
        };
        self.free[0] = slot.next;
        slot.process_id = process_id;
        slot.lineage = lineage;
        slot.next = first;
        if let Some(head) = slots.get_mut(bucket) {
            head.first = Some(place);
        }
        self.count += 1;
        if above.is_some() {
            Known::Whole
        } else {
            Known::First
        }
    }

    fn forget(&mut self, process_id: u64) {
        let Some(place) = self.find(process_id) else {
            return;
        };
        let slots = self.processes.as_mut();
        let bucket = bucket(process_id, slots.len());
        let Some(slot) = slots.get_mut(usize::from(place)) else {
            return;
        };
        let (next, lineage) = (slot.next, slot.lineage);
        slot.lineage = Lineage::EMPTY;
        slot.next = self.free[0].replace(place);
        let mut before = slots.get(bucket).and_then(|head| head.first);
        if before == Some(place) {
            if let Some(head) = slots.get_mut(bucket) {
                head.first = next;
            }
        } else {
            for _ in 0..slots.len() {
                let Some(slot) = before.and_then(|at| slots.get_mut(usize::from(at))) else {
                    break;
                };
                if slot.next == Some(place) {
                    slot.next = next;
                    break;
                }
                before = slot.next;
            }
        }
        for &path in lineage.as_slice() {
            self.release(path);
        }
        self.count -= 1;
    }

    fn any_ancestor(
        &mut self,
        process_id: u64,
        application: Application<'_>,
        matches: &mut dyn FnMut(Application<'_>) -> bool,
    ) -> bool {
        let Some(place) = self.find(process_id) else {
            return false;
        };
        let paths = self.paths.as_mut();
        let Some(slot) = self.processes.as_mut().get(usize::from(place)) else {
            return false;
        };
        let places = slot.lineage.as_slice().iter();
        let mut lineage = places
            .filter_map(|&path| paths.get(usize::from(path)))
            .map(PathSlot::application);
        let own = lineage.next();
        own.is_some_and(|own| own.is_same(&application) && lineage.any(matches))
    }

    /// The place of a path, with one reference more.
    fn keep(&mut self, path: &[u8]) -> Option<u16> {
        let whole = Application::new(path);
        let key = application_key(whole.units());
        let bytes = whole.as_utf16();
        let kept = bytes.get(..MAX_PATH).unwrap_or(bytes);
        let truncated = kept.len() < bytes.len();
        let slots = self.paths.as_mut();
        let bucket = bucket(key, slots.len());
        let first = slots.get(bucket)?.first;
        let mut at = first;
        for _ in 0..slots.len() {
            let Some(slot) = at.and_then(|at| slots.get_mut(usize::from(at))) else {
                break;
            };
            if slot.key == key
                && slot.truncated == truncated
                && slot.application().as_utf16() == kept
            {
                slot.references += 1;
                return at;
            }
            at = slot.next;
        }
        let place = self.free[1]?;
        let slot = slots.get_mut(usize::from(place))?;
        self.free[1] = slot.next;
        (slot.key, slot.references, slot.truncated) = (key, 1, truncated);
        slot.length = u16::try_from(kept.len()).ok()?;
        slot.path.get_mut(..kept.len())?.copy_from_slice(kept);
        slot.next = first;
        slots.get_mut(bucket)?.first = Some(place);
        Some(place)
    }

    /// Gives a reference to a path back.
    fn release(&mut self, path: u16) {
        let slots = self.paths.as_mut();
        let length = slots.len();
        let Some(slot) = slots.get_mut(usize::from(path)) else {
            return;
        };
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        let (next, bucket) = (slot.next, bucket(slot.key, length));
        slot.next = self.free[1].replace(path);
        let mut before = slots.get(bucket).and_then(|head| head.first);
        if before == Some(path) {
            if let Some(head) = slots.get_mut(bucket) {
                head.first = next;
            }
            return;
        }
        for _ in 0..length {
            let Some(slot) = before.and_then(|at| slots.get_mut(usize::from(at))) else {
                return;
            };
            if slot.next == Some(path) {
                slot.next = next;
                return;
            }
            before = slot.next;
        }
    }
}

impl<R, P, A> Ancestry for ProcessTable<R, P, A>
where
    R: RawMutex + Sync,
    P: AsMut<[ProcessSlot]> + Send,
    A: AsMut<[PathSlot]> + Send,
    Mutex<R, Tables<P, A>>: Sync,
{
    fn any_ancestor(
        &self,
        process_id: u64,
        application: Application<'_>,
        matches: &mut dyn FnMut(Application<'_>) -> bool,
    ) -> bool {
        self.0.lock().any_ancestor(process_id, application, matches)
    }
}

impl<R, P, A> fmt::Debug for ProcessTable<R, P, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessTable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::{Ancestry as _, Known, MAX_LINEAGE, PathSlot, ProcessSlot, ProcessTable};
    use crate::connection::Application;
    use parking_lot::RawMutex;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::string::String;
    use std::vec::Vec;

    type Table = ProcessTable<RawMutex, Vec<ProcessSlot>, Vec<PathSlot>>;

    fn table(processes: usize, paths: usize) -> Table {
        let processes = (0..processes).map(|_| ProcessSlot::new()).collect();
        ProcessTable::new(processes, (0..paths).map(|_| PathSlot::new()).collect())
    }

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn text(application: Application<'_>) -> String {
        String::from_utf16(&application.units().collect::<Vec<_>>()).unwrap()
    }

    fn ancestors(table: &Table, process_id: u64, own: &str) -> Vec<String> {
        let mut found = Vec::new();
        let none = table.any_ancestor(process_id, Application::new(&utf16(own)), &mut |path| {
            found.push(text(path));
            false
        });
        assert!(!none);
        found
    }

    #[test]
    fn a_grandchild_knows_its_family_when_the_parent_ended_first() {
        let table = table(8, 8);
        assert_eq!(table.began(8, 4, &utf16(r"\a\shell.exe")), Known::First);
        assert_eq!(table.began(12, 8, &utf16(r"\a\launcher.exe")), Known::Whole);
        table.ended(8);
        assert_eq!(table.began(16, 12, &utf16(r"\a\game.exe")), Known::Whole);
        table.ended(12);
        assert_eq!(
            ancestors(&table, 16, r"\A\GAME.exe"),
            [r"\a\launcher.exe", r"\a\shell.exe"]
        );
        assert_eq!(table.len(), 1);
        let mut asked = 0;
        let own = utf16(r"\a\game.exe");
        assert!(table.any_ancestor(16, Application::new(&own), &mut |_| {
            asked += 1;
            true
        }));
        assert_eq!(asked, 1, "the first that matches is enough");
    }

    #[test]
    fn an_identifier_that_is_used_again_is_another_process() {
        let table = table(8, 8);
        table.began(8, 4, &utf16("parent"));
        table.began(12, 8, &utf16("child"));
        assert_eq!(ancestors(&table, 12, "child"), ["parent"]);
        // The path says that this is not the process that is known.
        assert!(ancestors(&table, 12, "other").is_empty());
        // Its end was not heard of.
        table.began(12, 4, &utf16("child"));
        assert!(ancestors(&table, 12, "child").is_empty());
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn a_process_without_room_has_no_family() {
        let few = table(2, 8);
        few.began(4, 0, &utf16("a"));
        few.began(8, 4, &utf16("b"));
        assert_eq!(few.began(12, 8, &utf16("c")), Known::NoRoom);
        assert!(ancestors(&few, 12, "c").is_empty());
        few.ended(4);
        assert_eq!(few.began(12, 8, &utf16("c")), Known::Whole);
        let few = table(8, 2);
        few.began(4, 0, &utf16("a"));
        few.began(8, 4, &utf16("b"));
        assert_eq!(few.began(12, 8, &utf16("c")), Known::NoRoom);
        assert_eq!(few.began(12, 8, &utf16("b")), Known::Whole);
        for process in [4, 8, 12] {
            few.ended(process);
        }
        assert_eq!(few.began(12, 8, &utf16("c")), Known::First);
    }

    #[test]
    fn a_long_line_forgets_the_farthest_and_counts_an_application_once() {
        let table = table(64, 64);
        for process in 1..=40_u64 {
            let name = std::format!("p{}", process.min(30));
            table.began(process * 4, process * 4 - 4, &utf16(&name));
        }
        let line = ancestors(&table, 160, "p30");
        assert_eq!(line.len(), MAX_LINEAGE - 1);
        assert_eq!(line[0], "p29");
        for process in 1..=40 {
            table.ended(process * 4);
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_path_that_is_too_long_is_kept_as_its_first_part() {
        let table = table(4, 4);
        let long = "x".repeat(5000);
        table.began(4, 0, &utf16(&long));
        table.began(8, 4, &utf16("child"));
        let own = utf16("child");
        assert!(table.any_ancestor(8, Application::new(&own), &mut |path| path.is_truncated()));
        table.ended(8);
        table.ended(4);
        assert_eq!(table.began(4, 0, &utf16(&long)), Known::First);
    }

    proptest! {
        /// The table with room for all of them, and one with little, against a map.
        #[test]
        fn a_table_agrees_with_a_map(
            steps in proptest::collection::vec((any::<bool>(), 0..24_u64, 0..24_u64, 0..6_u8), 0..200)
        ) {
            let table = table(24, 6);
            let few = self::table(5, 3);
            let mut map: HashMap<u64, Vec<String>> = HashMap::new();
            for (begins, process, parent, name) in steps {
                let name = std::format!("n{name}");
                if begins {
                    let mut line = std::vec![name.clone()];
                    let above = map.get(&parent).filter(|_| parent != process).cloned();
                    for path in above.unwrap_or_default() {
                        if !line.contains(&path) {
                            line.push(path);
                        }
                    }
                    map.insert(process, line);
                    prop_assert_ne!(table.began(process, parent, &utf16(&name)), Known::NoRoom);
                    few.began(process, parent, &utf16(&name));
                } else {
                    map.remove(&process);
                    table.ended(process);
                    few.ended(process);
                }
                prop_assert_eq!(table.len() as usize, map.len());
                prop_assert!(few.len() <= 5);
            }
            for (process, line) in &map {
                prop_assert_eq!(&ancestors(&table, *process, &line[0]), &line[1..]);
            }
            for process in 0..24 {
                few.ended(process);
            }
            prop_assert!(few.is_empty());
            for (process, name) in [(1, "x"), (2, "y"), (3, "z")] {
                prop_assert_ne!(few.began(process, 0, &utf16(name)), Known::NoRoom, "no place is lost");
            }
        }
    }
}
