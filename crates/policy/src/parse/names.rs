//! Hints for keys that don't exist: the names that other firewalls' rules have, and misspellings.

use super::{Issue, nearest};

const RULE_KEYS: [&str; 38] = [
    "name",
    "action",
    "operation",
    "direction",
    "protocol",
    "local_address",
    "remote_address",
    "local_port",
    "remote_port",
    "interface",
    "interface_type",
    "application",
    "children",
    "user",
    "host",
    "content",
    "content_hex",
    "boot",
    "log",
    "ask_seconds",
    "ask_default",
    "redirect",
    "redirect_default",
    "bind",
    "replace",
    "http_header",
    "dscp",
    "ttl",
    "translate",
    "rate",
    "burst",
    "queue",
    "rate_per",
    "delay",
    "jitter",
    "loss",
    "mirror",
    "inspect",
];

/// What other tools call it, in lower case without `_` and `-`, and our key.
const OTHER_NAMES: [(&str, &str); 67] = [
    ("displayname", "name"),
    ("rulename", "name"),
    ("title", "name"),
    ("verdict", "action"),
    ("policy", "action"),
    ("target", "action"),
    ("layer", "operation"),
    ("hook", "operation"),
    ("operations", "operation"),
    ("dir", "direction"),
    ("way", "direction"),
    ("proto", "protocol"),
    ("protocols", "protocol"),
    ("localip", "local_address"),
    ("localaddr", "local_address"),
    ("localaddresses", "local_address"),
    ("localsubnet", "local_address"),
    ("remoteip", "remote_address"),
    ("remoteaddr", "remote_address"),
    ("remoteaddresses", "remote_address"),
    ("remotesubnet", "remote_address"),
    ("ip", "remote_address"),
    ("address", "remote_address"),
    ("addresses", "remote_address"),
    ("destination", "remote_address"),
    ("dst", "remote_address"),
    ("dstip", "remote_address"),
    ("lport", "local_port"),
    ("localports", "local_port"),
    ("rport", "remote_port"),
    ("remoteports", "remote_port"),
    ("dport", "remote_port"),
    ("dstport", "remote_port"),
    ("destinationport", "remote_port"),
    ("interfacealias", "interface"),
    ("interfaces", "interface"),
    ("adapter", "interface"),
    ("nic", "interface"),
    ("oif", "interface"),
    ("interfacetypes", "interface_type"),
    ("iftype", "interface_type"),
    ("program", "application"),
    ("app", "application"),
    ("apps", "application"),
    ("applications", "application"),
    ("path", "application"),
    ("exe", "application"),
    ("image", "application"),
    ("process", "application"),
    ("localuser", "user"),
    ("users", "user"),
    ("sid", "user"),
    ("owner", "user"),
    ("hosts", "host"),
    ("hostname", "host"),
    ("domain", "host"),
    ("fqdn", "host"),
    ("sni", "host"),
    ("contains", "content"),
    ("contents", "content"),
    ("payload", "content"),
    ("string", "content"),
    ("hexstring", "content_hex"),
    ("persistent", "boot"),
    ("boottime", "boot"),
    ("static", "boot"),
    ("logging", "log"),
];

/// Keys of other tools for which there is nothing here, and what to do instead.
const UNSUPPORTED: [(&str, &str); 13] = [
    (
        "port",
        "write `remote_port` for the other side's port, `local_port` for this machine's",
    ),
    (
        "ports",
        "write `remote_port` for the other side's port, `local_port` for this machine's",
    ),
    (
        "source",
        "write `remote_address` in inbound rules, `local_address` in outbound ones",
    ),
    (
        "src",
        "write `remote_address` in inbound rules, `local_address` in outbound ones",
    ),
    (
        "srcip",
        "write `remote_address` in inbound rules, `local_address` in outbound ones",
    ),
    (
        "sport",
        "write `remote_port` in inbound rules, `local_port` in outbound ones",
    ),
    (
        "srcport",
        "write `remote_port` in inbound rules, `local_port` in outbound ones",
    ),
    (
        "sourceport",
        "write `remote_port` in inbound rules, `local_port` in outbound ones",
    ),
    (
        "enabled",
        "put a # before each line of a rule that is not to count",
    ),
    (
        "enable",
        "put a # before each line of a rule that is not to count",
    ),
    ("service", "write the service's program as `application`"),
    (
        "profile",
        "rules count for all network profiles: Windows does not document the numbers by which its filters know them; write `interface` or `interface_type`",
    ),
    (
        "interfaceindex",
        "an interface's index changes: write its name, or its LUID, as `interface`",
    ),
];

fn plain(key: &str) -> String {
    key.chars()
        .filter(|letter| !matches!(letter, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Our key that another tool, or another spelling, calls so.
fn instead(key: &str) -> Option<&'static str> {
    let key = plain(key);
    let same = RULE_KEYS.iter().copied().find(|name| plain(name) == key);
    same.or_else(|| {
        OTHER_NAMES
            .iter()
            .find(|(other, _)| *other == key)
            .map(|(_, name)| *name)
    })
}

/// A rule's key. For one that doesn't exist also what is wrong with it, and the key that was meant, if that is clear.
pub(super) fn in_rule(key: &str) -> (Option<&'static str>, Option<Issue>) {
    if let Some(name) = RULE_KEYS.iter().copied().find(|name| *name == key) {
        return (Some(name), None);
    }
    let issue = Issue::new(format!("a rule has no `{key}`"));
    let unsupported = UNSUPPORTED.iter().find(|(other, _)| *other == plain(key));
    if let Some((_, advice)) = unsupported {
        (None, Some(issue.hint(*advice)))
    } else if let Some(name) = instead(key) {
        (Some(name), Some(issue.hint(format!("write `{name}`"))))
    } else if let Some(name) = nearest(key, RULE_KEYS) {
        (
            Some(name),
            Some(issue.hint(format!("did you mean `{name}`?"))),
        )
    } else if key == "default" {
        (
            None,
            Some(issue.hint("write `default` before the first `[[rule]]`")),
        )
    } else {
        let names = RULE_KEYS.map(|name| format!("`{name}`")).join(", ");
        (None, Some(issue.hint(format!("a rule has {names}"))))
    }
}

/// A key outside of rules that doesn't exist.
pub(super) fn unknown_top_level(key: &str) -> Issue {
    let issue = Issue::new(format!("a policy has no `{key}`"));
    if let Some(name) = nearest(key, ["default", "observe", "rule", "boot"]) {
        issue.hint(match name {
            "rule" => "write `[[rule]]` before each rule".to_owned(),
            "boot" => "write `[boot]` before what holds at boot".to_owned(),
            _ => format!("did you mean `{name}`?"),
        })
    } else if instead(key).is_some() {
        issue.hint("write `[[rule]]` before it")
    } else {
        issue.hint(
            "a policy has `default`, `observe`, any number of `[[rule]]`, and perhaps `[boot]`",
        )
    }
}
