//! What redirectors and injectors are told about those before them.

use wfp_engine::Provenance;
use wfp_schema::codes::{ConnectionRedirectState as C, PacketInjectionState as P};

const MINE: u64 = 1;
const OTHER: u64 = 2;
const THIRD: u64 = 3;

/// Each acts with ten times its number as the context; the last one is given first.
fn of(last_first: &[u64]) -> Provenance<u64> {
    Provenance::of(last_first.iter().map(|who| (*who, who * 10)), &MINE)
}

#[test]
fn ale_08_a_redirector_is_told_whether_it_or_another_redirected() {
    assert_eq!(of(&[]).of_connection(), C::NotRedirected);
    let mine = of(&[MINE]);
    assert_eq!(mine.of_connection(), C::RedirectedBySelf);
    assert_eq!(mine.context(), Some(10));
    let others = of(&[OTHER]);
    assert_eq!(others.of_connection(), C::RedirectedByOther);
    assert_eq!(others.context(), None);
}

#[test]
fn ale_09_a_redirector_is_told_that_another_redirected_after_it() {
    for last_first in [
        &[OTHER, MINE][..],
        &[THIRD, OTHER, MINE],
        &[OTHER, MINE, THIRD],
    ] {
        let told = of(last_first);
        assert_eq!(told.of_connection(), C::PreviouslyRedirectedBySelf);
        assert_eq!(told.context(), Some(10));
    }
}

#[test]
fn inj_04_an_injector_knows_its_packet_and_its_context() {
    let mine = of(&[MINE]);
    assert_eq!(mine.of_packet(), P::InjectedBySelf);
    assert_eq!(mine.context(), Some(10));
    assert_eq!(of(&[OTHER]).of_packet(), P::InjectedByOther);
}

#[test]
fn inj_05_a_packet_that_others_injected_again_was_injected_previously() {
    let told = of(&[OTHER, MINE]);
    assert_eq!(told.of_packet(), P::PreviouslyInjectedBySelf);
    assert_eq!(told.context(), Some(10));
    let again = of(&[MINE, OTHER, MINE]);
    assert_eq!(again.of_packet(), P::InjectedBySelf);
}

#[test]
fn inj_06_the_stacks_packets_are_nobodys() {
    assert_eq!(of(&[]).of_packet(), P::NotInjected);
    assert_eq!(of(&[]).context(), None);
}
