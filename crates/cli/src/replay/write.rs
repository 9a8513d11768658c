//! Captures of what a replay made of its packets.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ksim::net::FlowIndex;

use super::delivery::{Delivery, Made};
use super::{Fate, Flow, FrameReport, Plan, ReplayError};
use crate::capture::{self, Writer};

/// Writes what the receiving ends got into `file`: the frames that passed, as they were captured and in their order, and
/// what stands for those that came to nobody as they were.
pub(super) fn passed(
    captures: &[PathBuf],
    file: &Path,
    frames: &[FrameReport],
    delivery: &Delivery,
) -> Result<(), ReplayError> {
    let choose = |number, frame: Option<&FrameReport>| {
        let is_blocked = frame.is_some_and(|frame| frame.fate == Fate::Blocked);
        (!is_blocked && !delivery.left_out.contains(&number)).then(String::new)
    };
    copy(captures, file, frames, &delivery.made, choose)
}

/// Copies all frames into `file`, with what was decided about each, and about its flow, as its comment.
pub(super) fn annotated(
    plan: &Plan,
    file: &Path,
    frames: &[FrameReport],
    flows: &[Flow],
) -> Result<(), ReplayError> {
    copy(&plan.captures, file, frames, &[], |_, frame| {
        Some(frame.map_or_else(String::new, |frame| comment(frame, flows, &plan.rules)))
    })
}

/// What was decided about a frame, in words.
fn comment(frame: &FrameReport, flows: &[Flow], rules: &[String]) -> String {
    let mut comment = match (frame.fate, frame.blocked_at) {
        (Fate::NotIp, _) => return "no IP packet".to_owned(),
        (Fate::Passed, _) => "passed".to_owned(),
        (Fate::Blocked, None) => "blocked".to_owned(),
        (Fate::Blocked, Some(layer)) => format!("blocked at {layer}"),
    };
    let Some(FlowIndex(index)) = frame.flow else {
        return comment;
    };
    let Some(flow) = flows.get(index) else {
        return comment;
    };
    let rule = crate::report::rule(flow, rules).map_or_else(
        || "the default".to_owned(),
        |rule| format!("rule \"{rule}\""),
    );
    let verdict = crate::report::verdict(flow);
    write!(comment, "; flow {index}: {verdict} by {rule}").ok();
    if let Some(host) = &flow.decided.host {
        write!(comment, ", host {host}").ok();
    }
    if let Some(application) = &flow.decided.application {
        write!(comment, ", {application}").ok();
    }
    comment
}

/// Copies those frames for which `choose` gives a comment (an empty one is left out), and writes each that was made
/// behind its place.
fn copy(
    captures: &[PathBuf],
    file: &Path,
    frames: &[FrameReport],
    made: &[Made],
    choose: impl Fn(u64, Option<&FrameReport>) -> Option<String>,
) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Write {
        file: file.to_owned(),
        source,
    };
    let mut writer = Writer::create(file).map_err(failed)?;
    let mut number = 0;
    let mut frames = frames.iter().peekable();
    let mut made = made.iter().peekable();
    for capture in captures {
        let mut error = None;
        capture::read(capture, |frame| {
            let report = frames.next_if(|decided| decided.number == number);
            let copied =
                choose(number, report).map_or(Ok(()), |comment| writer.write(&frame, &comment));
            let mut here = std::iter::from_fn(|| made.next_if(|made| made.after <= number));
            let written =
                copied.and_then(|()| here.try_for_each(|made| writer.write(&made.frame(), "")));
            number += 1;
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(cause) => {
                    error = Some(cause);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(cause) = error {
            return Err(failed(cause));
        }
    }
    writer.finish().map_err(failed)
}
