//! Options as text: `name=setting,name=setting`.

use super::{Options, QUESTIONS, Question};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a list of settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseOptionsError {
    /// A part of it has no `=`.
    NoSetting(String),
    /// No question has this name.
    UnknownQuestion(String),
    /// The question has no such setting.
    UnknownSetting {
        /// The question's name.
        question: &'static str,
        /// What was given.
        setting: String,
        /// What it could be.
        settings: &'static [&'static str],
    },
    /// The question is answered twice.
    Twice(&'static str),
}

impl fmt::Display for ParseOptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSetting(part) => write!(f, "`{part}` is not of the form name=setting"),
            Self::UnknownQuestion(name) => write!(f, "there is no option `{name}`"),
            Self::UnknownSetting {
                question,
                setting,
                settings,
            } => write!(
                f,
                "`{question}` can't be `{setting}`, only {}",
                settings.join(" or ")
            ),
            Self::Twice(question) => write!(f, "`{question}` is given twice"),
        }
    }
}

impl std::error::Error for ParseOptionsError {}

impl FromStr for Options {
    type Err = ParseOptionsError;

    /// Reads `name=setting,name=setting`; what is left out has its default.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut options = Self::default();
        let mut answered = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, setting) = part
                .split_once('=')
                .ok_or_else(|| ParseOptionsError::NoSetting(part.to_owned()))?;
            let question = Question::by_name(name)
                .ok_or_else(|| ParseOptionsError::UnknownQuestion(name.to_owned()))?;
            let at = question
                .settings
                .iter()
                .position(|known| *known == setting)
                .ok_or_else(|| ParseOptionsError::UnknownSetting {
                    question: question.name,
                    setting: setting.to_owned(),
                    settings: question.settings,
                })?;
            if answered.contains(&question.name) {
                return Err(ParseOptionsError::Twice(question.name));
            }
            answered.push(question.name);
            question.choose(&mut options, at);
        }
        Ok(options)
    }
}

/// The settings that differ from the default, in the form that
/// [`FromStr`] reads; nothing for the default. A value that has no name shows as `?`.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for question in QUESTIONS {
            let at = question.setting(self);
            if at == Some(Question::DEFAULT) {
                continue;
            }
            let setting = at
                .and_then(|at| question.settings.get(at))
                .copied()
                .unwrap_or("?");
            write!(f, "{separator}{}={setting}", question.name)?;
            separator = ",";
        }
        Ok(())
    }
}
