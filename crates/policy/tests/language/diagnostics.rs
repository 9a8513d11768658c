//! How it is said.

use portcullis_policy::render;

use crate::{found, with_rule};

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
