//! The driver's callouts and counters.

use std::fmt::{self, Display, Formatter};

use portcullis_proto::callout::CALLOUTS;
use portcullis_proto::counter::Counter;
use portcullis_proto::status::CalloutStatus;
use serde::{Serialize, Serializer};

/// A callout with its counters.
#[derive(Debug, Serialize)]
pub struct CalloutEntry {
    /// `None` if this program does not know it.
    name: Option<&'static str>,
    layer: Option<&'static str>,
    id: u32,
    /// Whether its filter is in place: without one it is not called.
    filtered: bool,
    classify: u64,
    permit: u64,
    block: u64,
}

impl From<&CalloutStatus> for CalloutEntry {
    fn from(status: &CalloutStatus) -> Self {
        let mut known = CALLOUTS.iter();
        let info =
            known.find(|info| info.kind.raw() == status.kind && info.family.raw() == status.family);
        Self {
            name: info.map(|info| info.name),
            layer: info.map(|info| info.layer),
            id: status.callout_id.get(),
            filtered: status.flags.get() & CalloutStatus::FILTERED != 0,
            classify: status.classify.get(),
            permit: status.permit.get(),
            block: status.block.get(),
        }
    }
}

impl Display for CalloutEntry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.name.unwrap_or("?");
        let filter = if self.filtered {
            "filtering"
        } else {
            "without a filter"
        };
        write!(
            f,
            "{name:<24} {:>5} {filter}, {} classifies, {} permitted, {} blocked",
            self.id, self.classify, self.permit, self.block
        )
    }
}

/// Every counter by its name, those that are zero too.
#[derive(Debug, Clone, Copy)]
pub struct Counters<'a>(pub &'a [(Counter, u64)]);

impl Serialize for Counters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counters = self.0.iter();
        serializer.collect_map(counters.map(|(counter, count)| (counter.name(), count)))
    }
}
