//! What holds at boot: the table `boot`, and the rules that are to hold then.

use super::{Issue, Reader, Value, nearest, value};
use crate::model::{Boot, Policy, Rule};
use portcullis_proto::policy::{
    Action, MAX_BOOT_CONDITIONS, MAX_BOOT_RULES, interface_type, interfaces_of_type,
};
use toml::de::{DeTable, DeValue};

/// What only the driver can compare, by its key, and why.
const ONLY_THE_DRIVER: [(&str, &str); 6] = [
    (
        "operation",
        "it is about connections, both ways or by its `direction`",
    ),
    ("user", "the system's filters know no user by a SID alone"),
    ("children", "the system's filters know no process's parent"),
    ("host", "a host is only known from the connection's data"),
    (
        "content",
        "the system's filters do not look into a connection's data",
    ),
    (
        "content_hex",
        "the system's filters do not look into a connection's data",
    ),
];

impl Reader<'_> {
    /// The table `boot`.
    pub(super) fn boot(&mut self, found: &Value<'_>) -> Option<Boot> {
        let DeValue::Table(table) = found.get_ref() else {
            let issue = Issue::new("`boot` is not a table").hint("write `[boot]`");
            self.report(found.span(), issue);
            return None;
        };
        let mut boot = Boot {
            default: Action::Block,
            essential: true,
        };
        let mut has_default = false;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "default" => {
                    has_default = true;
                    if let Some(action) = self.one(value, "default", value::default) {
                        boot.default = action;
                    }
                }
                "essential" => {
                    boot.essential = self.switch(value, "essential").unwrap_or(boot.essential);
                }
                other => {
                    let issue = Issue::new(format!("`boot` has no `{other}`"));
                    let hint = nearest(other, ["default", "essential"]).map_or_else(
                        || "it has `default` and `essential`".to_owned(),
                        |name| format!("did you mean `{name}`?"),
                    );
                    self.report(key.span(), issue.hint(hint));
                }
            }
        }
        if !has_default {
            let issue = Issue::new("`boot` has no `default`")
                .hint("add `default = \"block\"`, or \"permit\": what happens at boot where no rule matches");
            self.report(found.span(), issue);
        }
        Some(boot)
    }

    /// Whether the rules that are to hold at boot can.
    pub(super) fn boot_rules(&mut self, policy: &Policy, document: &DeTable<'_>) {
        let Some(DeValue::Array(tables)) = document.get("rule").map(toml::Spanned::get_ref) else {
            return;
        };
        let tables = tables.iter().filter_map(|table| table.get_ref().as_table());
        let mut count = 0;
        for (rule, table) in policy.rules.iter().zip(tables) {
            if !rule.boot {
                continue;
            }
            count += 1;
            self.boot_rule(policy, rule, table);
            if count == MAX_BOOT_RULES + 1 {
                let issue = Issue::new(format!(
                    "at most {MAX_BOOT_RULES} rules can hold at boot, and this is one more"
                ));
                self.report_key(table, "boot", issue);
            }
        }
    }

    fn boot_rule(&mut self, policy: &Policy, rule: &Rule, table: &DeTable<'_>) {
        if policy.boot.is_none() {
            let issue = Issue::new("a rule is to hold at boot, and there is no table `boot`")
                .hint("begin the policy with `[boot]` and its `default`");
            self.report_key(table, "boot", issue);
        }
        for (key, reason) in ONLY_THE_DRIVER {
            if table.contains_key(key) {
                let issue = Issue::new(format!("a rule that holds at boot has no `{key}`"));
                self.report_key(table, key, issue.hint(reason));
            }
        }
        if rule.action == Action::Ask || !rule.effects.is_empty() {
            let issue = Issue::new("a rule that holds at boot permits or blocks, and nothing else")
                .hint("without the driver nobody asks, and nothing is changed or looked at");
            self.report_key(table, "boot", issue);
        }
        let inexact = rule
            .applications
            .iter()
            .any(|application| application.is_wildcard() || application.any_volume());
        if inexact {
            let issue = Issue::new("a rule that holds at boot names applications exactly").hint(
                r"write the path with its volume: '\device\harddiskvolume3\…'; the system's filters know neither drives nor wildcards",
            );
            self.report_key(table, "application", issue);
        } else if !rule.applications.is_empty()
            && rule.action == Action::Block
            && policy
                .boot
                .is_some_and(|boot| boot.default == Action::Permit)
        {
            let issue = Issue::new(
                "until the base filtering engine runs this rule does not hold: applications are not known before",
            );
            self.report_key(table, "application", issue.warning());
        }
        if !are_whole(rule.interfaces.as_slice()) {
            let issue = Issue::new("a rule that holds at boot names interfaces, or types of them")
                .hint("make several rules of it");
            self.report_key(table, "interface", issue);
        }
        let ranges = [
            &rule.protocols,
            &rule.local_ports,
            &rule.remote_ports,
            &rule.local_addresses,
            &rule.remote_addresses,
            &rule.interfaces,
        ];
        let conditions: usize = ranges
            .iter()
            .map(|ranges| ranges.as_slice().len())
            .sum::<usize>()
            + rule.applications.len();
        if conditions > MAX_BOOT_CONDITIONS {
            let issue = Issue::new(format!(
                "a rule that holds at boot has at most {MAX_BOOT_CONDITIONS} ranges and applications, and this has {conditions}"
            ));
            self.report_key(table, "boot", issue.hint("make several rules of it"));
        }
    }

    /// Reports at one key of a rule.
    fn report_key(&mut self, table: &DeTable<'_>, key: &str, issue: Issue) {
        let span = table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map_or(0..0, |(name, _)| name.span());
        self.report(span, issue);
    }
}

/// Whether these LUIDs are single interfaces, or all of some types: a filter has conditions on the one or on the other.
fn are_whole(luids: &[(u128, u128)]) -> bool {
    let is_one = |&(first, last): &(u128, u128)| first == last;
    let is_type = |&(first, last): &(u128, u128)| {
        let low = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let (first, last) = (low(first), low(last));
        interfaces_of_type(interface_type(first)).0 == first
            && interfaces_of_type(interface_type(last)).1 == last
    };
    luids.iter().all(is_one) || luids.iter().all(is_type)
}
