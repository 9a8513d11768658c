//! `portcullis ask`.

use super::{BadInput, Ending};
use crate::arguments::Ask;
use crate::ask::{Answer, Answers, Reply};

/// Runs the command.
///
/// # Errors
/// Answers that cannot be read; those of `portcullis replay`; or the driver cannot be asked, or ends.
pub fn run(arguments: &Ask) -> Result<Ending, BadInput> {
    let mut script = arguments.answer.clone();
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
    #[cfg(target_os = "linux")]
    if !arguments.captures.is_empty() {
        let policy = arguments.policy.as_deref();
        return super::replay::run_with(&arguments.captures, policy, &arguments.options, answers);
    }
    live(arguments, &answers)
}

#[cfg(not(windows))]
fn live(_arguments: &Ask, _answers: &Answers) -> Result<Ending, BadInput> {
    Err(super::no_driver(
        "name captures to replay through the driver in the simulated kernel",
    ))
}

/// Until the program is ended, or the driver: what waits for an answer then goes on by its rule's default.
#[cfg(windows)]
fn live(arguments: &Ask, answers: &Answers) -> Result<Ending, BadInput> {
    let rules = super::policy::rule_names(arguments.policy.as_deref())?;
    if arguments.policy.is_some() {
        answers.check(&rules).map_err(BadInput::new)?;
    }
    let device = super::device::open()?;
    eprintln!("asked from now on; Ctrl+C ends it, and the rules' defaults decide then");
    match crate::ask::serve_on(&device, &rules, answers) {
        Ok(never) => match never {},
        Err(error) => Err(BadInput::new(error)),
    }
}
