//! The verifier's rules.

use serde::Serialize;

use crate::commands::{BadInput, Ending, print_json};

/// A rule of the verifier, for JSON.
#[derive(Debug, Serialize)]
struct RuleEntry {
    name: &'static str,
    area: &'static str,
    severity: &'static str,
    text: &'static str,
    source: &'static str,
}

/// Lists the verifier's rules.
pub(super) fn list(json: bool) -> Result<Ending, BadInput> {
    let rules = || ksim::verifier::rules::all();
    if json {
        let entries: Vec<RuleEntry> = rules()
            .map(|rule| RuleEntry {
                name: rule.name,
                area: rule.area.name(),
                severity: rule.severity.name(),
                text: rule.text,
                source: rule.source,
            })
            .collect();
        print_json(&entries)?;
        return Ok(Ending::Clean);
    }
    let width = rules().map(|rule| rule.name.len()).max().unwrap_or(0);
    for rule in rules() {
        let (severity, name) = (rule.severity.name(), rule.name);
        let (text, source) = (rule.text, rule.source);
        say!("{severity:7}  {name:width$}  {text}  [{source}]");
    }
    Ok(Ending::Clean)
}
