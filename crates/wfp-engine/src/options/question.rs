//! A question that the documentation leaves open.

use super::{Options, QUESTIONS};

/// Who acts on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The engine itself.
    Engine,
    /// The network stack that asks it.
    Network,
    /// The interface by which drivers reach it.
    Interface,
}

/// A question that Microsoft's documentation leaves open, and its possible answers.
#[derive(Debug)]
pub struct Question {
    pub(super) name: &'static str,
    pub(super) asks: &'static str,
    pub(super) source: &'static str,
    pub(super) part: Part,
    pub(super) settings: &'static [&'static str],
    pub(super) get: fn(&Options) -> Option<usize>,
    pub(super) set: fn(&mut Options, usize),
}

impl Question {
    /// Its name, that of the field of [`Options`].
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What is open, in a sentence or two.
    #[must_use]
    pub fn asks(&self) -> &'static str {
        self.asks.trim()
    }

    /// Microsoft's page that leaves it open or contradicts another, then the rows of
    /// the conformance suite that depend on it.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        self.source
    }

    /// Who acts on the answer.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// The names of the settings, the default first.
    #[must_use]
    pub const fn settings(&self) -> &'static [&'static str] {
        self.settings
    }

    /// The index of the default setting.
    pub const DEFAULT: usize = 0;

    /// The setting's index in [`settings`](Self::settings); `None` for a value that has no name.
    #[must_use]
    pub fn setting(&self, options: &Options) -> Option<usize> {
        (self.get)(options)
    }

    /// Chooses a setting by its index; nothing changes if there is none such.
    pub fn choose(&self, options: &mut Options, setting: usize) {
        (self.set)(options, setting);
    }

    /// The question of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        QUESTIONS.iter().find(|question| question.name == name)
    }

    /// Whether traffic can flow at all under every setting, so that a whole
    /// system can be run under each.
    ///
    /// No system of which we know drops what no filter decides about, and under
    /// that setting a filter would be needed at every layer for anything to pass.
    #[must_use]
    pub fn suits_a_system(&self) -> bool {
        self.name != "no_match"
    }
}

impl Options {
    /// The questions, in the order of the fields.
    #[must_use]
    pub fn questions() -> &'static [Question] {
        QUESTIONS
    }

    /// The default but for one question.
    #[must_use]
    pub fn with(question: &Question, setting: usize) -> Self {
        let mut options = Self::default();
        question.choose(&mut options, setting);
        options
    }
}
