//! `ClassBench`'s rule sets: the index finds the same rule as trying one after the other.

mod shared;

use portcullis_core::{Host, PolicyView};

fn agrees(set: &str) {
    let Some(set) = shared::classbench::load(set) else {
        return;
    };
    let blob = set.policy.encode().expect("within the format's bounds");
    let view = PolicyView::validate(&blob).expect("valid");
    for (index, connection) in set.trace.iter().enumerate() {
        let found = view.decide(connection, Host::Never);
        assert_eq!(
            found,
            view.decide_linear(connection, Host::Never),
            "packet {index}: {connection:?}"
        );
        assert!(
            found.rule.is_some(),
            "every packet of a trace was made from a rule"
        );
    }
}

#[test]
fn the_index_of_access_lists_agrees_with_a_linear_scan() {
    agrees("acl1_1000");
}

#[test]
fn the_index_of_firewall_rules_agrees_with_a_linear_scan() {
    agrees("fw1_1000");
}

#[test]
fn the_index_of_ip_chains_agrees_with_a_linear_scan() {
    agrees("ipc1_1000");
}
