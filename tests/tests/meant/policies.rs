//! Random policies, as they are written.

use std::fmt::Write as _;

use portcullis_tests::interfaces::{INTERFACES, interface};
use portcullis_tests::random::Random;

/// One of these.
pub(super) fn one<'c, T: ?Sized>(random: &mut Random, choices: &[&'c T]) -> &'c T {
    choices[random.below(choices.len())]
}

/// In one of so many cases the rule has this key, with one of these values.
fn one_in(cases: usize, random: &mut Random, text: &mut String, key: &str, values: &[&str]) {
    if random.below(cases) == 0 {
        writeln!(text, "{key} = {}", one(random, values)).expect("a string");
    }
}

/// What a rule is about, as it is written.
struct About {
    operations: &'static str,
    protocols: &'static str,
}

impl About {
    fn any(random: &mut Random) -> Self {
        let operations = [
            "'bind'",
            "'forward'",
            "'icmp-error'",
            "['connect', 'forward']",
            "'accept'",
            "['accept', 'listen']",
            "['forward', 'icmp-error', 'accept']",
            "['connect', 'bind']",
        ];
        let protocols = ["'tcp'", "'udp'", "['tcp', 'udp']", "['icmp', 'icmpv6']"];
        Self {
            operations: operations.get(random.below(16)).unwrap_or(&""),
            protocols: protocols.get(random.below(8)).unwrap_or(&""),
        }
    }

    fn is_of(&self, operation: &str) -> bool {
        self.operations.contains(operation)
    }

    fn has_ports(&self) -> bool {
        !self.is_of("icmp-error") && !self.protocols.contains("icmp")
    }

    fn has_owner(&self) -> bool {
        !self.is_of("icmp-error") && !self.is_of("forward")
    }
}

/// A rule as it is written.
fn rule(random: &mut Random) -> String {
    let about = About::any(random);
    let mut text = "[[rule]]\n".to_owned();
    let asks = about.operations.is_empty() && random.below(6) == 0;
    if asks {
        // Nobody answers: the default decides at once.
        text.push_str("action = 'ask'\n");
        let otherwise = ["'permit'", "'block'"];
        one_in(1, random, &mut text, "ask_default", &otherwise);
    } else {
        one_in(1, random, &mut text, "action", &["'permit'", "'block'"]);
    }
    let blocks = text.contains("'block'");
    for (key, value) in [
        ("operation", about.operations),
        ("protocol", about.protocols),
    ] {
        if !value.is_empty() {
            one_in(1, random, &mut text, key, &[value]);
        }
    }
    sides(&about, random, &mut text);
    if about.has_owner() {
        let programs = [
            r"'C:\Program Files\Fire\browser.exe'",
            r"'C:\Program Files\*.exe'",
            "['System', '*mail.exe']",
        ];
        one_in(5, random, &mut text, "application", &programs);
        let users = ["'S-1-5-21-1-2-3-1001'", "['SYSTEM', 'S-1-5-21-1-2-3-1002']"];
        one_in(6, random, &mut text, "user", &users);
    }
    if about.has_owner() && !about.is_of("bind") {
        let directions = ["'outbound'", "'inbound'"];
        one_in(4, random, &mut text, "direction", &directions);
        let hosts = [
            "'example.net'",
            "'*.example.net'",
            "['ads.example.org', 'www.example.net']",
        ];
        if about.has_ports() && !asks {
            let literals = ["'forbidden'", "['forbidden', 'secret']", "'den secret'"];
            match random.below(8) {
                0 | 1 => one_in(1, random, &mut text, "host", &hosts),
                2 if blocks => one_in(1, random, &mut text, "content", &literals),
                _ => {}
            }
        }
    }
    if !asks {
        links(random, &mut text);
    }
    text
}

/// A condition on the network interface.
fn links(random: &mut Random, text: &mut String) {
    let luid = format!("'{:#x}'", interface(INTERFACES[0].0).luid());
    match random.below(2) {
        0 => one_in(6, random, text, "interface", &[&luid]),
        _ => one_in(
            6,
            random,
            text,
            "interface_type",
            &["'wifi'", "['wifi', 'loopback']"],
        ),
    }
}

/// Conditions on both ends.
fn sides(about: &About, random: &mut Random, text: &mut String) {
    let local = [
        "'192.0.2.10'",
        "['2001:db8::10', '192.0.2.0/24']",
        "['198.51.100.0/24', '2001:db8::80']",
    ];
    one_in(4, random, text, "local_address", &local);
    if about.has_ports() {
        let ports = [
            "'50000-50199'",
            "['40000-40100', '60000-60050']",
            "'1-49999'",
        ];
        one_in(4, random, text, "local_port", &ports);
    }
    if about.is_of("bind") {
        return;
    }
    let remote = [
        "'198.51.100.1'",
        "['203.0.113.0/24', '2001:db8:1::/48']",
        "['2001:db8::/64', '198.51.100.0-198.51.100.9']",
    ];
    one_in(3, random, text, "remote_address", &remote);
    if about.has_ports() {
        one_in(
            3,
            random,
            text,
            "remote_port",
            &["53", "[80, 443]", "'1-1023'"],
        );
    }
}

/// A policy as it is written: everything is observed.
pub(super) fn text(random: &mut Random) -> String {
    let default = one(random, &["permit", "block"]);
    let rules = 1 + random.below(12);
    let rules: Vec<_> = (0..rules).map(|_| rule(random)).collect();
    format!("default = '{default}'\nobserve = true\n{}", rules.concat())
}
