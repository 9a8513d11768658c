//! From text to rules, with every complaint on the way.

mod application;
mod boot;
mod effect_value;
mod effects;
mod interface;
mod names;
mod value;

use crate::diagnostic::{Diagnostic, Severity};
use crate::encode::EncodeError;
use crate::interface::Interfaces;
use crate::model::{Policy, Rule};
use crate::ranges::Ranges;
use portcullis_proto::event::Operation;
use portcullis_proto::policy::{Action, Direction};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a value; where is known by who asked for it.
pub(crate) struct Issue {
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Issue {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The value is taken all the same.
    pub(crate) const fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

type Value<'t> = Spanned<DeValue<'t>>;

/// Where the rules are, for what is found out later.
pub(crate) struct Places<'t> {
    file: &'t str,
    text: &'t str,
    rules: Vec<Range<usize>>,
}

impl Places<'_> {
    fn at(&self, severity: Severity, message: String, span: Range<usize>) -> Diagnostic {
        Diagnostic::new(severity, message, self.file, self.text, span)
    }

    pub(crate) fn unreachable(
        &self,
        rule: usize,
        by: usize,
        name: &str,
        is_same: bool,
    ) -> Diagnostic {
        let message = format!(
            "this rule never decides: \"{name}\" before it matches everything that it matches"
        );
        let hint = if is_same {
            "leave it out"
        } else {
            "move it before that rule, or leave it out"
        };
        let line = self.line_of(by);
        let mut found = self.at(Severity::Warning, message, self.rules[rule].clone());
        found.hint = Some(format!("{hint}; \"{name}\" is at line {line}"));
        found
    }

    /// The line at which a rule begins.
    fn line_of(&self, rule: usize) -> usize {
        self.text[..self.rules[rule].start].matches('\n').count() + 1
    }

    pub(crate) fn encode_error(&self, error: &EncodeError) -> Diagnostic {
        let span = match error {
            EncodeError::List(rule, _)
            | EncodeError::Pattern(rule)
            | EncodeError::Content(rule)
            | EncodeError::Effect(rule)
            | EncodeError::Limits(rule) => self.rules[*rule].clone(),
            _ => 0..0,
        };
        self.at(Severity::Error, error.to_string(), span)
    }
}

/// Reads a policy. Where something is wrong the policy lacks it, and a diagnostic says so.
pub(crate) fn parse<'t>(
    text: &'t str,
    file: &'t str,
    interfaces: &'t Interfaces,
) -> (Policy, Places<'t>, Vec<Diagnostic>) {
    let mut reader = Reader {
        places: Places {
            file,
            text,
            rules: Vec::new(),
        },
        found: Vec::new(),
        interfaces,
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.syntax(error);
    }
    let is_complete = errors.is_empty();
    let policy = reader.policy(document.get_ref(), is_complete);
    (policy, reader.places, reader.found)
}

struct Reader<'t> {
    places: Places<'t>,
    found: Vec<Diagnostic>,
    /// The interfaces that a name may stand for.
    interfaces: &'t Interfaces,
}

impl Reader<'_> {
    fn syntax(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let mut found = self
            .places
            .at(Severity::Error, error.message().to_owned(), span);
        let line = self
            .places
            .text
            .lines()
            .nth(found.line - 1)
            .unwrap_or_default();
        if line.contains('\\') && line.contains('"') {
            found.hint = Some(
                r"write paths in single quotes, where a backslash is itself: 'C:\…'".to_owned(),
            );
        }
        self.found.push(found);
    }

    fn report(&mut self, span: Range<usize>, issue: Issue) {
        let mut found = self.places.at(issue.severity, issue.message, span);
        found.hint = issue.hint;
        self.found.push(found);
    }

    fn policy(&mut self, document: &DeTable<'_>, is_complete: bool) -> Policy {
        let mut policy = Policy::new(Action::Block);
        let mut has_default = false;
        for (key, value) in document {
            match key.get_ref().as_ref() {
                "default" => {
                    has_default = true;
                    if let Some(action) = self.one(value, "default", value::default) {
                        policy.default = action;
                    }
                }
                "observe" => match value.get_ref() {
                    DeValue::Boolean(observe) => policy.observe = *observe,
                    other => {
                        self.report(
                            value.span(),
                            wrong_type("observe", "`true` or `false`", other),
                        );
                    }
                },
                "rule" => policy.rules = self.rules(value),
                "boot" => policy.boot = self.boot(value),
                other => self.report(key.span(), names::unknown_top_level(other)),
            }
        }
        if !has_default && is_complete {
            let issue = Issue::new("`default` is missing")
                .hint("begin with `default = \"block\"`, or \"permit\": what happens where no rule matches");
            self.report(0..0, issue);
        }
        self.boot_rules(&policy, document);
        self.interfaces_before_redirects(&policy, document);
        policy
    }

    fn rules(&mut self, value: &Value<'_>) -> Vec<Rule> {
        let DeValue::Array(rules) = value.get_ref() else {
            self.report(
                value.span(),
                Issue::new("`rule` is not a list of rules")
                    .hint("write `[[rule]]` before each rule"),
            );
            return Vec::new();
        };
        let mut names = HashMap::new();
        let mut read = Vec::with_capacity(rules.len());
        for value in rules {
            let DeValue::Table(table) = value.get_ref() else {
                self.report(
                    value.span(),
                    Issue::new("this is not a rule").hint("write `[[rule]]` before each rule"),
                );
                continue;
            };
            let number = read.len() + 1;
            self.places.rules.push(value.span());
            let rule = self.rule(table, value.span(), number);
            if let Some(before) = names.insert(rule.name.clone(), number) {
                let issue = Issue::new(format!("rule {before} is called \"{}\" too", rule.name));
                self.report(
                    value.span(),
                    issue
                        .hint("reports tell rules apart by their names")
                        .warning(),
                );
            }
            read.push(rule);
        }
        read
    }

    fn rule(&mut self, table: &DeTable<'_>, span: Range<usize>, number: usize) -> Rule {
        let mut rule = Rule::new(format!("rule {number}"), Action::Block);
        let mut has_action = false;
        let mut effects = effects::Written::default();
        let (mut named, mut of_types) = (None, None);
        for (key, value) in table {
            let (name, issue) = names::in_rule(key.get_ref());
            if let Some(issue) = issue {
                self.report(key.span(), issue);
            }
            // A key that is clearly meant counts, so that its value is checked too.
            let Some(name) = name else { continue };
            if self.effect(&mut effects, name, key.span(), value) {
                continue;
            }
            match name {
                "name" => {
                    rule.name = self
                        .one(value, name, |text| Ok(text.to_owned()))
                        .unwrap_or(rule.name);
                }
                "action" => {
                    has_action = true;
                    rule.action = self.one(value, name, value::action).unwrap_or(rule.action);
                }
                "operation" => rule.operations = self.many(value, name, value::operation),
                "direction" => rule.direction = self.one(value, name, value::direction),
                "protocol" => rule.protocols = self.ranges(value, name, value::protocol),
                "local_address" => rule.local_addresses = self.addresses(value, name),
                "remote_address" => rule.remote_addresses = self.addresses(value, name),
                "local_port" => rule.local_ports = self.ranges(value, name, value::port),
                "remote_port" => rule.remote_ports = self.ranges(value, name, value::port),
                "interface" => {
                    let known = self.interfaces;
                    let luids = self.ranges(value, name, |text| interface::named(text, known));
                    named = Some((luids, key.span()));
                }
                "interface_type" => {
                    let luids = self.many(value, name, interface::of_type);
                    of_types = Some((Ranges::new(luids.into_iter().flatten()), key.span()));
                }
                "application" => rule.applications = self.many(value, name, application::pattern),
                "user" => rule.users = self.many(value, name, value::user),
                "host" => rule.hosts = self.many(value, name, value::host),
                "content" => {
                    let contents = self.many(value, name, value::content);
                    rule.contents.extend(contents);
                }
                "content_hex" => {
                    let contents = self.many(value, name, value::content_hex);
                    rule.contents.extend(contents);
                }
                "boot" => rule.boot = self.switch(value, name).unwrap_or_default(),
                "children" => rule.children = self.switch(value, name).unwrap_or_default(),
                _ => rule.log = self.switch(value, name).unwrap_or_default(),
            }
        }
        if !has_action {
            let issue = Issue::new(format!("\"{}\" has no `action`", rule.name));
            self.report(
                span.clone(),
                issue.hint("add `action = \"permit\"`, `\"block\"` or `\"ask\"`"),
            );
        }
        self.interface(&mut rule, named, of_types);
        self.together(&mut rule, table, &span);
        let action = table.iter().find(|(key, _)| key.get_ref() == "action");
        let place = action.map_or_else(|| span.clone(), |(key, _)| key.span());
        self.effects(effects, &mut rule, place);
        self.about(&rule, table, &span);
        rule
    }

    /// What conditions mean for each other.
    fn together(&mut self, rule: &mut Rule, table: &DeTable<'_>, span: &Range<usize>) {
        let place = |name: &str| {
            let mut keys = table.iter().filter(|(key, _)| key.get_ref() == name);
            keys.next()
                .map_or_else(|| span.clone(), |(key, _)| key.span())
        };
        let has_ports = !rule.local_ports.is_any() || !rule.remote_ports.is_any();
        let has_content = ["content", "content_hex"]
            .iter()
            .any(|key| table.contains_key(*key));
        if (has_ports || has_content) && !table.contains_key("protocol") {
            rule.protocols = value::with_ports();
        } else if (has_ports || has_content)
            && !rule.protocols.is_any()
            && !value::with_ports().covers(&rule.protocols)
        {
            let what = if has_ports { "ports" } else { "contents" };
            let issue = Issue::new(format!("{what} go with TCP and UDP only"))
                .hint("leave other protocols to a rule of their own");
            self.report(place("protocol"), issue);
        }
        if rule.children && rule.applications.is_empty() {
            let issue = Issue::new("`children` are those of an application")
                .hint("write which as `application`, or leave it out");
            self.report(place("children"), issue);
        }
        if !rule.contents.is_empty() && rule.action != Action::Block {
            let issue = Issue::new("a rule with contents can only block")
                .hint("what was sent before a literal is found has passed already");
            self.report(place("action"), issue);
        }
        if has_content && table.contains_key("host") {
            let issue = Issue::new("a rule has either hosts or contents")
                .hint("permit other hosts in a rule before this one");
            self.report(place("host"), issue);
        }
        if !rule.hosts.is_empty()
            && !rule.protocols.is_any()
            && !value::with_ports()
                .as_slice()
                .iter()
                .any(|&span| rule.protocols.meets(span))
        {
            let issue =
                Issue::new("this rule never matches: only TCP and UDP name a host").warning();
            self.report(place("host"), issue);
        }
        let family = |ranges: &Ranges| {
            let v4 = value::covers_v4(ranges);
            let v6 = value::covers_v6(ranges);
            (v4, v6)
        };
        let (local, remote) = (
            family(&rule.local_addresses),
            family(&rule.remote_addresses),
        );
        if !(local.0 && remote.0 || local.1 && remote.1) {
            let issue =
                Issue::new("this rule never matches: one address is IPv4 and the other IPv6")
                    .warning();
            self.report(place("remote_address"), issue);
        }
    }

    /// Conditions that make no sense for what the rule is about.
    fn about(&mut self, rule: &Rule, table: &DeTable<'_>, span: &Range<usize>) {
        use Operation::{Accept, Bind, Connect, Forward, IcmpError, Listen};

        let without: [(Operation, &[&str], &str); 3] = [
            (
                Bind,
                &[
                    "direction",
                    "remote_address",
                    "remote_port",
                    "host",
                    "content",
                    "content_hex",
                ],
                "a socket that is bound has no other side yet",
            ),
            (
                Forward,
                &[
                    "direction",
                    "application",
                    "user",
                    "host",
                    "content",
                    "content_hex",
                ],
                "a forwarded packet is no program's of this machine; local is where it comes from, remote where it goes",
            ),
            (
                IcmpError,
                &[
                    "application",
                    "user",
                    "host",
                    "content",
                    "content_hex",
                    "local_port",
                    "remote_port",
                ],
                "an ICMP error is known by its ends and its protocol, \"icmp\" or \"icmpv6\"",
            ),
        ];
        for (operation, keys, reason) in without {
            if !rule.operations.contains(&operation) {
                continue;
            }
            if rule.action == Action::Ask || !rule.effects.is_empty() {
                let message = format!("a rule about {operation} can only permit or block");
                self.report(
                    span.clone(),
                    Issue::new(message).hint("leave effects to a rule of their own"),
                );
            }
            for (key, _) in table {
                let name: &str = key.get_ref();
                if keys.contains(&name) {
                    let message = format!("a rule about {operation} has no `{name}`");
                    self.report(key.span(), Issue::new(message).hint(reason));
                }
            }
        }
        let never = match rule.direction {
            Some(Direction::Inbound) => [Connect].as_slice(),
            Some(Direction::Outbound) => &[Accept, Listen],
            None => &[],
        };
        if !rule.operations.is_empty() && rule.operations.iter().all(|one| never.contains(one)) {
            for (key, _) in table.iter().filter(|(key, _)| key.get_ref() == "direction") {
                let issue =
                    Issue::new("this rule never matches: its operation has the other direction");
                self.report(key.span(), issue.warning());
            }
        }
    }

    /// A value that is `true` or `false`.
    fn switch(&mut self, value: &Value<'_>, name: &str) -> Option<bool> {
        if let DeValue::Boolean(switch) = value.get_ref() {
            return Some(*switch);
        }
        let issue = wrong_type(name, "`true` or `false`", value.get_ref());
        self.report(value.span(), issue);
        None
    }

    /// A value that is one string.
    fn one<T>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, Issue>,
    ) -> Option<T> {
        let result = match value.get_ref() {
            DeValue::String(text) => read(text),
            DeValue::Array(list) if list.len() == 1 => {
                Err(Issue::new(format!("`{name}` is one value, not a list"))
                    .hint("leave out the brackets"))
            }
            other => Err(wrong_type(name, "one string", other)),
        };
        result
            .map_err(|issue| self.report(value.span(), issue))
            .ok()
    }

    /// A value that is a string, a number, or a list of these.
    fn many<T>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        read: impl Fn(&str) -> Result<T, Issue>,
    ) -> Vec<T> {
        self.many_or_warn(value, name, |text| read(text).map(|value| (value, None)))
    }

    fn many_or_warn<T>(
        &mut self,
        value: &Value<'_>,
        name: &str,
        read: impl Fn(&str) -> Result<(T, Option<Issue>), Issue>,
    ) -> Vec<T> {
        let elements = match value.get_ref() {
            DeValue::Array(list) if list.is_empty() => {
                let issue = Issue::new(format!("`{name}` is an empty list"))
                    .hint("leave it out to match everything");
                self.report(value.span(), issue);
                return Vec::new();
            }
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        };
        let mut values = Vec::with_capacity(elements.len());
        for element in elements {
            let text: Option<Cow<'_, str>> = match element.get_ref() {
                DeValue::String(text) => Some(Cow::Borrowed(text)),
                DeValue::Integer(number) if number.radix() == 10 => {
                    Some(Cow::Borrowed(number.as_str()))
                }
                _ => None,
            };
            match text.map_or_else(
                || Err(wrong_type(name, "a string or a list", element.get_ref())),
                |text| read(&text),
            ) {
                Ok((value, issue)) => {
                    values.push(value);
                    if let Some(issue) = issue {
                        self.report(element.span(), issue);
                    }
                }
                Err(issue) => self.report(element.span(), issue),
            }
        }
        values
    }

    fn ranges(
        &mut self,
        value: &Value<'_>,
        name: &str,
        read: impl Fn(&str) -> Result<(u128, u128), Issue>,
    ) -> Ranges {
        Ranges::new(self.many(value, name, read))
    }

    fn addresses(&mut self, value: &Value<'_>, name: &str) -> Ranges {
        Ranges::new(
            self.many_or_warn(value, name, value::address)
                .into_iter()
                .flatten(),
        )
    }
}

fn wrong_type(name: &str, wanted: &str, found: &DeValue<'_>) -> Issue {
    Issue::new(format!(
        "`{name}` is to be {wanted}, not of type {}",
        found.type_str()
    ))
}

/// The direction's or action's name nearest to what was written.
fn nearest<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let written = written.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The direction named so.
const fn direction(name: &str) -> Option<Direction> {
    match name.as_bytes() {
        b"outbound" => Some(Direction::Outbound),
        b"inbound" => Some(Direction::Inbound),
        _ => None,
    }
}
