//! Answering the driver's questions: by a script, or at the terminal.

use std::convert::Infallible;
use std::io::Write as _;
use std::path::Path;
use std::str::FromStr;

use portcullis_proto::Action;
use portcullis_proto::event::EventRecord;

use crate::control::{self, ControlError, Device, Wait};
use crate::report::events;

/// What a question is answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The operation may be.
    Permit,
    /// It may not.
    Block,
    /// There is no answer: when its time is over the rule's default decides.
    None,
}

impl FromStr for Reply {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "permit" => Ok(Self::Permit),
            "block" => Ok(Self::Block),
            "none" => Ok(Self::None),
            _ => Err(format!("{text:?} is not permit, block or none")),
        }
    }
}

/// How the questions of one rule are answered: `RULE=permit`, `RULE=block` or `RULE=none`; `*` is every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The rule's name, or `*`.
    pub rule: String,
    /// The answer.
    pub reply: Reply,
}

impl FromStr for Answer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rule, reply) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("{text:?} is not RULE=permit|block|none"))?;
        Ok(Self {
            rule: rule.trim().to_owned(),
            reply: reply.trim().parse()?,
        })
    }
}

/// Who answers.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// What is answered without asking anybody: the first of a rule counts.
    pub script: Vec<Answer>,
    /// Whether the rest is asked at the terminal; otherwise nobody answers it.
    pub terminal: bool,
}

impl Answers {
    /// Whether anybody answers anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.script.is_empty() && !self.terminal
    }

    /// Reads a script: an answer a line, `#` begins a comment.
    ///
    /// # Errors
    /// What is wrong, with the file and the line.
    pub fn read(file: &Path) -> Result<Vec<Answer>, String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Self::parse(&text).map_err(|error| format!("{}:{error}", file.display()))
    }

    fn parse(text: &str) -> Result<Vec<Answer>, String> {
        let mut answers = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                answers.push(line.parse().map_err(|error| format!("{number}: {error}"))?);
            }
        }
        Ok(answers)
    }

    /// Checks that there is a rule for each answer, of those that have these names.
    ///
    /// # Errors
    /// An answer to a rule that is not there.
    pub fn check(&self, rules: &[String]) -> Result<(), String> {
        let mut named = self.script.iter().map(|answer| &answer.rule);
        let unknown = named.find(|rule| *rule != "*" && !rules.contains(rule));
        unknown.map_or(Ok(()), |rule| {
            Err(format!(
                "an answer is for \"{rule}\": the policy has no rule of that name"
            ))
        })
    }

    fn reply(&self, rule: &str) -> Option<Reply> {
        self.script
            .iter()
            .find(|answer| answer.rule == "*" || answer.rule == rule)
            .map(|answer| answer.reply)
    }
}

/// A program that is asked: answers until the driver's device answers no more.
///
/// # Errors
/// Why it does not: [`ControlError`].
pub fn serve_on(
    device: &impl Device,
    rules: &[String],
    answers: &Answers,
) -> Result<Infallible, ControlError> {
    loop {
        serve(device, rules, answers, Wait::ForOne)?;
    }
}

/// Answers the questions that wait, or with [`Wait::ForOne`] the next that come. Returns how many it answered; [`serve_on`] is
/// a loop of this.
///
/// # Errors
/// [`ControlError`]
pub fn serve(
    device: &impl Device,
    rules: &[String],
    answers: &Answers,
    wait: Wait,
) -> Result<usize, ControlError> {
    let mut questions = Vec::new();
    while control::take_questions(device, &mut questions, wait)? {}
    let mut answered = 0;
    for question in &questions {
        let rule = question
            .rule()
            .and_then(|rule| rules.get(usize::try_from(rule).ok()?))
            .map_or("", String::as_str);
        let scripted = answers.reply(rule);
        let reply = match scripted {
            Some(reply) => reply,
            None if answers.terminal => ask(question, rules),
            None => Reply::None,
        };
        let verdict = match reply {
            Reply::Permit => Action::Permit,
            Reply::Block => Action::Block,
            Reply::None => continue,
        };
        let is_in_time = control::answer(device, question.question(), verdict)?;
        answered += usize::from(is_in_time);
        if !is_in_time && scripted.is_none() {
            eprintln!("too late: it waits for no answer any more");
        }
    }
    Ok(answered)
}

/// Asks at the terminal. Its end is no answer.
fn ask(question: &EventRecord, rules: &[String]) -> Reply {
    let seconds = question.deadline().saturating_sub(question.time.get()) / 10_000_000;
    eprintln!("{}", events::line(question, rules));
    loop {
        eprint!("permit, block or none ({seconds} s)? ");
        std::io::stderr().flush().ok();
        let mut line = String::new();
        if !std::io::stdin()
            .read_line(&mut line)
            .is_ok_and(|bytes| bytes > 0)
        {
            return Reply::None;
        }
        match line.trim() {
            "p" | "y" => return Reply::Permit,
            "b" | "n" => return Reply::Block,
            text => match text.parse() {
                Ok(reply) => return reply,
                Err(error) => eprintln!("{error}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Answers, Reply};

    #[test]
    fn a_script_answers_by_rule_and_the_first_line_counts() {
        let text = "# the browser\nask = me=permit\n\nother = block # not that\n* = none\n";
        let answers = Answers {
            script: Answers::parse(text).expect("valid"),
            terminal: false,
        };
        assert_eq!(answers.reply("ask = me"), Some(Reply::Permit));
        assert_eq!(answers.reply("other"), Some(Reply::Block));
        assert_eq!(answers.reply("third"), Some(Reply::None));
    }

    #[test]
    fn an_answer_is_for_a_rule_of_the_policy_or_for_all() {
        let script = |text: &str| Answers {
            script: Answers::parse(text).expect("valid"),
            terminal: false,
        };
        let rules = ["mail", "web"].map(ToOwned::to_owned);
        assert_eq!(script("web=permit\n*=none").check(&rules), Ok(()));
        let error = script("mail=none\nwebb=permit").check(&rules);
        assert_eq!(
            error.expect_err("webb"),
            "an answer is for \"webb\": the policy has no rule of that name"
        );
    }

    #[test]
    fn a_mistake_in_a_script_is_told_with_its_line() {
        let error = Answers::parse("a=permit\nb=perhaps").expect_err("perhaps");
        assert_eq!(error, "2: \"perhaps\" is not permit, block or none");
    }
}
