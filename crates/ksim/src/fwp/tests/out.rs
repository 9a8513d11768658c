//! What a classify function may leave in classifyOut.

use wfp_schema::{Action, ClassifyOutFlags, FilterFlags, LayerKind, Rights};

use super::support::{CLEAR_RIGHT, Classify, Shown, absorb, behave, block, run, run_clean, v4};
use crate::fwp::Config;
use crate::net::Outcome;
use crate::verifier::{
    CLASSIFY_ACTION, CLASSIFY_BLOCK_RIGHT, CLASSIFY_FLAGS, CLASSIFY_RIGHTS, IRQL_RESTORED, Rule,
};

const WRITE: u32 = Rights::ACTION_WRITE.bits();
const ABSORB: u32 = ClassifyOutFlags::ABSORB.bits();

/// Classifies once; the rules that were broken.
fn broken(
    kind: LayerKind,
    action: Action,
    flags: FilterFlags,
    behaviour: fn(&mut Classify<'_>),
) -> Vec<&'static str> {
    let report = run(Config::default(), |driver| {
        driver.filtered_with(v4(kind), action, flags);
        behave(behaviour);
        driver.classify(v4(kind), &[], Shown::default());
    });
    assert!(report.leaks.is_empty(), "{report:#?}");
    report
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

/// A callout at `AUTH_CONNECT` under a `CALLOUT_UNKNOWN` filter.
fn broken_by(behaviour: fn(&mut Classify<'_>)) -> Vec<&'static str> {
    broken(
        LayerKind::AleAuthConnect,
        Action::CalloutUnknown,
        FilterFlags::NONE,
        behaviour,
    )
}

fn names(rules: &[&Rule]) -> Vec<&'static str> {
    rules.iter().map(|rule| rule.name).collect()
}

#[test]
fn permitting_blocking_and_having_no_opinion_are_fine() {
    assert!(broken_by(|classify| classify.out.action = Action::Permit.value()).is_empty());
    assert!(broken_by(|classify| classify.out.action = Action::Continue.value()).is_empty());
    assert!(broken_by(|_| ()).is_empty());
    assert!(broken_by(block).is_empty());
    assert!(broken_by(absorb).is_empty());
}

#[test]
fn a_block_takes_the_right_to_write() {
    let found = broken_by(|classify| classify.out.action = Action::Block.value());
    assert_eq!(found, names(&[&CLASSIFY_BLOCK_RIGHT]));
}

#[test]
fn rights_are_not_the_callouts_to_give() {
    assert_eq!(
        broken_by(|classify| classify.out.rights |= 0x8),
        names(&[&CLASSIFY_RIGHTS])
    );
}

#[test]
fn a_permit_takes_the_right_where_the_filter_says_so() {
    let permit: fn(&mut Classify<'_>) = |classify| {
        assert_eq!(classify.filter.flags & CLEAR_RIGHT, CLEAR_RIGHT);
        classify.out.action = Action::Permit.value();
    };
    let at = LayerKind::AleAuthConnect;
    let found = broken(
        at,
        Action::CalloutUnknown,
        FilterFlags::CLEAR_ACTION_RIGHT,
        permit,
    );
    assert_eq!(found, names(&[&CLASSIFY_RIGHTS]));
    let proper: fn(&mut Classify<'_>) = |classify| {
        classify.out.action = Action::Permit.value();
        classify.out.rights &= !WRITE;
    };
    assert!(
        broken(
            at,
            Action::CalloutUnknown,
            FilterFlags::CLEAR_ACTION_RIGHT,
            proper
        )
        .is_empty()
    );
}

#[test]
fn a_terminating_callout_decides_and_an_inspecting_one_does_not() {
    let at = LayerKind::AleAuthConnect;
    let undecided = broken(at, Action::CalloutTerminating, FilterFlags::NONE, |_| ());
    assert_eq!(undecided, names(&[&CLASSIFY_ACTION]));
    let decided = broken(
        at,
        Action::CalloutInspection,
        FilterFlags::NONE,
        |classify| {
            classify.out.action = Action::Permit.value();
        },
    );
    assert_eq!(decided, names(&[&CLASSIFY_ACTION]));
    let silent = broken(
        at,
        Action::CalloutInspection,
        FilterFlags::NONE,
        |classify| {
            classify.out.action = Action::Continue.value();
        },
    );
    assert!(silent.is_empty());
}

#[test]
fn an_action_is_one_that_callouts_return() {
    let found = broken_by(|classify| classify.out.action = Action::CalloutTerminating.value());
    assert_eq!(found, names(&[&CLASSIFY_ACTION]));
}

#[test]
fn an_established_flow_is_not_for_blocking() {
    let found = broken(
        LayerKind::AleFlowEstablished,
        Action::CalloutUnknown,
        FilterFlags::NONE,
        block,
    );
    assert_eq!(found, names(&[&CLASSIFY_ACTION]));
}

#[test]
fn absorb_goes_with_block_at_layers_that_have_it() {
    let found = broken_by(|classify| {
        classify.out.action = Action::Permit.value();
        classify.out.flags |= ABSORB;
    });
    assert_eq!(found, names(&[&CLASSIFY_FLAGS]));
    let found = broken(
        LayerKind::AleAuthListen,
        Action::CalloutUnknown,
        FilterFlags::NONE,
        absorb,
    );
    assert_eq!(found, names(&[&CLASSIFY_FLAGS]));
}

#[test]
fn members_of_the_system_and_unknown_flags_are_left_alone() {
    assert_eq!(
        broken_by(|classify| classify.out.filter_id = 1),
        names(&[&CLASSIFY_FLAGS])
    );
    assert_eq!(
        broken_by(|classify| classify.out.out_context = 1),
        names(&[&CLASSIFY_FLAGS])
    );
    assert_eq!(
        broken_by(|classify| classify.out.flags |= 0x10),
        names(&[&CLASSIFY_FLAGS])
    );
}

#[test]
fn a_callout_comes_back_at_its_level() {
    let found = broken_by(|_| {
        let cpu = crate::Cpu::current().expect("a processor");
        cpu.set_irql(crate::cpu::DISPATCH);
    });
    assert_eq!(found, names(&[&IRQL_RESTORED]));
}

#[test]
fn without_the_right_a_callout_only_vetoes() {
    // A heavier sublayer permits for good.
    let classify_after_a_hard_permit = |behaviour: fn(&mut Classify<'_>)| {
        use super::support::{OK, at, raw_sublayer};
        use crate::access::{In, Out};
        use crate::fwp::objects::filter::FwpmFilterAdd0;
        use crate::fwp::objects::sublayer::FwpmSubLayerAdd0;

        let mut outcome = Outcome::Absorb;
        let report = run(Config::default(), |driver| {
            let connect = v4(LayerKind::AleAuthConnect);
            let mut heavier = raw_sublayer(wfp_schema::Guid::from_u128(0x5eed_0002));
            heavier.weight = 0xffff;
            assert_eq!(
                FwpmSubLayerAdd0(driver.engine, at(&heavier), In::null()),
                OK
            );
            let mut permit = driver.raw_filter(connect);
            permit.sublayer = heavier.key;
            permit.flags = FilterFlags::CLEAR_ACTION_RIGHT.bits();
            assert_eq!(
                FwpmFilterAdd0(driver.engine, at(&permit), In::null(), Out::null()),
                OK
            );
            driver.filtered(connect, Action::CalloutUnknown);
            behave(behaviour);
            outcome = driver.classify(connect, &[], Shown::default());
        });
        let rules: Vec<_> = report
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect();
        (outcome, rules)
    };
    let (outcome, rules) = classify_after_a_hard_permit(|classify| {
        // ARB-12
        assert_eq!(classify.out.rights & WRITE, 0);
        assert_eq!(classify.out.action, Action::Permit.value());
        block(classify);
    });
    // ARB-05
    assert_eq!((outcome, rules), (Outcome::Block, Vec::new()));
    let (outcome, rules) =
        classify_after_a_hard_permit(|classify| classify.out.action = Action::Continue.value());
    assert_eq!(
        (outcome, rules),
        (Outcome::Permit, names(&[&CLASSIFY_RIGHTS]))
    );
}

#[test]
fn a_callout_that_is_not_registered_blocks_or_permits_as_its_filter_says() {
    use super::support::{OK, at, raw_callout};
    use crate::access::In;
    use crate::access::Out;
    use crate::fwp::layout::management::RawAction;
    use crate::fwp::objects::callout::FwpmCalloutAdd0;
    use crate::fwp::objects::filter::FwpmFilterAdd0;

    let permit = FilterFlags::PERMIT_IF_CALLOUT_UNREGISTERED;
    // CAL-03, CAL-04, CAL-05, CAL-06
    for (action, flags, outcome) in [
        (
            Action::CalloutTerminating,
            FilterFlags::NONE,
            Outcome::Block,
        ),
        (Action::CalloutUnknown, FilterFlags::NONE, Outcome::Block),
        (
            Action::CalloutInspection,
            FilterFlags::NONE,
            Outcome::Permit,
        ),
        (Action::CalloutTerminating, permit, Outcome::Permit),
    ] {
        run_clean(Config::default(), |driver| {
            let connect = v4(LayerKind::AleAuthConnect);
            let key = wfp_schema::Guid::from_u128(0xab5e);
            let callout = raw_callout(key, connect.layer().expect("known").key());
            assert_eq!(
                FwpmCalloutAdd0(driver.engine, at(&callout), In::null(), Out::null()),
                OK
            );
            let mut filter = driver.raw_filter(connect);
            filter.action = RawAction {
                kind: action.value(),
                key,
            };
            filter.flags = flags.bits();
            assert_eq!(
                FwpmFilterAdd0(driver.engine, at(&filter), In::null(), Out::null()),
                OK
            );
            assert_eq!(
                driver.classify(connect, &[], Shown::default()),
                outcome,
                "{action}"
            );
        });
    }
}
