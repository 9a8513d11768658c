//! That there is no report, and why.

use portcullis_policy::Diagnostic;
use serde::Serialize;

/// What stands in the place of a report that could not be made.
#[derive(Debug, Serialize)]
pub struct ErrorReport<'a> {
    /// Why, in words.
    pub error: String,
    /// What is wrong with the policy, where that is why.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub diagnostics: &'a [Diagnostic],
}
