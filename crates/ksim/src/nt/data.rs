//! Variables that ntoskrnl exports.

use std::io;

use super::process::Processes;
use super::rtl::BUILD;
use crate::kernel::{Config, Machine};
use crate::loader::memory::{PAGE, Protection, Region};

/// What a variable holds at first.
#[derive(Clone, Copy)]
enum Initial {
    Value(u64),
    Processors,
    SystemProcess,
    /// The address of an object type: something to compare with, which nobody looks into.
    ObjectType,
}

/// Each variable has sixteen bytes, more than the largest of them takes.
const SLOT: usize = 16;

const VARIABLES: &[(&str, Initial)] = &[
    ("MmUserProbeAddress", Initial::Value(0x7fff_ffff_0000)),
    ("MmHighestUserAddress", Initial::Value(0x7fff_fffe_ffff)),
    ("MmSystemRangeStart", Initial::Value(0xffff_8000_0000_0000)),
    // A free build: the upper four bits are set.
    ("NtBuildNumber", Initial::Value(0xf000_0000 | BUILD as u64)),
    ("KeNumberProcessors", Initial::Processors),
    ("KdDebuggerEnabled", Initial::Value(0)),
    ("KdDebuggerNotPresent", Initial::Value(1)),
    ("InitSafeBootMode", Initial::Value(0)),
    ("PsInitialSystemProcess", Initial::SystemProcess),
    ("PsProcessType", Initial::ObjectType),
    ("PsThreadType", Initial::ObjectType),
    ("IoFileObjectType", Initial::ObjectType),
    ("IoDeviceObjectType", Initial::ObjectType),
    ("IoDriverObjectType", Initial::ObjectType),
    ("ExEventObjectType", Initial::ObjectType),
    ("SeTokenObjectType", Initial::ObjectType),
];

/// The variables of one machine.
#[derive(Debug)]
pub(crate) struct Variables(Region);

impl Variables {
    pub(super) fn new(config: &Config, processes: &Processes) -> io::Result<Self> {
        let region = Region::reserve(PAGE)?;
        region.protect(0, PAGE, Protection::ReadWrite)?;
        for (index, (_, initial)) in VARIABLES.iter().enumerate() {
            let at = index * SLOT;
            let value = match initial {
                Initial::Value(value) => *value,
                Initial::Processors => u64::from(config.processors.max(1)),
                Initial::SystemProcess => processes.system() as u64,
                // The unused half of the slot stands for the type.
                Initial::ObjectType => (region.start() + at + SLOT / 2) as u64,
            };
            region.write(at, &value.to_le_bytes());
        }
        Ok(Self(region))
    }
}

/// Where the variable `name` of `module` lies, if it is one.
pub(crate) fn address(machine: &Machine, module: &str, name: &str) -> Option<usize> {
    if !module.eq_ignore_ascii_case("ntoskrnl.exe") {
        return None;
    }
    let index = VARIABLES
        .iter()
        .position(|(variable, _)| *variable == name)?;
    Some(machine.nt().variables().0.start() + index * SLOT)
}
