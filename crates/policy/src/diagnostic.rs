//! What is wrong with a policy's text, and where.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// There is no compiled policy.
    Error,
    /// There is one, but it may not be what was meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// The file's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Offset in bytes of the first byte that the finding is about.
    pub start: usize,
    /// Offset of the byte after the last.
    pub end: usize,
    /// A word at the place itself.
    pub label: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    pub(crate) fn new(
        severity: Severity,
        message: String,
        file: &str,
        text: &str,
        span: Range<usize>,
    ) -> Self {
        let start = floor(text, span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            severity,
            message,
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            start,
            end: floor(text, span.end.max(start)),
            label: None,
            hint: None,
        }
    }
}

/// The last boundary between characters up to `offset`.
fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len()))
        .rev()
        .find(|&offset| text.is_char_boundary(offset))
        .unwrap_or(0)
}

impl std::fmt::Display for Diagnostic {
    /// One line: `file:line:column: error: message; hint`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{}:{}:{}: {severity}: {}",
            self.file, self.line, self.column, self.message
        )?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

/// Renders findings for people: each with its source line, a caret and its hint. `color` uses terminal colors.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], text: &str, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut output = String::new();
    for found in diagnostics {
        let level = match found.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut annotation = AnnotationKind::Primary.span(found.start..found.end);
        if let Some(label) = &found.label {
            annotation = annotation.label(label);
        }
        let snippet = Snippet::source(text)
            .path(&found.file)
            .annotation(annotation);
        let mut group = level.primary_title(&found.message).element(snippet);
        if let Some(hint) = &found.hint {
            group = group.element(Level::HELP.message(hint));
        }
        output.push_str(&renderer.render(&[group]));
        output.push_str("\n\n");
    }
    output.truncate(output.trim_end().len());
    output
}
