//! The commands that talk to the driver on this machine: `portcullis status`, `events`, `policy set` and `policy clear`.

use std::path::Path;

use portcullis_policy::Compiled;

use super::{BadInput, Ending, policy};
use crate::control::{self, ControlError};
use crate::device::WindowsDevice;
use crate::report::events::Event;
use crate::report::status::Status;

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
pub fn status(json: bool) -> Result<Ending, BadInput> {
    let device = open()?;
    let (status, callouts) = control::status(&device).map_err(BadInput::new)?;
    let counters = control::statistics(&device).map_err(BadInput::new)?;
    let status = Status::new(&status, &callouts, &counters);
    if json {
        super::print_json(&status)?;
        return Ok(Ending::Clean);
    }
    say!("{status}");
    Ok(Ending::Clean)
}

/// `portcullis events`: until the program is ended.
///
/// # Errors
/// The driver cannot be asked.
pub fn events(policy_file: Option<&Path>, json: bool) -> Result<Ending, BadInput> {
    let rules = policy::rule_names(policy_file)?;
    let device = open()?;
    loop {
        let mut events = Vec::new();
        control::wait_for_events(&device, &mut events).map_err(BadInput::new)?;
        for event in &events {
            let event = Event::new(event, &rules);
            if json {
                say!("{}", serde_json::to_string(&event).map_err(BadInput::new)?);
            } else {
                say!("{event}");
            }
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
