//! Rules about other operations than connections.

use portcullis_core::{Action, Host, PolicyView};
use portcullis_proto::event::Operation;

use crate::{compiled, complaint, decides, found, over, warnings, with_rule};

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
fn a_rule_about_one_operation_hides_none_about_another() {
    let rules = |rules: [&str; 2]| {
        let [first, second] = rules;
        let text = format!("default = \"permit\"\n[[rule]]\n{first}\n[[rule]]\n{second}\n");
        compiled(&text).blob
    };
    let forward = "action = \"block\"\noperation = \"forward\"";
    let connections = "action = \"block\"";
    for blob in [rules([forward, connections]), rules([connections, forward])] {
        let view = PolicyView::validate(&blob).expect("valid");
        let datagram = over(17, 53);
        assert_eq!(view.decide(&datagram, Host::Never).action, Action::Block);
        let decide = |operation| view.decide_packet(operation, &datagram).action;
        assert_eq!(decide(Operation::Forward), Action::Block);
        assert_eq!(decide(Operation::IcmpError), Action::Permit);
    }
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
