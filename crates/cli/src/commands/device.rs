//! The commands that talk to the driver on this machine: `portcullis status`, `events`, `policy set` and `policy clear`.

use std::path::Path;

use portcullis_policy::Compiled;
use portcullis_proto::callout::CALLOUTS;
use portcullis_proto::status::{CalloutStatus, DriverState};

use super::{BadInput, Ending, policy};
use crate::control::{self, ControlError};
use crate::device::WindowsDevice;
use crate::report::events::line;

/// Opens the driver's device, which speaks this program's protocol.
///
/// # Errors
/// There is no driver, or it is another version's.
pub(super) fn open() -> Result<WindowsDevice, BadInput> {
    let device = WindowsDevice::open().map_err(BadInput::new)?;
    // Whether both speak the same protocol.
    control::version(&device).map_err(BadInput::new)?;
    Ok(device)
}

/// `portcullis status`.
///
/// # Errors
/// The driver cannot be asked.
pub fn status() -> Result<Ending, BadInput> {
    let device = open()?;
    let (status, callouts) = control::status(&device).map_err(BadInput::new)?;
    let state = DriverState::from_raw(status.state.get());
    say!(
        "{}; policy {:016x} with {} rules, the {}th; {} of {} flows, {} of {} events",
        state.map_or("?", DriverState::name),
        status.policy_hash.get(),
        status.policy_rules,
        status.policy_epoch,
        status.flows,
        status.flow_capacity,
        status.events,
        status.event_capacity
    );
    for callout in &callouts {
        say!("{}", callout_line(callout));
    }
    let counters = control::statistics(&device).map_err(BadInput::new)?;
    for (counter, count) in counters.iter().filter(|(_, count)| *count > 0) {
        say!("  {count} {}", counter.name());
    }
    Ok(Ending::Clean)
}

fn callout_line(callout: &CalloutStatus) -> String {
    let info = CALLOUTS
        .iter()
        .find(|info| info.kind.raw() == callout.kind && info.family.raw() == callout.family);
    format!(
        "  {:<24} {:>5} {}, {} classifies, {} permitted, {} blocked",
        info.map_or("?", |info| info.name),
        callout.callout_id.get(),
        if callout.filter_id.get() == 0 {
            "without a filter"
        } else {
            "filtering"
        },
        callout.classify,
        callout.permit,
        callout.block
    )
}

/// `portcullis events`: until the program is ended.
///
/// # Errors
/// The driver cannot be asked.
pub fn events(policy_file: Option<&Path>) -> Result<Ending, BadInput> {
    let rules = policy::rule_names(policy_file)?;
    let device = open()?;
    loop {
        let mut events = Vec::new();
        control::wait_for_events(&device, &mut events).map_err(BadInput::new)?;
        for event in &events {
            say!("{}", line(event, &rules));
        }
    }
}

/// `portcullis policy set`.
///
/// # Errors
/// The driver cannot be asked, or refuses the policy.
pub(super) fn set_policy(compiled: &Compiled) -> Result<Ending, BadInput> {
    change(|device| control::set_policy(device, &compiled.blob))
}

/// `portcullis policy clear`.
///
/// # Errors
/// The driver cannot be asked.
pub(super) fn clear_policy() -> Result<Ending, BadInput> {
    change(|device| control::set_policy(device, &[]))
}

fn change(
    change: impl FnOnce(&WindowsDevice) -> Result<(), ControlError>,
) -> Result<Ending, BadInput> {
    change(&open()?).map_err(BadInput::new)?;
    Ok(Ending::Clean)
}
