//! Captures of what a replay made of its packets.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ksim::net::FlowIndex;

use super::{Fate, Flow, FrameReport, Plan, ReplayError};
use crate::capture::{self, Writer};

/// Copies the frames that passed into `file`, as they were captured and in their order.
pub(super) fn passed(
    captures: &[PathBuf],
    file: &Path,
    frames: &[FrameReport],
) -> Result<(), ReplayError> {
    copy(captures, file, frames, |frame| {
        let is_blocked = frame.is_some_and(|frame| frame.fate == Fate::Blocked);
        (!is_blocked).then(String::new)
    })
}

/// Copies all frames into `file`, with what was decided about each, and about its flow, as its comment.
pub(super) fn annotated(
    plan: &Plan,
    file: &Path,
    frames: &[FrameReport],
    flows: &[Flow],
) -> Result<(), ReplayError> {
    copy(&plan.captures, file, frames, |frame| {
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

/// Copies those frames for which `choose` gives a comment; an empty one is left out.
fn copy(
    captures: &[PathBuf],
    file: &Path,
    frames: &[FrameReport],
    choose: impl Fn(Option<&FrameReport>) -> Option<String>,
) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Write {
        file: file.to_owned(),
        source,
    };
    let mut writer = Writer::create(file).map_err(failed)?;
    let mut number = 0;
    let mut frames = frames.iter().peekable();
    for capture in captures {
        let mut error = None;
        capture::read(capture, |frame| {
            let report = frames.next_if(|decided| decided.number == number);
            number += 1;
            if let Some(comment) = choose(report)
                && let Err(cause) = writer.write(&frame, &comment)
            {
                error = Some(cause);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(cause) = error {
            return Err(failed(cause));
        }
    }
    writer.finish().map_err(failed)
}
