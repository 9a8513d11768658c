//! `FWPM_FILTER_ENUM_TEMPLATE0`: which filters an enumeration means.
//!
//! <https://learn.microsoft.com/windows/win32/api/fwpmtypes/ns-fwpmtypes-fwpm_filter_enum_template0>

use wfp_engine::{FilterTemplate, Objects};
use wfp_schema::{FilterEnumFlags, Guid, NtStatus};

use crate::fwp::host::KernelHost;
use crate::fwp::layout::template::RawFilterTemplate;
use crate::fwp::marshal;

/// `FWP_FILTER_ENUM_FULLY_CONTAINED` and `FWP_FILTER_ENUM_OVERLAPPING`.
const FULLY_CONTAINED: u32 = 0;
const OVERLAPPING: u32 = 1;

/// The keys of the filters that `template` means; all of them, if there is none.
pub(super) fn filters(
    objects: &Objects<KernelHost>,
    template: Option<RawFilterTemplate>,
) -> Result<Vec<Guid>, NtStatus> {
    let Some(raw) = template else {
        return Ok(objects
            .filters()
            .map(|entry| entry.record().key())
            .collect());
    };
    let template = FilterTemplate {
        provider: raw.provider.get(),
        layer: raw.layer,
        overlapping: match raw.enum_type {
            FULLY_CONTAINED => false,
            OVERLAPPING => true,
            _ => return Err(NtStatus::FWP_INVALID_ENUMERATOR),
        },
        flags: FilterEnumFlags::from_bits(raw.flags),
        conditions: marshal::conditions(raw.conditions, raw.condition_count)?,
        action_mask: raw.action_mask,
        callout: raw.callout.get(),
        ..FilterTemplate::default()
    };
    let selected = objects.select_filters(&template)?;
    Ok(selected.iter().map(|entry| entry.record().key()).collect())
}
