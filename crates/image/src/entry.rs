//! Which imports the code reaches from the entry point.
//!
//! A KMDF driver's entry is the framework's stub `FxDriverEntry`: it, or a worker that it calls after setting the
//! security cookie, calls `WdfVersionBind` before the driver's own `DriverEntry`. Nothing but the stub refers to that
//! import, so an entry from which direct calls and jumps reach it within a few calls is the stub, however the stub
//! was compiled, and with or without symbols; a driver whose entry is its own `DriverEntry` never binds.

mod arm64;
mod x64;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{Image, ImportName, Machine};

/// How many calls deep the walk goes: entry, worker, an import thunk.
const DEPTH: u32 = 3;
/// How many instructions the walk decodes.
const BUDGET: u32 = 20_000;

/// What an instruction does to the flow of control.
#[derive(Debug, Default)]
struct Step {
    /// Length in bytes.
    length: u32,
    /// A branch inside the same function.
    branch: Option<u32>,
    /// A direct call.
    call: Option<u32>,
    /// A call or jump through a pointer: the pointer's place.
    through: Option<u32>,
    /// Control never goes to the next instruction.
    ends: bool,
}

/// The names of the imports that are called or jumped to.
pub(crate) fn reached_imports(image: &Image) -> Vec<String> {
    let slots: BTreeMap<u32, &str> = image
        .imports
        .iter()
        .filter_map(|import| match &import.name {
            ImportName::Name(name) => Some((import.slot, name.as_str())),
            ImportName::Ordinal(_) => None,
        })
        .collect();
    let mut reached = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut work = VecDeque::from([(image.entry, 0)]);
    let mut budget = BUDGET;
    while let Some((mut at, depth)) = work.pop_front() {
        let mut registers = arm64::Registers::default();
        while budget > 0
            && image.section_at(at).is_some_and(|section| section.execute)
            && seen.insert(at)
        {
            budget -= 1;
            let step = match image.machine {
                Machine::X64 => x64::step(image, at),
                Machine::Arm64 => arm64::step(image, at, &mut registers),
            };
            let Some(step) = step else { break };
            if let Some(name) = step.through.and_then(|slot| slots.get(&slot)) {
                reached.insert((*name).to_owned());
            }
            work.extend(step.branch.map(|target| (target, depth)));
            work.extend(
                step.call
                    .filter(|_| depth < DEPTH)
                    .map(|target| (target, depth + 1)),
            );
            if step.ends {
                break;
            }
            at = at.wrapping_add(step.length);
        }
    }
    reached.into_iter().collect()
}
