//! Finding literals in a flow's data.

use super::decide::RuleIndex;
use super::matching::Facts;
use super::view::PolicyView;
use crate::connection::Connection;
use portcullis_proto::policy::{ContentStateRecord, MAX_CONTENT, NO_BASE};

/// How much of some literal the data seen so far ends with: a state of the policy's automaton.
///
/// It belongs to one policy and one direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentState(u32);

impl ContentState {
    /// Nothing was seen yet.
    pub const START: Self = Self(0);
}

/// A literal of a rule that matches was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentMatch {
    /// The rule: the first of those that look for the literal.
    pub rule: RuleIndex,
    /// The literal, by its place in the policy.
    pub content: u32,
    /// The rule wants its matches to be logged.
    pub log: bool,
}

impl PolicyView<'_> {
    /// Looks on, in bytes that follow those after which `state` was left, for a literal of a rule before `limit` that
    /// matches the connection. The literal that ends first counts; of those that end there, the longest. Returns it,
    /// and the bytes after it, which `state` has not seen.
    ///
    /// For each byte it takes at most one step on, and over all bytes no more steps back than on; at each end of a
    /// literal it tries the rules that look for it.
    #[must_use]
    pub fn find_content<'b>(
        &self,
        state: &mut ContentState,
        bytes: &'b [u8],
        connection: &Connection<'_>,
        limit: Option<RuleIndex>,
    ) -> (Option<ContentMatch>, &'b [u8]) {
        let limit = limit.map_or(u32::MAX, |rule| rule.0);
        let mut facts = Facts::new(connection);
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            state.0 = self.content_step(state.0, byte);
            let Some(record) = self.content_state(state.0) else {
                continue;
            };
            if record.content.get() == 0 && record.link.get() == 0 {
                continue;
            }
            let found = self.content_match(*record, limit, &mut facts);
            if found.is_some() {
                return (found, rest);
            }
        }
        (None, rest)
    }

    /// How many of the bytes before a state some literal begins with.
    #[must_use]
    pub fn content_depth(&self, state: ContentState) -> u8 {
        self.content_state(state.0).map_or(0, |record| record.depth)
    }

    fn content_state(&self, state: u32) -> Option<&ContentStateRecord> {
        self.content_states.get(state as usize)
    }

    /// The state after a byte.
    fn content_step(&self, mut state: u32, byte: u8) -> u32 {
        // A state's depth bounds how often it can fail.
        for _ in 0..=MAX_CONTENT {
            let Some(record) = self.content_state(state) else {
                return 0;
            };
            let base = record.base.get();
            let next = base ^ u32::from(byte);
            let is_next =
                |next: &ContentStateRecord| next.byte == byte && next.depth > 0 && base != NO_BASE;
            if self.content_state(next).is_some_and(is_next) {
                return next;
            }
            if state == 0 {
                return 0;
            }
            state = record.fail.get();
        }
        0
    }

    /// The first rule that matches of those that look for what ends in a state.
    fn content_match(
        &self,
        mut record: ContentStateRecord,
        limit: u32,
        facts: &mut Facts<'_>,
    ) -> Option<ContentMatch> {
        // Each link leads to a shallower state.
        for _ in 0..=MAX_CONTENT {
            let content = record.content.get().wrapping_sub(1);
            if let Some(rules) = self.contents.get(content as usize) {
                let mut rules = self
                    .listed(self.rule_list(rules.first, rules.count))
                    .take_while(|(rule, _)| *rule < limit);
                if let Some((rule, found)) = rules.find(|(_, rule)| self.matches(rule, facts)) {
                    return Some(ContentMatch {
                        rule: RuleIndex(rule),
                        content,
                        log: super::decide::is_logged(found),
                    });
                }
            }
            match record.link.get() {
                0 => return None,
                link => record = *self.content_state(link)?,
            }
        }
        None
    }
}
