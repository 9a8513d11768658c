//! The engine and its state.

use crate::bfe::{BootStore, Subscriber};
use crate::callout::{SlotTable, Slots};
use crate::filter::FilterEntry;
use crate::flow::FlowTable;
use crate::host::Host;
use crate::id::{SessionId, SubscriptionId};
use crate::objects::Objects;
use crate::options::Options;
use crate::session::OpenSession;
use crate::table::Table;
use crate::transaction::Writer;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use wfp_schema::{BfeState, Guid, LayerId};

/// A filter engine: see the [crate]'s documentation.
pub struct Engine<H: Host> {
    pub(crate) host: H,
    pub(crate) options: Options,
    pub(crate) state: Mutex<State<H>>,
    pub(crate) table: ArcSwap<Table<H>>,
    pub(crate) slots: SlotTable<H>,
    pub(crate) flows: FlowTable<H>,
    pub(crate) next_flow: AtomicU64,
    generations: [AtomicU64; LayerId::COUNT],
}

/// What management calls read and change. Nothing is called while it is locked.
pub(crate) struct State<H: Host> {
    pub(crate) bfe: BfeState,
    pub(crate) objects: Objects<H>,
    pub(crate) writer: Option<Writer<H>>,
    pub(crate) sessions: HashMap<SessionId, OpenSession<H>>,
    pub(crate) subscribers: BTreeMap<SubscriptionId, Arc<Subscriber>>,
    /// Filters still in force though the base filtering engine has stopped.
    pub(crate) outliving: Vec<Arc<FilterEntry<H>>>,
    /// What the next start loads.
    pub(crate) store: BootStore,
    next_number: u64,
}

/// The upper half of keys that the engine makes.
const GENERATED_KEY: u128 = 0x7066_6577_6765_4e01_8e65_0000_0000_0000;

impl<H: Host> State<H> {
    /// A number that was never given out before.
    pub(crate) const fn next(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A key that nothing has.
    pub(crate) fn new_key(&mut self) -> Guid {
        Guid::from_u128(GENERATED_KEY | u128::from(self.next()))
    }

    /// The key itself, or a new one for zero.
    pub(crate) fn key_or_new(&mut self, key: Guid) -> Guid {
        if key.is_zero() { self.new_key() } else { key }
    }
}

impl<H: Host> Engine<H> {
    /// An engine on a system without persistent objects, the base filtering
    /// engine not yet started.
    pub fn new(host: H, options: Options) -> Self {
        Self::boot(host, options, BootStore::default())
    }

    /// An engine on a system that has just booted: the boot-time filters of
    /// `store` are in force, its persistent objects wait for the start of the
    /// base filtering engine.
    pub fn boot(host: H, options: Options, store: BootStore) -> Self {
        let engine = Self {
            host,
            state: Mutex::new(State {
                bfe: BfeState::Stopped,
                objects: Objects::built_in(&options),
                writer: None,
                sessions: HashMap::new(),
                subscribers: BTreeMap::new(),
                outliving: Vec::new(),
                store,
                next_number: 0,
            }),
            table: ArcSwap::from_pointee(Table::default()),
            slots: RwLock::new(Slots::default()),
            flows: RwLock::default(),
            next_flow: AtomicU64::new(1),
            generations: std::array::from_fn(|_| AtomicU64::new(0)),
            options,
        };
        engine.load_boot_time();
        engine
    }

    /// The host.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// The settings.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Whether any filter is in force at a layer.
    pub fn has_filters(&self, layer: LayerId) -> bool {
        self.table.load().layer(layer).is_some()
    }

    /// A number that grows with every change of a layer's filters: traffic that
    /// was authorized under another has to be authorized again.
    pub fn generation(&self, layer: LayerId) -> u64 {
        self.generations
            .get(usize::from(layer.get()))
            .map_or(0, |generation| generation.load(Ordering::Acquire))
    }

    pub(crate) fn count_generation(&self, layers: &BTreeSet<LayerId>) {
        for layer in layers {
            if let Some(generation) = self.generations.get(usize::from(layer.get())) {
                generation.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

impl<H: Host> fmt::Debug for Engine<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
