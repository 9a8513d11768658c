//! What is possible and was hardly meant.

use crate::{compiled, warnings};

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
