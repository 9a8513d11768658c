//! Enumeration templates: which objects an enumeration means.
//!
//! <https://learn.microsoft.com/windows/win32/api/fwpmtypes/ns-fwpmtypes-fwpm_filter_enum_template0>

use crate::condition::{self, Condition, ConditionValue, RuntimeCondition, Values};
use crate::filter::FilterEntry;
use crate::host::Host;
use crate::objects::{CalloutObject, Objects, ProviderContextObject, SubLayerObject};
use crate::options::Options;
use crate::security;
use crate::value::Token;
use std::cmp::Reverse;
use std::sync::Arc;
use wfp_schema::field::FieldType;
use wfp_schema::{
    DataType, FilterEnumFlags, FilterFlags, Guid, Layer, MatchType, NtStatus, ProviderContextType,
};

/// `FWPM_PROVIDER_CONTEXT_ENUM_TEMPLATE0`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProviderContextTemplate {
    /// Contexts of this provider; `None` for any.
    pub provider: Option<Guid>,
    /// Contexts of this type; `None` for any.
    pub context_type: Option<ProviderContextType>,
}

/// `FWPM_CALLOUT_ENUM_TEMPLATE0`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CalloutTemplate {
    /// Callouts of this provider; `None` for any.
    pub provider: Option<Guid>,
    /// Callouts of this layer; [`Guid::ZERO`] for any.
    pub layer: Guid,
}

/// `FWPM_FILTER_ENUM_TEMPLATE0`.
#[derive(Clone, Debug)]
pub struct FilterTemplate {
    /// Filters of this provider; `None` for any.
    pub provider: Option<Guid>,
    /// Filters of this layer; [`Guid::ZERO`] for any.
    pub layer: Guid,
    /// `FWP_FILTER_ENUM_OVERLAPPING`: filters that match any of the traffic that
    /// meets `conditions`, rather than all of it (`FWP_FILTER_ENUM_FULLY_CONTAINED`).
    pub overlapping: bool,
    /// Which filters, and in which order.
    pub flags: FilterEnumFlags,
    /// Filters that name such a provider context; `None` for any.
    pub provider_context: Option<ProviderContextTemplate>,
    /// At most one for each field. A user identifier is given as a SID.
    pub conditions: Vec<Condition>,
    /// Filters whose action type has any of these bits; all ones for any.
    pub action_mask: u32,
    /// Filters that ask this callout; `None` for any.
    pub callout: Option<Guid>,
}

impl Default for FilterTemplate {
    /// Every filter that is in force once the base filtering engine runs.
    fn default() -> Self {
        Self {
            provider: None,
            layer: Guid::ZERO,
            overlapping: true,
            flags: FilterEnumFlags::NONE,
            provider_context: None,
            conditions: Vec::new(),
            action_mask: u32::MAX,
            callout: None,
        }
    }
}

/// `FWP_ACTION_FLAG_TERMINATING`.
const TERMINATING: u32 = 0x1000;

fn is<T: PartialEq + Copy>(asked: Option<T>, found: Option<T>) -> bool {
    asked.is_none() || asked == found
}

impl ProviderContextTemplate {
    fn means(self, object: &ProviderContextObject) -> bool {
        is(self.provider, object.context.provider)
            && is(self.context_type, Some(object.context.context_type))
    }
}

impl<H: Host> Objects<H> {
    /// The sublayers of a provider, `None` for all, by key.
    pub fn select_sublayers(
        &self,
        provider: Option<Guid>,
    ) -> impl Iterator<Item = &Arc<SubLayerObject>> {
        self.sublayers()
            .filter(move |object| is(provider, object.sublayer.provider))
    }

    /// The provider contexts that a template means, by key.
    pub fn select_provider_contexts(
        &self,
        template: ProviderContextTemplate,
    ) -> impl Iterator<Item = &Arc<ProviderContextObject>> {
        self.provider_contexts()
            .filter(move |object| template.means(object))
    }

    /// The callouts that a template means, by key.
    pub fn select_callouts(
        &self,
        template: CalloutTemplate,
    ) -> impl Iterator<Item = &Arc<CalloutObject<H>>> {
        self.callouts().filter(move |object| {
            let of_layer = template.layer.is_zero() || object.callout.layer == template.layer;
            of_layer && is(template.provider, object.callout.provider)
        })
    }

    /// The filters that a template means, in the order of adding unless the
    /// heaviest are to come first.
    ///
    /// # Errors
    /// `FWP_LAYER_NOT_FOUND`; `FWP_DUPLICATE_CONDITION`; as
    /// [`Engine::add_filter`](crate::Engine::add_filter) for conditions that
    /// don't fit the layer.
    pub fn select_filters(
        &self,
        template: &FilterTemplate,
    ) -> Result<Vec<&Arc<FilterEntry<H>>>, NtStatus> {
        let mut fields: Vec<_> = template.conditions.iter().map(|c| c.field).collect();
        fields.sort_unstable();
        if fields.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(NtStatus::FWP_DUPLICATE_CONDITION);
        }
        let layer = match template.layer {
            Guid::ZERO => None,
            key => Some(Layer::by_key(key).ok_or(NtStatus::FWP_LAYER_NOT_FOUND)?),
        };
        // Fields belong to layers: without one, those are meant that have the fields.
        let asked = layer
            .map(|layer| asked_of(layer, &template.conditions, self.options()))
            .transpose()?;
        let flags = template.flags;
        let mut selected: Vec<_> = self
            .filters()
            .filter(|entry| template.means_apart_from_conditions(entry))
            .filter(|entry| {
                let of_its_layer;
                let asked = match (&asked, entry.record.layer.layer()) {
                    (Some(asked), _) => asked,
                    (None, Some(layer)) => {
                        match asked_of(layer, &template.conditions, self.options()) {
                            Ok(asked) => of_its_layer = asked,
                            Err(_) => return false,
                        }
                        &of_its_layer
                    }
                    (None, None) => return false,
                };
                means(&entry.record.conditions, asked, template.overlapping)
            })
            .collect();
        let sorted = FilterEnumFlags::SORTED.union(FilterEnumFlags::BEST_TERMINATING_MATCH);
        if flags.intersects(sorted) {
            selected.sort_by_key(|entry| {
                let record = &entry.record;
                Reverse((record.sublayer_weight, record.effective_weight))
            });
        }
        if flags.contains(FilterEnumFlags::BEST_TERMINATING_MATCH) {
            selected.retain(|entry| entry.record.action().value() & TERMINATING != 0);
            selected.truncate(1);
        }
        Ok(selected)
    }
}

impl FilterTemplate {
    fn means_apart_from_conditions<H: Host>(&self, entry: &FilterEntry<H>) -> bool {
        let filter = entry.record.filter();
        let boot_time = filter.flags.contains(FilterFlags::BOOTTIME);
        let disabled = filter.flags.contains(FilterFlags::DISABLED);
        let of_this_kind = if self.flags.contains(FilterEnumFlags::BOOTTIME_ONLY) {
            boot_time
        } else {
            (!boot_time || self.flags.contains(FilterEnumFlags::INCLUDE_BOOTTIME))
                && (!disabled || self.flags.contains(FilterEnumFlags::INCLUDE_DISABLED))
        };
        of_this_kind
            && is(self.provider, filter.provider)
            && (self.layer.is_zero() || filter.layer == self.layer)
            && (self.action_mask == u32::MAX || filter.action.value() & self.action_mask != 0)
            && is(self.callout, Some(filter.callout))
            && self.provider_context.is_none_or(|template| {
                let object = entry.record.provider_context();
                object.is_some_and(|object| template.means(object))
            })
    }
}

/// A template's conditions as those of a filter of this layer.
fn asked_of(
    layer: &Layer,
    conditions: &[Condition],
    options: &Options,
) -> Result<Vec<RuntimeCondition>, NtStatus> {
    conditions
        .iter()
        .map(|condition| {
            let field = layer
                .field_by_condition(condition.field)
                .ok_or(NtStatus::FWP_CONDITION_NOT_FOUND)?;
            let is_sid = matches!(condition.value, ConditionValue::Sid(_));
            let data_type = if is_sid && field.field_type() == FieldType::Token {
                DataType::Sid
            } else {
                condition::data_type(field, layer, options)
            };
            RuntimeCondition::new(
                field.index(),
                data_type,
                condition.match_type,
                condition.value.clone(),
                options,
            )
        })
        .collect()
}

/// Whether conditions of a filter match all traffic that meets what is asked,
/// or with `overlapping` any of it.
fn means(filter: &[RuntimeCondition], asked: &[RuntimeCondition], overlapping: bool) -> bool {
    filter
        .chunk_by(|left, right| left.field == right.field)
        .all(|alternatives| {
            let of_field = asked
                .iter()
                .find(|asked| asked.field == alternatives[0].field);
            match of_field {
                // Any value is asked for.
                None => overlapping,
                Some(asked) if overlapping => alternatives.iter().any(|own| meet(own, asked)),
                Some(asked) => is_within(asked, alternatives),
            }
        })
}

/// Whether any value fulfils both.
fn meet(own: &RuntimeCondition, asked: &RuntimeCondition) -> bool {
    match (spans(own), spans(asked)) {
        (Some(ours), Some(theirs)) => ours
            .iter()
            .any(|(low, high)| theirs.iter().any(|(from, to)| low <= to && from <= high)),
        _ => match (own.values(), asked.values()) {
            (Some(Values::Bytes(ours)), Some(Values::Bytes(theirs))) => ours == theirs,
            // Flags, ends of strings and so on may have values in common whatever they are.
            _ => admits(own, asked).unwrap_or(true),
        },
    }
}

/// Whether each value that fulfils `asked` fulfils one of `alternatives`.
fn is_within(asked: &RuntimeCondition, alternatives: &[RuntimeCondition]) -> bool {
    let Some(wanted) = spans(asked) else {
        return alternatives
            .iter()
            .any(|own| own == asked || admits(own, asked) == Some(true));
    };
    let mut cover: Vec<_> = alternatives.iter().filter_map(spans).flatten().collect();
    cover.sort_unstable();
    wanted.iter().all(|&(low, high)| {
        let mut need = low;
        for &(from, to) in &cover {
            if from > need {
                return false;
            }
            if to >= high {
                return true;
            }
            need = need.max(to.saturating_add(1));
        }
        false
    })
}

/// Whether a security descriptor lets a SID in; `None` if it isn't about that.
fn admits(own: &RuntimeCondition, asked: &RuntimeCondition) -> Option<bool> {
    match (&own.value, &asked.value) {
        (ConditionValue::SecurityDescriptor(descriptor), ConditionValue::Sid(sid)) => {
            let token = Token {
                user: sid,
                groups: &[],
            };
            Some(security::grants_match(descriptor, &token))
        }
        _ => None,
    }
}

/// The runs of numbers that fulfil a condition, if it is about numbers.
fn spans(condition: &RuntimeCondition) -> Option<Vec<(u128, u128)>> {
    if condition.match_type == MatchType::NotEqual {
        let (number, top) = condition.number()?;
        let below = number.checked_sub(1).map(|end| (0, end));
        let above = (number < top).then(|| (number + 1, top));
        return Some(below.into_iter().chain(above).collect());
    }
    match condition.values()? {
        Values::Numbers { low, high, .. } => Some(vec![(low, high)]),
        Values::None => Some(Vec::new()),
        Values::Bytes(_) => None,
    }
}
