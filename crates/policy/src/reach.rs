//! Rules that can never decide anything.

use crate::diagnostic::Diagnostic;
use crate::model::Policy;
use crate::parse::Places;

/// Warns of each rule that an earlier single rule covers. Each rule is compared with all before it.
pub(crate) fn unreachable(policy: &Policy, places: &Places<'_>) -> Vec<Diagnostic> {
    let covered = policy.rules.iter().enumerate().filter_map(|(place, rule)| {
        let by = policy.rules[..place]
            .iter()
            .position(|earlier| earlier.covers(rule))?;
        Some(places.unreachable(
            place,
            by,
            &policy.rules[by].name,
            policy.rules[by].action == rule.action,
        ))
    });
    covered.collect()
}
