//! Which process was started by which application.

use kmdf::Driver;
use portcullis_core::{Ancestry, PathSlot, ProcessSlot, ProcessTable, process::Known};
use portcullis_proto::Counter;
use wfp::{
    Result,
    cell::KernelCell,
    irql::Passive,
    pool::{PoolVec, Tag},
    process::{Watch, Watcher},
    sync::RawSpinLock,
};

use crate::state::{self, tag};

/// Processes that can be known at a time.
const PROCESSES: usize = 4096;
/// Applications that they can be of.
const PATHS: usize = 1024;

type Table = ProcessTable<RawSpinLock, PoolVec<ProcessSlot>, PoolVec<PathSlot>>;

static TABLE: KernelCell<Table> = KernelCell::new(tag::PROCESSES);
static WATCH: KernelCell<Watch<Processes>> = KernelCell::new(tag::PROCESSES);

/// Hears of processes.
#[derive(Debug)]
struct Processes;

impl Watcher for Processes {
    const TAG: Tag = tag::PROCESSES;

    fn began(process_id: u64, parent_id: u64, image: Option<&[u8]>) {
        let Some(table) = TABLE.get() else {
            return;
        };
        if image.is_none() {
            state::count(Counter::ProcessNameless);
        }
        if table.began(process_id, parent_id, image.unwrap_or_default()) == Known::NoRoom {
            state::count(Counter::ProcessNoRoom);
        }
    }

    fn ended(process_id: u64) {
        if let Some(table) = TABLE.get() {
            table.ended(process_id);
        }
    }
}

/// Begins to watch processes.
pub(crate) fn watch(_driver: Driver, passive: Passive) -> Result {
    let processes = PoolVec::try_from_fn(tag::PROCESSES, PROCESSES, |_| ProcessSlot::new())?;
    let paths = PoolVec::try_from_fn(tag::PROCESSES, PATHS, |_| PathSlot::new())?;
    TABLE.try_set(ProcessTable::new(processes, paths), passive)?;
    if let Err(status) = WATCH.try_set_with(|| Watch::begin(passive), passive) {
        forget(passive);
        return Err(status);
    }
    Ok(())
}

/// Ends the watch.
pub(crate) fn end_watch(passive: Passive) {
    // SAFETY: starting and stopping are one thread's, and nobody else asks.
    if let Some(watch) = unsafe { WATCH.take(passive) }
        && let Err(status) = watch.into_inner().end(passive)
    {
        // The kernel knows of the routine, or it would not have been registered.
        state::record(portcullis_proto::LifecycleStep::WatchProcesses, status);
    }
    forget(passive);
}

fn forget(passive: Passive) {
    // SAFETY: no watcher runs any more, and the callouts, which ask, are unregistered, or not yet registered.
    drop(unsafe { TABLE.take(passive) });
}

/// Who started whom, while it is watched.
pub(crate) fn ancestry() -> Option<&'static dyn Ancestry> {
    TABLE.get().map(|table| table as &dyn Ancestry)
}
