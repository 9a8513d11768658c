//! What a rule's conditions match.

use portcullis_core::{Action, Application, Connection, Direction, Host, PolicyView};

use crate::{compiled, connection, decides, matches, over, to, with_rule};

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
