//! Conditions on the network interface.

use crate::{compiled, complaint, connection, decides, found, matches, options, with_rule};
use portcullis_core::{Action, Connection};
use portcullis_policy::{Interfaces, Options, compile};

const ETHERNET: u64 = 6 << 48 | 2 << 24;
const WIFI: u64 = 71 << 48 | 3 << 24;
const TUNNEL: u64 = 53 << 48 | 4 << 24;

fn over(interface: u64) -> Connection<'static> {
    Connection {
        interface,
        ..connection()
    }
}

/// A machine with two interfaces.
fn machine() -> Options {
    Options {
        interfaces: Interfaces::Named(vec![
            ("Wi-Fi".to_owned(), WIFI),
            ("My Tunnel".to_owned(), TUNNEL),
        ]),
        ..options()
    }
}

/// What is wrong with a rule on that machine.
fn wrong_there(line: &str) -> (String, String) {
    let found = compile(&with_rule(line), &machine()).expect_err("is refused");
    assert_eq!(found.len(), 1, "{found:?}");
    (
        found[0].message.clone(),
        found[0].hint.clone().unwrap_or_default(),
    )
}

#[test]
fn a_type_is_every_interface_of_it() {
    for (line, matching) in [
        ("interface_type = 'wifi'", [false, true, false]),
        ("interface_type = 71", [false, true, false]),
        (
            "interface_type = ['ethernet', 'virtual']",
            [true, false, true],
        ),
        ("interface_type = 'loopback'", [false, false, false]),
    ] {
        for (interface, matching) in [ETHERNET, WIFI, TUNNEL].into_iter().zip(matching) {
            assert_eq!(matches(line, &over(interface)), matching, "{line}");
        }
    }
    // Mobile broadband has two types.
    for kind in [243_u64, 244] {
        assert!(matches(
            "interface_type = 'mobile'",
            &over(kind << 48 | 1 << 24)
        ));
    }
}

#[test]
fn an_interface_is_its_luid_or_its_name_in_any_case() {
    for line in [
        "interface = '0x35000004000000'",
        "interface = 14918173832773632",
        "interface = ['0x6000009000000', '0x35000004000000']",
    ] {
        assert!(matches(line, &over(TUNNEL)), "{line}");
        assert!(!matches(line, &over(WIFI)), "{line}");
    }
    let named = compile(&with_rule("interface = 'my tunnel'"), &machine()).expect("is valid");
    let by_number = compiled(&with_rule("interface = '0x35000004000000'"));
    assert_eq!(named.blob, by_number.blob);
    let found = compile(
        &with_rule("interface = 'Ethernet'"),
        &Options {
            interfaces: Interfaces::OfSystem(|name| (name == "Ethernet").then_some(ETHERNET)),
            ..options()
        },
    );
    let by_number = compiled(&with_rule("interface = '0x6000002000000'"));
    assert_eq!(found.expect("is valid").blob, by_number.blob);
}

#[test]
fn both_conditions_have_to_match() {
    let both = "interface = ['0x35000004000000', '0x47000003000000']\ninterface_type = 'wifi'";
    assert!(matches(both, &over(WIFI)));
    assert!(!matches(both, &over(TUNNEL)));
    let never = "interface = '0x35000004000000'\ninterface_type = 'wifi'";
    assert_eq!(
        complaint(never).0,
        "this rule never matches: the interface is of another type"
    );
}

#[test]
fn of_an_unknown_interface_only_blocks_are_right() {
    assert!(!matches("interface_type = 'wifi'", &over(0)));
    let blocks = "default = 'permit'\n[[rule]]\naction = 'block'\ninterface_type = 'wifi'";
    assert_eq!(decides(blocks, &over(0)), Action::Block);
    assert_eq!(decides(blocks, &over(ETHERNET)), Action::Permit);
}

#[test]
fn what_is_no_interface_is_told_with_what_may_be_meant() {
    for (line, message, hint) in [
        (
            "interface = 'Tunnel'",
            "there is no interface \"Tunnel\"",
            "no interface is named here: say which there are with `--interface`, or write its LUID",
        ),
        (
            "interface = 'wifi'",
            "there is no interface \"wifi\"",
            "write its type as `interface_type`, its name as `interface`",
        ),
        (
            "interface_type = 'wlan'",
            "there is no type of interfaces \"wlan\"",
            "write \"wifi\"",
        ),
        (
            "interface_type = 'vpn'",
            "there is no type of interfaces \"vpn\"",
            "a VPN's interface is of the type that its maker chose: write its name as `interface`",
        ),
    ] {
        let (said, hinted) = complaint(line);
        assert_eq!((said.as_str(), hinted.as_str()), (message, hint));
    }
    let (said, hint) = complaint("interface = 12");
    assert_eq!(said, "12 is no interface's LUID");
    assert!(hint.contains("an interface's index changes"), "{hint}");
    assert!(complaint("interface_type = 0").1.contains("1 to 65535"));
    assert_eq!(
        wrong_there("interface = 'My Tunel'").1,
        "did you mean \"My Tunnel\"?"
    );
    assert_eq!(
        wrong_there("interface = 'Ethernet 2'").1,
        "there are Wi-Fi, My Tunnel"
    );
    let (_, hint) = complaint("InterfaceAlias = '0x6000002000000'");
    assert_eq!(hint, "write `interface`");
    assert!(
        complaint("profile = 'public'")
            .1
            .contains("does not document")
    );
}

#[test]
fn a_policy_of_another_machine_can_be_checked() {
    let unchecked = Options {
        interfaces: Interfaces::Unchecked,
        ..options()
    };
    let text = with_rule("interface = 'whatever'\ninterface_type = 'virtual'");
    assert!(compile(&text, &unchecked).is_ok());
    assert!(compile(&with_rule("interface = 7"), &unchecked).is_err());
}

#[test]
fn who_is_asked_is_not_asked_for_an_interface() {
    let text = "default = 'block'\n[[rule]]\naction = 'ask'\ninterface_type = 'wifi'";
    let found = found(text);
    assert_eq!((found.len(), found[0].line), (1, 4));
    assert_eq!(
        found[0].message,
        "a rule that asks has no condition on the interface"
    );
}

#[test]
fn a_socket_is_bound_before_its_interface_is_known() {
    let (message, _) = complaint("bind = '192.0.2.1'\ninterface_type = 'wifi'");
    assert_eq!(message, "`bind` goes with no condition on the interface");
}

#[test]
fn no_interface_is_asked_for_where_connections_are_redirected() {
    const PROXY: &str = "[[rule]]\nname = 'proxy'\naction = 'permit'\nprotocol = 'tcp'\nremote_port = 80\nredirect = '127.0.0.1:8080'\n";
    let wifi = |lines: &str| {
        format!("[[rule]]\nname = 'no wifi'\naction = 'block'\ninterface_type = 'wifi'\n{lines}\n")
    };
    let policy = |rules: &[&str]| format!("default = 'permit'\n{}", rules.concat());

    let found = found(&policy(&[&wifi(""), PROXY]));
    assert_eq!((found.len(), found[0].line, found[0].column), (1, 5, 1));
    assert_eq!(
        found[0].message,
        "\"no wifi\" comes before \"proxy\", which redirects, and may match the same connections"
    );
    let hint = found[0].hint.as_deref().expect("a hint");
    assert!(hint.contains("move it behind that rule (line 7)"), "{hint}");

    for rules in [
        // Behind it, the interface is known when the connection is authorized.
        policy(&[PROXY, &wifi("")]),
        // What the one matches the other does not.
        policy(&[&wifi("remote_port = 443"), PROXY]),
        policy(&[&wifi("protocol = 'udp'"), PROXY]),
        policy(&[&wifi("direction = 'inbound'"), PROXY]),
        policy(&[&wifi("operation = ['accept', 'listen']"), PROXY]),
        policy(&[
            &wifi("remote_address = '2001:db8::/32'"),
            &PROXY.replace("remote_port", "remote_address = '0.0.0.0/0'\nremote_port"),
        ]),
        // Neither is looked at there.
        policy(&[&wifi("host = 'example.com'"), PROXY]),
        policy(&[&wifi("content = 'secret'"), PROXY]),
    ] {
        compiled(&rules);
    }
    let own = PROXY.replace("protocol", "interface_type = 'wifi'\nprotocol");
    let found = crate::found(&policy(&[&own]));
    assert_eq!(
        found[0].message,
        "a rule that redirects has no condition on the interface"
    );
}
