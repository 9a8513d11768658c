//! The filters in force, as classifying sees them: immutable, replaced as a whole.

use crate::filter::FilterEntry;
use crate::host::Host;
use crate::id::CalloutId;
use crate::index::{Index, Rank, Ranks, WORTHWHILE};
use crate::objects::Objects;
use crate::options::{Options, TieOrder};
use crate::value::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use wfp_schema::{Guid, LayerId};

/// Every layer's filters.
pub(crate) struct Table<H: Host> {
    layers: Box<[Option<Arc<LayerTable<H>>>]>,
    callout_layers: Arc<HashMap<CalloutId, LayerId>>,
}

/// One layer's filters in the order of their evaluation.
pub(crate) struct LayerTable<H: Host> {
    pub(crate) sublayers: Box<[SubLayerTable<H>]>,
}

/// One sublayer's filters at a layer, the heaviest first.
pub(crate) struct SubLayerTable<H: Host> {
    pub(crate) key: Guid,
    pub(crate) filters: Box<[Arc<FilterEntry<H>>]>,
    /// Made when it is first needed: many filters may be added before.
    index: OnceLock<Option<Index>>,
}

impl<H: Host> SubLayerTable<H> {
    const fn new(key: Guid, filters: Box<[Arc<FilterEntry<H>>]>) -> Self {
        Self {
            key,
            filters,
            index: OnceLock::new(),
        }
    }

    fn index(&self) -> Option<&Index> {
        let make = || {
            let conditions = self.filters.iter().map(|entry| entry.record.conditions());
            (self.filters.len() >= WORTHWHILE).then(|| Index::new(conditions))
        };
        self.index.get_or_init(make).as_ref()
    }

    /// The filters that match these values and their places in the order of
    /// evaluation, in that order.
    pub(crate) fn matching<'a>(
        &'a self,
        values: &'a [Value<'a>],
    ) -> impl Iterator<Item = (Rank, &'a FilterEntry<H>)> {
        let ranks = self.index().map_or_else(
            || Ranks::All(0..Rank::try_from(self.filters.len()).unwrap_or(Rank::MAX)),
            |index| Ranks::Candidates(index.candidates(values)),
        );
        ranks
            .filter_map(|rank| Some((rank, self.filters.get(rank as usize)?.as_ref())))
            .filter(|(_, filter)| filter.matches(values))
    }
}

impl<H: Host> Default for Table<H> {
    fn default() -> Self {
        Self {
            layers: (0..LayerId::COUNT).map(|_| None).collect(),
            callout_layers: Arc::default(),
        }
    }
}

impl<H: Host> Table<H> {
    /// The filters of a layer; `None` if it has none.
    pub(crate) fn layer(&self, id: LayerId) -> Option<&LayerTable<H>> {
        self.layers.get(usize::from(id.get()))?.as_deref()
    }

    pub(crate) fn layer_arc(&self, id: LayerId) -> Option<Arc<LayerTable<H>>> {
        self.layers.get(usize::from(id.get()))?.clone()
    }

    /// The layer of a callout that has been added.
    pub(crate) fn callout_layer(&self, callout: CalloutId) -> Option<LayerId> {
        self.callout_layers.get(&callout).copied()
    }

    /// The table after `objects` has been committed, of which only `layers` have changed.
    pub(crate) fn rebuilt(
        &self,
        objects: &Objects<H>,
        layers: &BTreeSet<LayerId>,
        options: &Options,
    ) -> Self {
        let mut filters: BTreeMap<LayerId, Vec<Arc<FilterEntry<H>>>> = BTreeMap::new();
        if !layers.is_empty() {
            for entry in objects.filters().filter(|entry| entry.is_in_force()) {
                let layer = entry.record.layer;
                if layers.contains(&layer) {
                    filters.entry(layer).or_default().push(Arc::clone(entry));
                }
            }
        }
        let mut table = Self {
            layers: self.layers.clone(),
            callout_layers: Arc::new(
                objects
                    .callouts()
                    .map(|callout| (callout.slot.id(), callout.layer))
                    .collect(),
            ),
        };
        for layer in layers {
            if let Some(place) = table.layers.get_mut(usize::from(layer.get())) {
                *place = filters
                    .remove(layer)
                    .map(|filters| Arc::new(LayerTable::new(filters, objects, options)));
            }
        }
        table
    }
}

impl<H: Host> LayerTable<H> {
    fn new(filters: Vec<Arc<FilterEntry<H>>>, objects: &Objects<H>, options: &Options) -> Self {
        let mut by_sublayer: BTreeMap<Guid, Vec<Arc<FilterEntry<H>>>> = BTreeMap::new();
        for filter in filters {
            by_sublayer
                .entry(filter.record.filter.sublayer)
                .or_default()
                .push(filter);
        }
        let mut sublayers: Vec<_> = by_sublayer
            .into_iter()
            .map(|(key, mut filters)| {
                filters.sort_by_key(|filter| {
                    let tie = tie(options.filter_ties, filter.id().get());
                    (Reverse(filter.record.effective_weight), tie)
                });
                let (weight, sequence) = objects.sublayer(key).map_or((0, 0), |sublayer| {
                    (sublayer.sublayer.weight, sublayer.sequence)
                });
                let table = SubLayerTable::new(key, filters.into_boxed_slice());
                (Reverse(weight), tie(options.sublayer_ties, sequence), table)
            })
            .collect();
        sublayers.sort_by_key(|(weight, tie, _)| (*weight, *tie));
        Self {
            sublayers: sublayers.into_iter().map(|(_, _, table)| table).collect(),
        }
    }
}

/// The place among equals of the one that was added as number `sequence`.
const fn tie(order: TieOrder, sequence: u64) -> u64 {
    match order {
        TieOrder::OldestFirst => sequence,
        TieOrder::NewestFirst => u64::MAX - sequence,
    }
}
