//! The policy language: what is understood, and what is said about what isn't.

use portcullis_core::{Action, Application, Connection, Direction, Endpoint, Host, PolicyView};
use portcullis_policy::{Compiled, Diagnostic, Options, Severity, compile, render};
use portcullis_proto::event::Operation;
use std::net::IpAddr;

fn options() -> Options {
    Options {
        file_name: "policy.toml".to_owned(),
        events_all: false,
    }
}

/// A policy that blocks by default, with these lines in a rule that permits.
fn with_rule(lines: &str) -> String {
    format!("default = \"block\"\n[[rule]]\naction = \"permit\"\n{lines}\n")
}

fn compiled(text: &str) -> Compiled {
    compile(text, &options()).unwrap_or_else(|found| panic!("{}", render(&found, text, false)))
}

fn found(text: &str) -> Vec<Diagnostic> {
    compile(text, &options()).expect_err("is refused")
}

/// The only thing that is wrong with the rule's fourth line, and the hint.
fn complaint(line: &str) -> (String, String) {
    let found = found(&with_rule(line));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].severity, found[0].line), (Severity::Error, 4));
    (
        found[0].message.clone(),
        found[0].hint.clone().unwrap_or_default(),
    )
}

/// What is suspicious about the rule.
fn warnings(lines: &str) -> Vec<String> {
    compiled(&with_rule(lines))
        .warnings
        .into_iter()
        .map(|warning| warning.message)
        .collect()
}

fn connection() -> Connection<'static> {
    Connection {
        direction: Direction::Outbound,
        protocol: 6,
        local: Endpoint::new(IpAddr::from([10, 0, 0, 1]), 50000),
        remote: Endpoint::new(IpAddr::from([192, 0, 2, 1]), 443),
        application: Application::UNKNOWN,
        user: &[],
        process_id: 0,
        flow: 0,
    }
}

fn decides(text: &str, connection: &Connection<'_>) -> Action {
    let blob = compiled(text).blob;
    PolicyView::validate(&blob)
        .expect("valid")
        .decide(connection, Host::Never)
        .action
}

/// Whether a rule with these lines matches.
fn matches(lines: &str, connection: &Connection<'_>) -> bool {
    decides(&with_rule(lines), connection) == Action::Permit
}

fn to(address: &str) -> Connection<'static> {
    let address: IpAddr = address.parse().expect("an address");
    Connection {
        remote: Endpoint::new(address, 443),
        ..connection()
    }
}

fn over(protocol: u8, port: u16) -> Connection<'static> {
    Connection {
        protocol,
        remote: Endpoint::new(IpAddr::from([192, 0, 2, 1]), port),
        ..connection()
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_else_the_default() {
    let text = r#"
        default = "block"
        [[rule]]
        name = "not this one"
        action = "block"
        remote_address = "192.0.2.128/25"
        [[rule]]
        name = "the network"
        action = "permit"
        remote_address = "192.0.2.0/24"
    "#;
    assert_eq!(decides(text, &to("192.0.2.1")), Action::Permit);
    assert_eq!(decides(text, &to("192.0.2.200")), Action::Block);
    assert_eq!(decides(text, &to("198.51.100.1")), Action::Block);
    assert_eq!(compiled(text).rule_names, ["not this one", "the network"]);
}

#[test]
fn a_rule_without_a_name_is_called_by_its_number() {
    assert_eq!(compiled(&with_rule("")).rule_names, ["rule 1"]);
}

#[test]
fn addresses_are_single_or_networks_or_ranges_or_lists() {
    for (value, inside, outside) in [
        ("\"192.0.2.1\"", "192.0.2.1", "192.0.2.2"),
        ("\"10.0.0.0/8\"", "10.255.255.255", "11.0.0.0"),
        ("\"10.0.0.0/255.0.0.0\"", "10.255.255.255", "11.0.0.0"),
        ("\"10.0.0.5-10.0.1.5\"", "10.0.1.0", "10.0.1.6"),
        (
            "[\"10.0.0.1\", \"2001:db8::/32\"]",
            "2001:db8:1::",
            "2001:db9::",
        ),
        ("\"fe80::1-fe80::f\"", "fe80::a", "fe80::10"),
        ("\"0.0.0.0/0\"", "255.255.255.255", "::1"),
        ("\"::/0\"", "2001:db8::1", "1.2.3.4"),
        ("\"10.0.0.0/8\"", "::ffff:10.1.1.1", "::10.1.1.1"),
    ] {
        let line = format!("remote_address = {value}");
        assert!(matches(&line, &to(inside)), "{value} has {inside}");
        assert!(!matches(&line, &to(outside)), "{value} has no {outside}");
    }
}

#[test]
fn ports_are_numbers_or_ranges_or_lists_and_mean_tcp_and_udp() {
    let line = "remote_port = [53, \"80\", \"8000-8100\"]";
    for port in [53, 80, 8000, 8050, 8100] {
        assert!(
            matches(line, &over(6, port)) && matches(line, &over(17, port)),
            "{port}"
        );
    }
    for port in [0, 54, 7999, 8101] {
        assert!(!matches(line, &over(6, port)), "{port}");
    }
    assert!(
        !matches("remote_port = 8", &over(1, 8)),
        "an ICMP code is no port"
    );
    assert!(!matches(
        "protocol = \"tcp\"\nremote_port = 53",
        &over(17, 53)
    ));
}

#[test]
fn protocols_are_names_or_numbers_or_lists() {
    for (value, protocol) in [
        ("\"tcp\"", 6),
        ("\"UDP\"", 17),
        ("\"icmp\"", 1),
        ("\"icmpv6\"", 58),
        ("47", 47),
        ("[\"tcp\", 99]", 99),
    ] {
        let line = format!("protocol = {value}");
        assert!(matches(&line, &over(protocol, 0)), "{value}");
        assert!(!matches(&line, &over(200, 0)), "{value}");
    }
}

#[test]
fn directions_are_outbound_or_inbound() {
    let inbound = Connection {
        direction: Direction::Inbound,
        ..connection()
    };
    assert!(
        matches("direction = \"outbound\"", &connection())
            && !matches("direction = \"outbound\"", &inbound)
    );
    assert!(
        matches("direction = \"inbound\"", &inbound)
            && !matches("direction = \"inbound\"", &connection())
    );
}

fn owned_by(path: &str, lines: &str) -> bool {
    let path: Vec<u8> = path
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    matches(
        lines,
        &Connection {
            application: Application::new(&path),
            ..connection()
        },
    )
}

#[test]
fn a_drive_letter_stands_for_any_local_volume() {
    let line = r"application = 'C:\Program Files\App\App.exe'";
    assert!(owned_by(
        r"\device\harddiskvolume3\program files\app\app.exe",
        line
    ));
    assert!(owned_by(
        r"\Device\HarddiskVolume12\Program Files\App\APP.EXE",
        line
    ));
    assert!(!owned_by(
        r"\device\harddiskvolume3\other\program files\app\app.exe",
        line
    ));
    assert!(!owned_by(
        r"\device\mup\server\program files\app\app.exe",
        line
    ));
    assert!(owned_by(
        r"\device\harddiskvolume1\x.exe",
        r"application = '\\?\D:\x.exe'"
    ));
}

#[test]
fn wildcards_stand_for_any_characters_and_for_one() {
    assert!(owned_by(
        r"\device\harddiskvolume3\a\b\tool-v12.exe",
        r"application = 'C:\a\*\tool-v??.exe'"
    ));
    assert!(!owned_by(
        r"\device\harddiskvolume3\a\b\tool-v1.exe",
        r"application = 'C:\a\*\tool-v??.exe'"
    ));
    assert!(owned_by(
        r"\device\harddiskvolume3\x\chrome.exe",
        r"application = '*\chrome.exe'"
    ));
    assert!(!owned_by(
        r"\device\harddiskvolume3\x\notchrome.exe",
        r"application = '*\chrome.exe'"
    ));
    assert!(owned_by(
        r"\device\mup\server\share\x.exe",
        r"application = '\\server\share\*'"
    ));
    assert!(owned_by("System", "application = 'system'"));
    assert!(owned_by(
        r"\device\harddiskvolume3\ünïcödé.exe",
        r"application = 'C:\ÜNÏCÖDÉ.exe'"
    ));
}

#[test]
fn users_are_sids_or_well_known_names() {
    let system = [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0];
    let as_system = Connection {
        user: &system,
        ..connection()
    };
    for user in [
        "SYSTEM",
        "system",
        r"NT AUTHORITY\\SYSTEM",
        "S-1-5-18",
        "s-1-0x5-18",
    ] {
        assert!(matches(&format!("user = \"{user}\""), &as_system), "{user}");
    }
    assert!(!matches(
        "user = [\"LOCAL SERVICE\", \"NETWORK SERVICE\"]",
        &as_system
    ));
    assert!(
        !matches("user = \"SYSTEM\"", &connection()),
        "an unknown user is nobody"
    );
}

#[test]
fn hosts_are_names_or_all_names_below_one() {
    let blob = compiled(&with_rule("host = [\"Example.com.\", \"*.example.org\"]")).blob;
    let view = PolicyView::validate(&blob).expect("valid");
    let permits = |host: &[u8]| view.decide(&connection(), Host::Known(host)).is_permit();
    assert!(permits(b"example.com") && permits(b"www.example.org") && permits(b"a.b.example.org"));
    assert!(
        !permits(b"www.example.com") && !permits(b"example.org") && !permits(b"notexample.org")
    );
}

#[test]
fn contents_are_bytes_as_text_or_as_hexadecimal_digits() {
    let text = "default = \"permit\"\n[[rule]]\naction = \"block\"\ncontent = [\"hi\", \"\\u00fc\"]\ncontent_hex = [\"DE ad:be ef\", \"00\"]";
    let policy = compiled(text).policy;
    let expected: [&[u8]; 4] = [b"hi", "\u{fc}".as_bytes(), b"\xDE\xAD\xBE\xEF", b"\0"];
    assert_eq!(policy.rules[0].contents, expected);
    let only = [6, 17].map(|protocol| policy.rules[0].protocols.contains(protocol));
    assert_eq!(
        (only, policy.rules[0].protocols.contains(1)),
        ([true; 2], false)
    );
}

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
fn rules_that_can_never_decide_are_warned_of() {
    let text = r#"
        default = "permit"
        [[rule]]
        name = "web"
        action = "permit"
        remote_port = [80, 443]
        [[rule]]
        name = "some web"
        action = "block"
        protocol = "tcp"
        remote_port = 443
        host = "example.com"
        [[rule]]
        name = "everything"
        action = "block"
        [[rule]]
        name = "too late"
        action = "permit"
        remote_address = "10.0.0.1"
    "#;
    let warnings = compiled(text).warnings;
    let places: Vec<_> = warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(places, [7, 16]);
    assert!(
        warnings[0].message.contains("\"web\"")
            && warnings[0]
                .hint
                .as_deref()
                .is_some_and(|hint| hint.contains("line 3"))
    );
    assert!(warnings[1].message.contains("\"everything\""));
}

#[test]
fn rules_that_only_meet_are_not_warned_of() {
    let text = r#"
        default = "permit"
        [[rule]]
        name = "a"
        action = "block"
        remote_address = "10.0.0.0/9"
        [[rule]]
        name = "b"
        action = "permit"
        remote_address = "10.0.0.0/8"
        [[rule]]
        name = "c"
        action = "block"
        host = "*.example.com"
        [[rule]]
        name = "d"
        action = "permit"
        host = "example.com"
        [[rule]]
        name = "e"
        action = "block"
        application = '*\a.exe'
        [[rule]]
        name = "f"
        action = "permit"
        application = '*\b.exe'
    "#;
    assert_eq!(compiled(text).warnings, []);
}

#[test]
fn a_rule_that_can_never_match_is_warned_of() {
    assert_eq!(
        warnings("protocol = \"icmp\"\nhost = \"example.com\"").len(),
        1
    );
    assert_eq!(
        warnings("local_address = \"10.0.0.1\"\nremote_address = \"::1\"").len(),
        1
    );
    assert_eq!(
        warnings("remote_address = \"10.0.0.1/8\"").len(),
        1,
        "host bits"
    );
}

#[test]
fn two_rules_of_one_name_are_warned_of() {
    let text = "default = \"block\"\n[[rule]]\nname = \"x\"\naction = \"permit\"\nremote_port = 1\n[[rule]]\nname = \"x\"\naction = \"permit\"\nremote_port = 2\n";
    assert_eq!(compiled(text).warnings.len(), 1);
}

#[test]
fn a_diagnostic_shows_its_line_with_a_caret_and_a_hint() {
    let text = with_rule("remote_port = \"http\"");
    let shown = render(&found(&text), &text, false);
    for part in [
        "error: \"http\" is no port",
        "policy.toml:4:15",
        "remote_port = \"http\"",
        "^^^^^^",
        "help: write 80",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'), "no colors unless asked for");
    assert!(render(&found(&text), &text, true).contains('\u{1b}'));
}

#[test]
fn diagnostics_are_also_for_machines() {
    let json =
        serde_json::to_value(&found(&with_rule("remote_port = \"http\""))[0]).expect("serializes");
    assert_eq!(json["severity"], "error");
    assert_eq!(
        (json["line"].as_u64(), json["column"].as_u64()),
        (Some(4), Some(15))
    );
    assert_eq!(json["hint"], "write 80");
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

#[test]
fn operations_say_what_a_rule_is_about() {
    let policy =
        |lines: &str| format!("default = \"block\"\n[[rule]]\naction = \"block\"\n{lines}\n");
    let is_about = |lines: &str, operation: Operation| {
        let blob = compiled(&policy(lines)).blob;
        PolicyView::validate(&blob)
            .expect("valid")
            .is_about(operation)
    };
    for operation in [Operation::Bind, Operation::Forward, Operation::IcmpError] {
        assert!(!is_about("", operation));
        assert!(is_about(&format!("operation = \"{operation}\""), operation));
        assert!(is_about(
            &format!("operation = [\"connect\", \"{operation}\"]"),
            operation
        ));
    }
    // A rule about something else does not decide about connections, and the default not about that.
    let forward = "operation = \"forward\"\nremote_port = 53";
    let permit = with_rule(forward);
    assert_eq!(decides(&permit, &over(17, 53)), Action::Block);
    let blob = compiled(&policy(forward)).blob;
    let view = PolicyView::validate(&blob).expect("valid");
    let decide = |operation, port| view.decide_packet(operation, &over(17, port)).action;
    assert_eq!(decide(Operation::Forward, 53), Action::Block);
    assert_eq!(decide(Operation::Forward, 54), Action::Permit);
    assert_eq!(decide(Operation::IcmpError, 53), Action::Permit);
}

#[test]
fn operations_have_the_conditions_that_make_sense() {
    let (message, hint) = complaint("operation = \"icmp\"");
    assert_eq!(message, "there is no operation \"icmp\"");
    assert_eq!(hint, "write \"icmp-error\"");
    for (operation, lines, key) in [
        ("bind", "remote_port = 80", "remote_port"),
        ("bind", "direction = \"inbound\"", "direction"),
        ("forward", "user = \"SYSTEM\"", "user"),
        ("forward", "host = \"example.com\"", "host"),
        ("icmp-error", "local_port = 3", "local_port"),
    ] {
        let found = found(&with_rule(&format!("operation = \"{operation}\"\n{lines}")));
        let expected = format!("a rule about {operation} has no `{key}`");
        assert!(
            found.iter().any(|found| found.message == expected),
            "{found:?}"
        );
    }
    let asks = found("default = \"block\"\n[[rule]]\naction = \"ask\"\noperation = \"bind\"\n");
    assert_eq!(
        asks[0].message,
        "a rule about bind can only permit or block"
    );
    assert_eq!(
        warnings("operation = \"connect\"\ndirection = \"inbound\""),
        ["this rule never matches: its operation has the other direction"]
    );
}

#[test]
fn the_layers_besides_connections_are_observed_on_demand() {
    let observes = |text: &str| {
        let blob = compiled(text).blob;
        PolicyView::validate(&blob).expect("valid").observes()
    };
    assert!(!observes("default = \"permit\""));
    assert!(observes("default = \"permit\"\nobserve = true"));
    let wrong = found("default = \"permit\"\nobserve = \"yes\"");
    assert!(wrong[0].message.contains("`observe`"), "{wrong:?}");
}
