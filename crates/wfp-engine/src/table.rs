//! The filters in force, as classifying sees them: immutable, replaced as a whole.

use crate::filter::FilterEntry;
use crate::host::Host;
use crate::id::{CalloutId, FilterId};
use crate::index::{Index, Rank, Ranks, WORTHWHILE};
use crate::objects::Objects;
use crate::options::{Options, TieOrder};
use crate::value::Value;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use wfp_schema::{Guid, LayerId};

/// Every layer's filters.
pub(crate) struct Table<H: Host> {
    layers: Box<[Option<Arc<LayerTable<H>>>]>,
    callout_layers: Arc<HashMap<CalloutId, LayerId>>,
}

/// One layer's filters in the order of their evaluation.
pub(crate) struct LayerTable<H: Host> {
    pub(crate) sublayers: Box<[Arc<SubLayerTable<H>>]>,
}

/// One sublayer's filters at a layer, the heaviest first.
pub(crate) struct SubLayerTable<H: Host> {
    pub(crate) key: Guid,
    /// Its place among the sublayers: by weight, then by age.
    order: (Reverse<u16>, u64),
    pub(crate) filters: Box<[Arc<FilterEntry<H>>]>,
    /// Made when it is first needed: many filters may be added before.
    index: OnceLock<Option<Index>>,
}

impl<H: Host> SubLayerTable<H> {
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

    /// The table once filters have been added and deleted, which makes `objects`
    /// of what there was. What has not changed is shared.
    pub(crate) fn after(
        &self,
        objects: &Objects<H>,
        added: &[Arc<FilterEntry<H>>],
        deleted: &[Arc<FilterEntry<H>>],
        options: &Options,
    ) -> Self {
        let mut changes: BTreeMap<LayerId, BTreeMap<Guid, Change<H>>> = BTreeMap::new();
        let mut change_of = |entry: &FilterEntry<H>, change: &dyn Fn(&mut Change<H>)| {
            let of_layer = changes.entry(entry.record.layer).or_default();
            change(of_layer.entry(entry.record.filter.sublayer).or_default());
        };
        for entry in deleted {
            change_of(entry, &|change| {
                change.deleted.insert(entry.id());
            });
        }
        for entry in added.iter().filter(|entry| entry.is_in_force()) {
            change_of(entry, &|change| change.added.push(Arc::clone(entry)));
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
        for (layer, changes) in changes {
            if let Some(place) = table.layers.get_mut(usize::from(layer.get())) {
                let old = place.take();
                let old = old.as_deref().map_or(&[][..], |layer| &layer.sublayers);
                let new = LayerTable::after(old, changes, objects, options);
                *place = (!new.sublayers.is_empty()).then(|| Arc::new(new));
            }
        }
        table
    }
}

/// How a sublayer's filters at a layer change.
struct Change<H: Host> {
    added: Vec<Arc<FilterEntry<H>>>,
    deleted: HashSet<FilterId>,
}

impl<H: Host> Default for Change<H> {
    fn default() -> Self {
        Self {
            added: Vec::new(),
            deleted: HashSet::new(),
        }
    }
}

impl<H: Host> LayerTable<H> {
    fn after(
        old: &[Arc<SubLayerTable<H>>],
        mut changes: BTreeMap<Guid, Change<H>>,
        objects: &Objects<H>,
        options: &Options,
    ) -> Self {
        let mut sublayers = Vec::with_capacity(old.len() + changes.len());
        for sublayer in old {
            match changes.remove(&sublayer.key) {
                None => sublayers.push(Arc::clone(sublayer)),
                Some(change) => sublayers.extend(SubLayerTable::after(
                    sublayer.key,
                    &sublayer.filters,
                    change,
                    objects,
                    options,
                )),
            }
        }
        for (key, change) in changes {
            sublayers.extend(SubLayerTable::after(key, &[], change, objects, options));
        }
        sublayers.sort_by_key(|sublayer| sublayer.order);
        Self {
            sublayers: sublayers.into_boxed_slice(),
        }
    }
}

impl<H: Host> SubLayerTable<H> {
    /// The sublayer's filters after a change; `None` if none is left.
    fn after(
        key: Guid,
        old: &[Arc<FilterEntry<H>>],
        change: Change<H>,
        objects: &Objects<H>,
        options: &Options,
    ) -> Option<Arc<Self>> {
        let Change { added, deleted } = change;
        let remaining = old.iter().filter(|entry| !deleted.contains(&entry.id()));
        let mut filters: Vec<_> = remaining.cloned().chain(added).collect();
        if filters.is_empty() {
            return None;
        }
        // Sorted but for what was added, which a stable sort makes use of.
        filters.sort_by_key(|filter| {
            let tie = tie(options.filter_ties, filter.id().get());
            (Reverse(filter.record.effective_weight), tie)
        });
        let (weight, sequence) = objects.sublayer(key).map_or((0, 0), |sublayer| {
            (sublayer.sublayer.weight, sublayer.sequence)
        });
        Some(Arc::new(Self {
            key,
            order: (Reverse(weight), tie(options.sublayer_ties, sequence)),
            filters: filters.into_boxed_slice(),
            index: OnceLock::new(),
        }))
    }
}

/// The place among equals of the one that was added as number `sequence`.
const fn tie(order: TieOrder, sequence: u64) -> u64 {
    match order {
        TieOrder::OldestFirst => sequence,
        TieOrder::NewestFirst => u64::MAX - sequence,
    }
}
