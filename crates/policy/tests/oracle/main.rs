//! Whatever policy is meant, its compiled form is valid and decides like the rules read one by one.

mod generate;
mod reading;

use generate::{HOSTS, policy, rule_about, subject};
use portcullis_core::{Action, Direction, EffectSet, Host, PolicyView};
use portcullis_policy::{Effect, Policy, Ranges, Rule};
use portcullis_proto::event::Operation;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use reading::{Subject, action_of, decider, listen_action, matches, matches_as, socket_decider};

fn check(policy: &Policy, view: &PolicyView<'_>, subject: &Subject, host: Option<&str>) {
    let view = &view.with_ancestry(&subject.family);
    let connection = subject.connection();
    let known = host.map_or(Host::Never, |host| Host::Known(host.as_bytes()));
    let decision = view.decide(&connection, known);
    let expected = decider(policy, subject, host);
    assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
    assert_eq!(decision.action, action_of(policy, expected));
    assert_eq!(
        decision.log,
        expected.is_some_and(|rule| policy.rules[rule].log)
    );
    assert!(!decision.host_dependent);
    let effects = expected.map_or(&[][..], |rule| &policy.rules[rule].effects);
    let kinds = effects.iter().map(Effect::kind);
    assert_eq!(
        decision.effects,
        kinds.fold(EffectSet::NONE, EffectSet::with)
    );
    assert_eq!(view.effects(decision.rule).count(), effects.len());
    let before = &policy.rules[..expected.unwrap_or(policy.rules.len())];
    let looks = |rule: &Rule| !rule.contents.is_empty() && matches(rule, subject);
    assert_eq!(
        decision.content_dependent,
        decision.action != Action::Block && before.iter().any(looks)
    );
    assert_eq!(decision, view.decide_linear(&connection, known));

    // While the host is not known: what may still happen?
    let pending = view.decide(&connection, Host::Pending);
    assert_eq!(pending, view.decide_linear(&connection, Host::Pending));
    let definite = decider(policy, subject, None);
    let before = &policy.rules[..definite.unwrap_or(policy.rules.len())];
    let mut candidates = before
        .iter()
        .filter(|rule| !rule.hosts.is_empty() && matches(rule, subject));
    match action_of(policy, definite) {
        Action::Permit => {
            assert_eq!(
                (pending.action, pending.host_dependent),
                (Action::Permit, candidates.next().is_some())
            );
            assert_eq!(pending.rule.map(|rule| rule.0 as usize), definite);
        }
        // Who is asked is asked at once.
        Action::Ask => assert_eq!(pending, view.decide(&connection, Host::Never)),
        Action::Block => {
            let may_permit = candidates.any(|rule| rule.action == Action::Permit);
            assert_eq!(pending.is_permit(), may_permit);
            assert_eq!(pending.host_dependent, may_permit);
        }
    }
    // What is blocked before the host is known stays blocked whatever it turns out to be.
    if pending.action == Action::Block {
        assert_eq!(decision.action, Action::Block);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_compiled_policy_is_valid_and_decides_like_its_rules(
        policy in policy(),
        subjects in prop::collection::vec((subject(), prop::option::of(any::<Index>())), 20),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        prop_assert_eq!(view.rule_count(), policy.rules.len());
        prop_assert_eq!(view.events_all(), policy.events_all);
        for (subject, host) in subjects {
            check(&policy, &view, &subject, host.map(|index| HOSTS[index.index(HOSTS.len())]));
        }
    }

    #[test]
    fn a_packet_is_decided_by_the_rules_about_it(
        policy in policy(), subjects in prop::collection::vec(subject(), 20),
        operation in select(vec![Operation::Forward, Operation::IcmpError]),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        for subject in &subjects {
            let expected = policy.rules.iter().position(|rule| matches_as(rule, operation, subject));
            let view = view.with_ancestry(&subject.family);
            let decision = view.decide_packet(operation, &subject.connection());
            prop_assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
            prop_assert_eq!(decision.is_permit(), expected.is_none_or(|rule| policy.rules[rule].action == Action::Permit));
        }
    }

    #[test]
    fn a_listener_is_decided_by_the_connections_that_could_come(
        policy in policy(), mut subjects in prop::collection::vec(subject(), 20), anywhere in any::<bool>(),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        for subject in &mut subjects {
            (subject.direction, subject.protocol) = (Direction::Inbound, 6);
            if anywhere {
                subject.local.address = "::".parse().unwrap();
            }
            let expected = socket_decider(&policy, Operation::Listen, subject);
            let view = view.with_ancestry(&subject.family);
            let decision = view.decide_listener(&subject.listener());
            prop_assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
            prop_assert_eq!(decision.action, listen_action(&policy, expected, subject));
        }
    }

    #[test]
    fn a_bind_is_decided_by_the_rules_that_ask_nothing_else(
        policy in policy(), mut subjects in prop::collection::vec(subject(), 20), anywhere in any::<bool>(),
    ) {
        let blob = policy.encode().expect("small enough");
        let view = PolicyView::validate(&blob).expect("valid");
        let has_bind = |rule: &Rule| rule.effects.iter().any(|effect| matches!(effect, Effect::Bind(_)));
        let takes_part = |rule: &Rule| {
            rule.direction != Some(Direction::Inbound) && rule.remote_addresses.is_any() && rule.remote_ports.is_any()
                && rule.interfaces.is_any() && rule.hosts.is_empty() && rule.contents.is_empty()
        };
        let last = policy.rules.iter().rposition(|rule| takes_part(rule) && has_bind(rule));
        let rules = &policy.rules[..last.map_or(0, |last| last + 1)];
        for subject in &mut subjects {
            subject.direction = Direction::Outbound;
            if anywhere {
                subject.local.address = "::".parse().unwrap();
            }
            let expected = rules.iter().position(|rule| {
                let known = if anywhere && rule.local_addresses.is_any() {
                    Rule { local_addresses: Ranges::default(), ..rule.clone() }
                } else {
                    rule.clone()
                };
                takes_part(rule) && matches(&known, subject) && (!anywhere || rule.local_addresses.is_any())
            });
            let decision = view.with_ancestry(&subject.family).decide_bind(&subject.binding());
            prop_assert_eq!(decision.rule.map(|rule| rule.0 as usize), expected);
            prop_assert_eq!(decision.is_permit(), expected.is_none_or(|rule| rules[rule].action == Action::Permit));
        }
    }

    #[test]
    fn a_rule_that_covers_another_matches_whatever_that_matches(
        other in rule_about(), narrow in rule_about(), other_for in 0..12_usize, any_for in any::<[bool; 12]>(),
        subjects in prop::collection::vec(subject(), 20), host in any::<Index>(),
    ) {
        // The first rule is the second with some conditions left out and one of another rule's, so it often covers it.
        let all = Rule::new("", Action::Permit);
        let from = |condition: usize| match condition {
            _ if condition == other_for => &other,
            _ if any_for[condition] => &all,
            _ => &narrow,
        };
        let wide = Rule {
            direction: from(0).direction,
            protocols: from(1).protocols.clone(),
            local_addresses: from(2).local_addresses.clone(),
            remote_addresses: from(3).remote_addresses.clone(),
            local_ports: from(4).local_ports.clone(),
            remote_ports: from(5).remote_ports.clone(),
            applications: from(6).applications.clone(),
            children: from(6).children,
            users: from(7).users.clone(),
            hosts: from(8).hosts.clone(),
            contents: from(9).contents.clone(),
            interfaces: from(10).interfaces.clone(),
            operations: from(11).operations.clone(),
            ..narrow.clone()
        };
        prop_assume!(wide.covers(&narrow));
        let policy = Policy { rules: vec![wide, narrow], ..Policy::new(Action::Block) };
        let host = HOSTS[host.index(HOSTS.len())];
        for subject in subjects {
            prop_assert_ne!(decider(&policy, &subject, Some(host)), Some(1));
            prop_assert_ne!(decider(&policy, &subject, None), Some(1));
        }
    }
}
