//! `portcullis ask`.

use super::{BadInput, Ending, replay};
use crate::arguments::Ask;
use crate::ask::{Answer, Answers, Reply};

/// Runs the command.
///
/// # Errors
/// As those of `portcullis replay`, and answers that cannot be read.
pub fn run(arguments: &Ask) -> Result<Ending, BadInput> {
    let mut script = arguments.replay.answer.clone();
    if let Some(file) = &arguments.answers {
        script.extend(Answers::read(file).map_err(BadInput::new)?);
    }
    let all = match (arguments.permit_all, arguments.block_all) {
        (true, _) => Some(Reply::Permit),
        (_, true) => Some(Reply::Block),
        _ => None,
    };
    script.extend(all.map(|reply| Answer {
        rule: "*".to_owned(),
        reply,
    }));
    let answers = Answers {
        script,
        terminal: arguments.answers.is_none(),
    };
    replay::run_with(&arguments.replay, answers)
}
