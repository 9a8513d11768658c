//! A rule that asks, and sends what is permitted to a proxy.

use portcullis_proto::event::{EventKind, EventRecord};
use portcullis_proto::{Action as Verdict, Counter};
use portcullis_tests::World;
use portcullis_tests::proxy::{CASES, TCP, owners, with_proxy};

use super::{asked, question, settled, waits};

const POLICY: &str = r#"
    default = "block"
    [[rule]]
    name = "ask, then through the proxy"
    action = "ask"
    direction = "outbound"
    application = 'C:\browser.exe'
    redirect = ["127.0.0.1:8080", "[::1]:8080"]
    [[rule]]
    name = "the proxy itself"
    action = "permit"
    application = 'C:\proxy.exe'
"#;

fn world(policy: &str) -> World {
    let mut world = asked(policy);
    world.owned_by(owners());
    world
}

/// How many questions were asked, as events tell.
fn questions(events: &[EventRecord]) -> usize {
    let is_it = |event: &&EventRecord| event.kind == EventKind::Asked.raw();
    events.iter().filter(is_it).count()
}

#[test]
fn it_is_asked_about_once_by_where_it_was_to_go_and_then_sent_to_the_proxy_or_not_at_all() {
    for case in CASES {
        for verdict in [Verdict::Permit, Verdict::Block] {
            let mut world = world(POLICY);
            let proxy = with_proxy(&world);
            let report = world.net.packet(&case.first(0));
            assert!(waits(&report), "{case:?} {report:?} {:?}", world.events());
            let question = question(&world);
            assert_eq!(question.remote_port.get(), case.server().port());
            assert_eq!(world.status().held.get(), 1);
            assert!(world.device().reply(&question, verdict));
            let fates = settled(&mut world);
            let passes = verdict == Verdict::Permit;
            assert_eq!(fates.contains(&true), passes, "{case:?} {fates:?}");
            assert!(world.device().questions().is_empty(), "{case:?}");
            let events = world.events();
            assert_eq!(questions(&events), 1, "{case:?} {events:?}");
            assert_eq!(world.counter(Counter::Redirected), 1, "{case:?}");
            assert_eq!(world.counter(Counter::AskCannotHold), 0, "{case:?}");
            assert_eq!(world.counter(Counter::HeldPacketLost), 0, "{case:?}");
            // What follows finds the answer.
            if case.protocol != TCP {
                assert_eq!(world.net.passes(case.first(0)), passes, "{case:?}");
                assert!(world.device().questions().is_empty(), "{case:?}");
            }
            proxy.close();
            world.net.finish();
            world.end();
        }
    }
}

#[test]
fn without_a_proxy_nobody_is_asked_and_it_is_blocked() {
    for case in CASES {
        let mut world = world(POLICY);
        assert!(!world.net.passes(case.first(0)), "{case:?}");
        assert!(world.device().questions().is_empty(), "{case:?}");
        assert_eq!(world.status().held.get(), 0);
        assert_eq!(world.counter(Counter::ProxyMissing), 1, "{case:?}");
        world.end();
    }
}

#[test]
fn where_a_proxy_may_be_missing_it_is_asked_about_as_it_is() {
    for case in CASES {
        let policy = POLICY.replace("redirect =", "redirect_default = 'permit'\nredirect =");
        let mut world = world(&policy);
        assert!(waits(&world.net.packet(&case.first(0))), "{case:?}");
        let question = question(&world);
        assert!(world.device().reply(&question, Verdict::Permit));
        assert!(settled(&mut world).contains(&true), "{case:?}");
        assert!(world.device().questions().is_empty(), "{case:?}");
        world.net.finish();
        world.end();
    }
}
