//! Sessions with the filter engine, and the filters that rows add in them.

use conformance_messages::{
    AddCallout, AddFilter, AddProvider, AddSubLayer, Begin, Close, Condition, Delete, End, Query,
    Reply, object, option,
};
use wfp_schema::{Action, DataType, Guid, Layer, NtStatus};
use zerocopy::FromZeros as _;

use super::{Callout, OK, World};

/// An open session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session<'w> {
    pub(super) world: &'w World,
    pub(super) slot: u32,
}

impl Session<'_> {
    fn status<M: conformance_messages::Message>(&self, message: &M) -> NtStatus {
        self.world.agent.status(message)
    }

    pub(crate) fn close(self) -> NtStatus {
        self.status(&Close { session: self.slot })
    }

    /// Begins a transaction for reading and writing.
    pub(crate) fn begin(&self) -> NtStatus {
        self.status(&Begin {
            session: self.slot,
            flags: 0,
        })
    }

    /// Begins a transaction for reading.
    pub(crate) fn begin_read_only(&self) -> NtStatus {
        self.status(&Begin {
            session: self.slot,
            flags: FWPM_TXN_READ_ONLY,
        })
    }

    pub(crate) fn commit(&self) -> NtStatus {
        self.status(&End {
            session: self.slot,
            commit: 1,
        })
    }

    pub(crate) fn abort(&self) -> NtStatus {
        self.status(&End {
            session: self.slot,
            commit: 0,
        })
    }

    pub(crate) fn try_add_provider(&self, key: Guid, flags: u32, options: u32) -> NtStatus {
        let key = key.to_bytes();
        self.status(&AddProvider {
            session: self.slot,
            flags,
            options,
            reserved: 0,
            key,
        })
    }

    pub(crate) fn try_add_sublayer(&self, key: Guid, weight: u16, options: u32) -> NtStatus {
        self.status(&AddSubLayer {
            session: self.slot,
            flags: 0,
            options,
            weight: weight.into(),
            key: key.to_bytes(),
            provider: [0; 16],
        })
    }

    /// Adds a sublayer of this weight.
    pub(crate) fn sublayer(&self, weight: u16) -> Guid {
        let key = self.world.key();
        assert_eq!(self.try_add_sublayer(key, weight, 0), OK, "a sublayer");
        key
    }

    pub(crate) fn try_add_callout(
        &self,
        key: Guid,
        layer: &Layer,
        options: u32,
    ) -> Result<u32, NtStatus> {
        let reply = self.world.agent.call(&AddCallout {
            session: self.slot,
            flags: 0,
            options,
            reserved: 0,
            key: key.to_bytes(),
            layer: layer.key().to_bytes(),
            provider: [0; 16],
        });
        NtStatus::from_u32(reply.status).ok()?;
        Ok(u32::try_from(reply.values[0]).expect("callout identifiers have 32 bits"))
    }

    /// Adds a callout for a layer that nobody has registered.
    pub(crate) fn add_callout(&self, key: Guid, layer: &Layer) -> u32 {
        self.try_add_callout(key, layer, 0).expect("a callout")
    }

    /// Registers a callout and adds it for a layer.
    pub(crate) fn callout(&self, layer: &'static Layer) -> Callout {
        self.callout_with(layer, 0, 0)
    }

    /// Registers a callout that takes flow contexts and adds it for a layer.
    pub(crate) fn flow_callout(&self, layer: &'static Layer) -> Callout {
        self.callout_with(layer, 0, option::FLOW_DELETE)
    }

    /// Registers a callout with these flags and [`option`]s and adds it for a layer.
    pub(crate) fn callout_with(&self, layer: &'static Layer, flags: u32, options: u32) -> Callout {
        let key = self.world.key();
        let registered = self
            .world
            .register_with(key, flags, options)
            .expect("registers");
        assert_eq!(self.add_callout(key, layer), registered.id);
        Callout {
            layer,
            ..registered
        }
    }

    pub(crate) fn try_add(&self, filter: Filter) -> Result<u64, NtStatus> {
        let mut message = filter.0;
        message.session = self.slot;
        let reply = self.world.agent.call(&message);
        NtStatus::from_u32(reply.status).ok()?;
        Ok(reply.values[0])
    }

    pub(crate) fn add(&self, filter: Filter) -> u64 {
        self.try_add(filter).expect("a filter")
    }

    /// Deletes an object by its key or its identifier; see [`object`].
    pub(crate) fn delete(&self, object: u32, key: Guid, id: u64) -> NtStatus {
        let key = key.to_bytes();
        self.status(&Delete {
            session: self.slot,
            object,
            id,
            key,
        })
    }

    pub(crate) fn delete_filter(&self, id: u64) -> NtStatus {
        self.delete(object::FILTER_ID, Guid::ZERO, id)
    }

    /// Looks an object up; see [`object`].
    pub(crate) fn query(&self, object: u32, key: Guid, id: u64) -> Result<Reply, NtStatus> {
        let key = key.to_bytes();
        let reply = self.world.agent.call(&Query {
            session: self.slot,
            object,
            id,
            key,
        });
        NtStatus::from_u32(reply.status).ok().map(|()| reply)
    }

    /// Whether there is a filter.
    pub(crate) fn has_filter(&self, id: u64) -> bool {
        self.query(object::FILTER_ID, Guid::ZERO, id).is_ok()
    }

    /// Whether there is a sublayer.
    pub(crate) fn has_sublayer(&self, key: Guid) -> bool {
        self.query(object::SUBLAYER, key, 0).is_ok()
    }

    /// The effective weight of a filter.
    pub(crate) fn effective_weight(&self, id: u64) -> u64 {
        let found = self.query(object::FILTER_ID, Guid::ZERO, id);
        found.expect("the filter is there").values[2]
    }
}

/// `FWPM_TXN_READ_ONLY`.
const FWPM_TXN_READ_ONLY: u32 = 1;

/// A filter to be added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter(AddFilter);

/// A filter with this action, without conditions, of an automatic weight.
pub(crate) fn filter(layer: &Layer, action: Action) -> Filter {
    let mut message = AddFilter::new_zeroed();
    message.layer = layer.key().to_bytes();
    message.action = action.value();
    message.weight_type = DataType::Empty.value();
    Filter(message)
}

/// A filter that asks a callout about everything, at the callout's layer.
pub(crate) fn asking(callout: &Callout, action: Action) -> Filter {
    filter(callout.layer, action).calling(callout.key)
}

impl Filter {
    pub(crate) const fn calling(mut self, callout: Guid) -> Self {
        self.0.callout = callout.to_bytes();
        self
    }

    pub(crate) const fn key(mut self, key: Guid) -> Self {
        self.0.key = key.to_bytes();
        self
    }

    /// At a layer with this key.
    pub(crate) const fn at(mut self, layer: Guid) -> Self {
        self.0.layer = layer.to_bytes();
        self
    }

    pub(crate) const fn within(mut self, sublayer: Guid) -> Self {
        self.0.sublayer = sublayer.to_bytes();
        self
    }

    pub(crate) const fn of(mut self, provider: Guid) -> Self {
        self.0.provider = provider.to_bytes();
        self
    }

    pub(crate) const fn flags(mut self, flags: u32) -> Self {
        self.0.flags |= flags;
        self
    }

    pub(crate) const fn unnamed(mut self) -> Self {
        self.0.options |= option::UNNAMED;
        self
    }

    pub(crate) const fn at_dispatch(mut self) -> Self {
        self.0.irql = conformance_messages::DISPATCH;
        self
    }

    /// With a weight of this type.
    pub(crate) const fn weight_of(mut self, data_type: DataType, weight: u64) -> Self {
        self.0.weight_type = data_type.value();
        self.0.weight = weight;
        self
    }

    /// With this `FWP_UINT64` weight.
    pub(crate) const fn weight(self, weight: u64) -> Self {
        self.weight_of(DataType::Uint64, weight)
    }

    /// With a further condition.
    pub(crate) const fn when(mut self, condition: Condition) -> Self {
        let at = self.0.condition_count as usize;
        self.0.conditions[at] = condition;
        self.0.condition_count += 1;
        self
    }
}
