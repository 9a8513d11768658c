//! What is wrong, and what was probably meant.

use crate::{compiled, complaint, found, with_rule};

#[test]
fn a_rule_has_either_hosts_or_contents() {
    let text = "default = \"permit\"\n[[rule]]\naction = \"block\"\ncontent = \"x\"\nhost = \"example.com\"";
    let messages: Vec<_> = found(text).into_iter().map(|found| found.message).collect();
    assert_eq!(messages, ["a rule has either hosts or contents"]);
    let permits = "default = \"block\"\n[[rule]]\naction = \"permit\"\ncontent = \"x\"";
    let messages: Vec<_> = found(permits)
        .into_iter()
        .map(|found| found.message)
        .collect();
    assert_eq!(messages, ["a rule with contents can only block"]);
    let long = format!(
        "default = \"permit\"\n[[rule]]\naction = \"block\"\ncontent = \"{}\"",
        "x".repeat(256)
    );
    let messages: Vec<_> = found(&long)
        .into_iter()
        .map(|found| found.message)
        .collect();
    assert_eq!(
        messages,
        ["256 bytes to look for, and at most 255 are possible"]
    );
}

#[test]
fn all_errors_come_at_once_in_their_order_with_line_and_column() {
    let text = "default = \"blok\"\n[[rule]]\nactoin = \"permit\"\nremote_port = [80, 70000]\n[[rule]]\nname = \"ü\"\naction = \"block\"\nhost = [\"ok.example\", \"not ok\"]\n";
    let places: Vec<_> = found(text)
        .iter()
        .map(|found| (found.line, found.column))
        .collect();
    assert_eq!(places, [(1, 11), (3, 1), (4, 20), (8, 23)]);
}

#[test]
fn a_misspelled_key_is_named_and_its_value_checked_all_the_same() {
    let found = found(&with_rule("protocl = \"tpc\""));
    assert_eq!(found[0].hint.as_deref(), Some("did you mean `protocol`?"));
    assert_eq!(found[1].hint.as_deref(), Some("did you mean \"tcp\"?"));
}

#[test]
fn the_names_of_other_firewalls_lead_to_ours() {
    for (theirs, ours) in [
        ("program = 'C:\\x.exe'", "application"),
        ("RemotePort = 80", "remote_port"),
        ("remoteip = \"10.0.0.1\"", "remote_address"),
        ("dir = \"inbound\"", "direction"),
        ("LocalUser = \"SYSTEM\"", "user"),
        ("DisplayName = \"x\"", "name"),
        ("fqdn = \"example.com\"", "host"),
    ] {
        assert_eq!(complaint(theirs).1, format!("write `{ours}`"), "{theirs}");
    }
    assert!(complaint("port = 80").1.contains("`remote_port`"));
    assert!(complaint("enabled = false").1.contains('#'));
    assert!(complaint("nonsense = 1").1.contains("`remote_address`"));
}

#[test]
fn values_of_other_firewalls_lead_to_ours() {
    for (line, hint) in [
        ("direction = \"out\"", "write \"outbound\""),
        ("direction = \"any\"", "leave it out to match both"),
        ("protocol = \"any\"", "leave it out to match all"),
        (
            "protocol = \"https\"",
            "write \"tcp\", and the port as `remote_port`",
        ),
        ("protocol = 256", "protocols have numbers from 0 to 255"),
        ("remote_port = \"https\"", "write 443"),
        ("remote_port = \"90-80\"", "write \"80-90\""),
        ("remote_port = \"80,443\"", "write a list: [80, 443]"),
        ("remote_address = \"any\"", "leave it out to match all"),
        (
            "remote_address = \"10.0.0.*\"",
            "write a network as \"10.0.0.0/8\"",
        ),
        (
            "remote_address = \"10.0.0.1:80\"",
            "write the port as `remote_port` or `local_port`",
        ),
        ("remote_address = \"example.com\"", "a name goes to `host`"),
        (
            "remote_address = \"10.0.0.9-10.0.0.1\"",
            "write \"10.0.0.1-10.0.0.9\"",
        ),
        (
            "remote_address = \"10.0.0.0/33\"",
            "after the / comes a number from 0 to 32",
        ),
        ("remote_address = []", "leave it out to match everything"),
        (
            "application = 'chrome.exe'",
            r"write '*\chrome.exe' for any directory",
        ),
        ("application = 'C:/x.exe'", r"write 'C:\x.exe'"),
        (
            "application = '%ProgramFiles%\\x.exe'",
            r"write the path out: 'C:\Program Files\x.exe'",
        ),
        (
            "application = '\\Windows\\x.exe'",
            r"write 'C:\Windows\x.exe' for any local volume",
        ),
        ("application = 'C:x.exe'", r"write 'C:\…'"),
        ("user = \"LOCAL SERVCE\"", "did you mean \"LOCAL SERVICE\"?"),
        (
            "user = \"S-1-5-x\"",
            "a SID is like S-1-5-21-1004336348-1177238915-682003330-1001",
        ),
        (
            "host = \"https://example.com/x\"",
            "write the name alone: \"example.com\"",
        ),
        (
            "host = \"*example.com\"",
            "write \"*.example.com\" for the names below example.com",
        ),
        (
            "host = \"example.com:443\"",
            "write \"example.com\", and the port as `remote_port`",
        ),
        ("host = \"10.0.0.1\"", "write it as `remote_address`"),
        (
            "host = \"bücher.example\"",
            "write the name as it travels, in its xn-- form",
        ),
        ("host = \"*\"", "leave `host` out to match all"),
        ("content = \"\"", "leave it out to match everything"),
        (
            "content_hex = \"dead be e\"",
            "write two digits for each byte, such as \"de ad be ef\"",
        ),
    ] {
        assert_eq!(complaint(line).1, hint, "{line}");
    }
}

#[test]
fn values_of_the_wrong_type_are_named() {
    assert_eq!(
        complaint("log = \"yes\"").0,
        "`log` is to be `true` or `false`, not of type string"
    );
    assert_eq!(
        complaint("name = 5").0,
        "`name` is to be one string, not of type integer"
    );
    assert_eq!(
        complaint("remote_port = 1.5").0,
        "`remote_port` is to be a string or a list, not of type float"
    );
}

#[test]
fn a_path_in_double_quotes_leads_to_single_ones() {
    let found = found(&with_rule("application = \"C:\\Program Files\\app.exe\""));
    assert!(
        found[0]
            .hint
            .as_deref()
            .is_some_and(|hint| hint.contains("single quotes")),
        "{found:?}"
    );
    assert_eq!(found[0].line, 4);
}

#[test]
fn several_syntax_errors_are_reported_together() {
    let text = "default = block\n[[rule]]\naction = permit\n";
    let lines: Vec<_> = found(text).iter().map(|found| found.line).collect();
    assert!(lines.contains(&1) && lines.contains(&3), "{lines:?}");
}

#[test]
fn what_must_be_said_is_asked_for() {
    let without_default = found("[[rule]]\naction = \"permit\"\n");
    assert_eq!(without_default[0].message, "`default` is missing");
    let without_action = found("default = \"block\"\n[[rule]]\nname = \"x\"\n");
    assert_eq!(
        (without_action[0].line, without_action[0].message.as_str()),
        (2, "\"x\" has no `action`")
    );
    assert!(
        found("default = \"block\"\n[rule]\naction = \"permit\"\n")[0]
            .hint
            .as_deref()
            .is_some_and(|hint| hint.contains("[[rule]]"))
    );
}

#[test]
fn ports_of_protocols_without_ports_are_refused() {
    let found = found(&with_rule("protocol = \"icmp\"\nremote_port = 8"));
    assert_eq!((found.len(), found[0].line), (1, 4));
}

#[test]
fn a_policy_too_large_for_the_driver_is_refused() {
    let rules = "[[rule]]\naction = \"permit\"\n".repeat(65_537);
    let found = found(&format!("default = \"block\"\n{rules}"));
    assert!(
        found
            .iter()
            .any(|found| found.message.contains("65537 rules")),
        "{:?}",
        found.last()
    );
}

#[test]
fn an_empty_text_lacks_only_its_default() {
    assert_eq!(found("").len(), 1);
    assert_eq!(compiled("default = \"permit\"").policy.rules.len(), 0);
}
