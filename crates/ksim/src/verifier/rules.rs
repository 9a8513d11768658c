//! Every rule, as data, an area a file.
//!
//! A rule is added with one entry in its area's file and a `call.violation(&RULE, …)` where it is checked:
//!
//! ```ignore
//! rules! {
//!     Area::Pool;
//!
//!     /// A block was freed with another tag.
//!     POOL_TAG = Error, "pool-tag", "pool is freed with the tag it was allocated with", "ExFreePoolWithTag";
//! }
//! ```

mod classify;
mod flow;
mod injection;
mod irql;
mod kmdf;
mod lock;
mod object;
mod pend;
mod pool;
mod request;
mod stop;

pub use classify::*;
pub use flow::*;
pub use injection::*;
pub use irql::*;
pub use kmdf::*;
pub use lock::*;
pub use object::*;
pub use pend::*;
pub use pool::*;
pub use request::*;
pub use stop::*;

/// How bad a breach is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It works, and the documents advise against it.
    Warning,
    /// The documents forbid it: Driver Verifier stops the machine, or what follows is undefined.
    Error,
    /// Windows stops the machine, or its memory is corrupt.
    Fatal,
}

impl Severity {
    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// At which IRQL what may be done.
    Irql,
    /// Pool memory.
    Pool,
    /// Spin locks, mutexes and their like.
    Lock,
    /// What is made and given back.
    Object,
    /// What a classify function returns and does.
    Classify,
    /// Net buffer lists and their injection.
    Injection,
    /// Pended operations.
    Pend,
    /// Flow contexts.
    Flow,
    /// I/O requests of drivers without a framework.
    Request,
    /// The Kernel-Mode Driver Framework.
    Kmdf,
    /// What ends the machine.
    Stop,
}

impl Area {
    /// Its name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Irql => "irql",
            Self::Pool => "pool",
            Self::Lock => "lock",
            Self::Object => "object",
            Self::Classify => "classify",
            Self::Injection => "injection",
            Self::Pend => "pend",
            Self::Flow => "flow",
            Self::Request => "request",
            Self::Kmdf => "kmdf",
            Self::Stop => "stop",
        }
    }
}

/// One thing that is checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// A short stable name, `area-subject`.
    pub name: &'static str,
    /// What it is about.
    pub area: Area,
    /// How bad a breach is.
    pub severity: Severity,
    /// What must hold.
    pub text: &'static str,
    /// Where that is written: a DDI page or a bug check.
    pub source: &'static str,
}

/// Every rule, area by area.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [
        irql::RULES,
        pool::RULES,
        lock::RULES,
        object::RULES,
        classify::RULES,
        injection::RULES,
        pend::RULES,
        flow::RULES,
        request::RULES,
        kmdf::RULES,
        stop::RULES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Declares the rules of an area; see the [module's documentation](self).
macro_rules! rules {
    ($area:expr; $($(#[$meta:meta])* $id:ident = $severity:ident, $name:literal, $text:literal, $source:literal;)*) => {
        $(
            $(#[$meta])*
            pub const $id: $crate::verifier::Rule = $crate::verifier::Rule {
                name: $name,
                area: $area,
                severity: $crate::verifier::Severity::$severity,
                text: $text,
                source: $source,
            };
        )*
        /// The rules of this area.
        pub(super) const RULES: &[&$crate::verifier::Rule] = &[$(&$id),*];
    };
}
pub(crate) use rules;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own_a_text_and_a_source() {
        let mut names = std::collections::HashSet::new();
        for rule in all() {
            assert!(names.insert(rule.name), "{} twice", rule.name);
            assert!(!rule.text.is_empty() && !rule.source.is_empty(), "{rule:?}");
            let spelled = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(rule.name.bytes().all(spelled), "{}", rule.name);
        }
    }
}
