//! Which offloads the network card may keep, as far as callouts let it.
//!
//! A callout says which of them it tolerates when it registers. For what it does not tolerate, the offload is off for all
//! traffic that the filters match which ask it.
//!
//! <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/ns-fwpsk-fwps_callout2_>

use crate::engine::Engine;
use crate::host::Host;
use crate::id::{CalloutId, FilterId};
use wfp_schema::{CalloutFlags, Guid, LayerId};

/// An offload of the network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Offload {
    /// Everything that `FWP_CALLOUT_FLAG_ALLOW_OFFLOAD` stands for: checksums, and segments that are cut by the card.
    Checksum,
    /// Receive segment coalescing of TCP.
    Rsc,
    /// Segmentation of UDP.
    Uso,
    /// Receive coalescing of UDP.
    Uro,
}

impl Offload {
    /// Every offload.
    pub const ALL: [Self; 4] = [Self::Checksum, Self::Rsc, Self::Uso, Self::Uro];

    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::Rsc => "RSC",
            Self::Uso => "USO",
            Self::Uro => "URO",
        }
    }

    /// The flag by which a callout tolerates it.
    #[must_use]
    pub const fn flag(self) -> CalloutFlags {
        match self {
            Self::Checksum => CalloutFlags::ALLOW_OFFLOAD,
            Self::Rsc => CalloutFlags::ALLOW_RSC,
            Self::Uso => CalloutFlags::ALLOW_USO,
            Self::Uro => CalloutFlags::ALLOW_URO,
        }
    }
}

/// A filter that asks a registered callout, and what that leaves of the offloads for the traffic that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// The filter's layer.
    pub layer: LayerId,
    /// The filter.
    pub filter: FilterId,
    /// The callout's key.
    pub callout: Guid,
    /// The callout's identifier.
    pub id: CalloutId,
    /// What it registered with.
    pub flags: CalloutFlags,
}

impl Tolerance {
    /// Whether the offload stays on for what the filter matches, unless another filter switches it off.
    #[must_use]
    pub const fn keeps(&self, offload: Offload) -> bool {
        self.flags.contains(offload.flag())
    }
}

impl<H: Host> Engine<H> {
    /// The filters in force that ask registered callouts, by layer and then by filter, with what these tolerate.
    pub fn tolerances(&self) -> Vec<Tolerance> {
        let objects = self.committed();
        let mut found: Vec<_> = objects
            .filters()
            .filter(|entry| entry.is_in_force())
            .filter_map(|entry| {
                let id = entry.record().callout()?;
                let registered = self.registration(id)?;
                let registration = registered.registration();
                Some(Tolerance {
                    layer: entry.record().layer(),
                    filter: entry.id(),
                    callout: registration.key,
                    id,
                    flags: registration.flags,
                })
            })
            .collect();
        found.sort_by_key(|tolerance| (tolerance.layer, tolerance.filter));
        found
    }

    /// What a registered callout tolerates and wants.
    pub fn callout_flags(&self, id: CalloutId) -> Option<CalloutFlags> {
        Some(self.registration(id)?.registration().flags)
    }

    /// Whether an offload stays on for traffic that every filter at a layer matches.
    pub fn keeps_offload(&self, layer: LayerId, offload: Offload) -> bool {
        self.tolerances()
            .iter()
            .filter(|tolerance| tolerance.layer == layer)
            .all(|tolerance| tolerance.keeps(offload))
    }
}
