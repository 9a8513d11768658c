//! B30: what was deferred is not resumed in the classify that defers it: that takes the proof that no classify runs.
// error[E0061]
#![no_std]
use wfp::callout::{Callout, Classify};
use wfp::flow::Association;
use wfp::layer::Stream;
use wfp::stream;
use wfp::verdict::StreamVerdict;

pub struct Hasty;

impl Callout for Hasty {
    type Layer = Stream;

    fn classify(call: &Classify<'_, Stream>) -> StreamVerdict {
        if let (Some(data), Some(flow)) = (call.data, call.metadata.flow()) {
            let at = Association {
                flow,
                layer: call.fields.layer(),
                callout: call.callout,
            };
            let _ = stream::resume(at, data.flags());
        }
        StreamVerdict::Defer
    }
}
