//! What the verifier found, as data and in words.

use super::Severity;

/// A breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What happened.
    pub message: String,
    /// The function that the driver called, where there is one.
    pub call: Option<&'static str>,
    /// The function of the driver's that the kernel had called, where what it did or returned is the breach.
    pub callback: Option<&'static str>,
    /// What that function called last.
    pub last_call: Option<&'static str>,
    /// What the function that was called was given: names and values.
    pub arguments: Vec<(&'static str, String)>,
    /// The file name of the driver's image, where the driver is known.
    pub driver: Option<String>,
    /// Where in the driver: `module+offset`. The call, or where the callback begins.
    pub site: Option<String>,
    /// The places in drivers from which the call came, innermost first; the first is `site`. For a callback that has
    /// returned: its last call, if it made one, and where it begins.
    pub stack: Vec<String>,
    /// The processor.
    pub processor: u32,
    /// Its IRQL.
    pub irql: u8,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)?;
        if let Some(call) = self.call {
            write!(f, ", in {call}(")?;
            for (index, (name, value)) in self.arguments.iter().enumerate() {
                let separator = if index == 0 { "" } else { ", " };
                write!(f, "{separator}{name}: {value}")?;
            }
            write!(f, ")")?;
        }
        if let Some(site) = &self.site {
            match (self.call, self.callback) {
                (None, Some(callback)) => write!(f, ", by {callback} at {site}")?,
                _ => write!(f, ", called from {site}")?,
            }
        }
        if let Some(last) = self.last_call {
            write!(f, ", which called {last} last")?;
        }
        write!(f, " (processor {}, IRQL {})", self.processor, self.irql)?;
        for place in &self.stack {
            write!(f, "\n  at {place}")?;
        }
        Ok(())
    }
}

/// What was not given back, summed over one kind, tag and call site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// What kind of thing: `pool`, `callout`, `injection handle`, …
    pub kind: &'static str,
    /// Its pool tag or name, where it has one.
    pub name: String,
    /// Where in the driver it was made.
    pub site: String,
    /// How many.
    pub count: usize,
    /// How many bytes, for memory.
    pub bytes: usize,
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} × {} {}", self.count, self.kind, self.name)?;
        if self.bytes > 0 {
            write!(f, " ({} bytes)", self.bytes)?;
        }
        write!(f, ", made at {}", self.site)
    }
}

/// The verifier's verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which they happened.
    pub violations: Vec<Violation>,
    /// What is left now.
    pub leaks: Vec<Leak>,
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.leaks.is_empty()
    }
}
