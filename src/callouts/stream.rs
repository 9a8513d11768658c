//! `STREAM`: the payload of followed TCP connections.

use core::num::NonZeroU64;

use portcullis_core::{FlowHandle, connection::TCP};
use portcullis_proto::Counter;
use wfp::{
    callout::{Callout, Classify, Counters},
    layer,
    schema::IpVersion,
    verdict,
};

use crate::{ask, state, streams};

/// Data of TCP connections, and their ends.
pub(super) struct Stream;

impl Callout for Stream {
    type Layer = layer::Stream;

    const FLOW_CONTEXTS: bool = true;

    fn counters(version: IpVersion) -> &'static Counters {
        static COUNTERS: [Counters; 2] = [const { Counters::new() }; 2];
        &COUNTERS[version as usize]
    }

    fn classify(call: &Classify<'_, layer::Stream>) -> verdict::StreamVerdict {
        let Some(core) = state::core() else {
            return verdict::StreamVerdict::Permit;
        };
        let Some(data) = call.data else {
            core.statistics().count(Counter::DataUnavailable);
            return verdict::StreamVerdict::Permit;
        };
        let version = call.fields.version();
        let place = |flow| super::association(flow, TCP, version);
        streams::classify(
            core,
            handle(call.flow_context),
            place,
            version,
            &data,
            call.must_decide,
        )
    }

    fn flow_deleted(context: NonZeroU64) {
        if let (Some(core), Some(handle)) = (state::core(), handle(Some(context))) {
            streams::ended(core, handle);
        }
        deleted(context);
    }
}

/// The flow that a context stands for.
pub(super) fn handle(context: Option<NonZeroU64>) -> Option<FlowHandle> {
    context.and_then(|context| FlowHandle::from_raw(context.get()))
}

/// The flow that a context stood for has ended.
pub(super) fn deleted(context: NonZeroU64) {
    if let (Some(core), Some(handle)) = (state::core(), handle(Some(context)))
        && let Some(subject) = core.flow_deleted(handle)
    {
        ask::flow_ended(&subject);
    }
}
