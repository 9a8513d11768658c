//! One x64 instruction.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use super::Step;
use crate::Image;

/// What the instruction at `rva` does; `None` when there is none.
pub(super) fn step(image: &Image, rva: u32) -> Option<Step> {
    let mut decoder = Decoder::with_ip(
        64,
        image.view.from(rva)?,
        u64::from(rva),
        DecoderOptions::NONE,
    );
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let target = || u32::try_from(instruction.near_branch_target()).ok();
    let mut step = Step {
        length: u32::try_from(instruction.len()).ok()?,
        ..Step::default()
    };
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch => {
            step.branch = target();
            step.ends = true;
        }
        FlowControl::ConditionalBranch => step.branch = target(),
        FlowControl::Call => step.call = target(),
        FlowControl::IndirectCall => step.through = pointer(&instruction),
        FlowControl::IndirectBranch => {
            step.through = pointer(&instruction);
            step.ends = true;
        }
        FlowControl::Return | FlowControl::Interrupt | FlowControl::Exception => step.ends = true,
        FlowControl::Next | FlowControl::XbeginXabortXend => {}
    }
    Some(step)
}

/// The place of the pointer that a branch goes through.
fn pointer(instruction: &Instruction) -> Option<u32> {
    (instruction.op0_kind() == OpKind::Memory && instruction.is_ip_rel_memory_operand())
        .then(|| u32::try_from(instruction.ip_rel_memory_address()).ok())
        .flatten()
}
