//! Redirecting connections and binds, and what redirectors are told about each other.

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use wfp_schema::codes::ConnectionRedirectState as State;
use wfp_schema::{Action, Guid, IpVersion, LayerKind, MetadataFields, NtStatus};

use super::support::{
    Classify, Driver, OK, at, behave, block, into, layer, run, run_clean, status, v4,
};
use crate::access::{In, Out};
use crate::fwp::Config;
use crate::fwp::defer::{
    FwpsAcquireClassifyHandle0, FwpsAcquireWritableLayerDataPointer0, FwpsApplyModifiedLayerData0,
    FwpsReleaseClassifyHandle0,
};
use crate::fwp::layout::request::{RawBindRequest, RawConnectRequest, SockAddr};
use crate::fwp::redirect::{
    FwpsQueryConnectionRedirectState0, FwpsQueryConnectionSioFormatRedirectRecords0,
    FwpsRedirectHandleCreate0, FwpsRedirectHandleDestroy0,
};
use crate::net::{End, Filtering, Indication, Metadata, Outcome, Redirection, Request};
use crate::verifier::{LAYER_DATA, OBJECT_STALE};

const PROVIDER: Guid = Guid::from_u128(0x9999);

fn v4_end(last: u8, port: u16) -> End {
    End {
        address: Ipv4Addr::new(192, 0, 2, last).into(),
        port,
    }
}

fn connect() -> Redirection {
    Redirection::new(Request::of(v4_end(1, 50000), v4_end(80, 443)))
}

fn handle() -> usize {
    let mut handle = 0;
    assert_eq!(
        FwpsRedirectHandleCreate0(at(&PROVIDER), 0, into(&mut handle)),
        OK
    );
    handle
}

/// Acquires the layer data, lets `change` change it, applies it, and permits.
fn change<T: crate::access::Plain>(classify: &mut Classify<'_>, change: impl FnOnce(&mut T)) {
    let mut handle = 0;
    assert_eq!(
        FwpsAcquireClassifyHandle0(classify.context, 0, into(&mut handle)),
        OK
    );
    let mut data = Out::<u8>::null();
    let acquired = FwpsAcquireWritableLayerDataPointer0(
        handle,
        classify.filter.id,
        0,
        into(&mut data),
        into(classify.out),
    );
    assert_eq!(acquired, OK);
    let typed = data.offset::<T>(0);
    let mut raw = typed.get().expect("layer data");
    change(&mut raw);
    typed.set(raw);
    FwpsApplyModifiedLayerData0(handle, data, 0);
    classify.out.action = Action::Permit.value();
    FwpsReleaseClassifyHandle0(handle);
}

#[test]
fn a_connect_redirection_changes_the_remote_end() {
    run_clean(Config::default(), |driver| {
        let at_connect = v4(LayerKind::AleConnectRedirect);
        driver.filtered(at_connect, Action::CalloutUnknown);
        let redirector = handle();
        behave(move |classify| {
            let shown = classify
                .layer_data::<RawConnectRequest>()
                .get()
                .expect("layer data");
            assert_eq!(shown.local.end(), Some(v4_end(1, 50000)));
            assert_eq!(shown.remote.end(), Some(v4_end(80, 443)));
            assert!(shown.previous.is_null());
            change::<RawConnectRequest>(classify, |raw| {
                raw.remote = SockAddr::of(v4_end(99, 8443));
                raw.redirect_handle = redirector;
            });
        });
        let mut redirection = connect();
        assert_eq!(
            driver.redirect(at_connect, &mut redirection, 7),
            Outcome::Permit
        );
        assert_eq!(redirection.original().remote, v4_end(80, 443));
        let version = redirection.current();
        assert_eq!(version.remote, v4_end(99, 8443));
        assert_eq!(version.redirect_handle, redirector as u64);
        assert_ne!(version.modifier_filter, 0);
        FwpsRedirectHandleDestroy0(redirector);
    });
}

#[test]
fn a_bind_redirection_changes_the_local_end_in_both_versions() {
    run_clean(Config::default(), |driver| {
        let unspecified = End {
            address: Ipv6Addr::UNSPECIFIED.into(),
            port: 0,
        };
        let v6_end = |port| End {
            address: Ipv6Addr::LOCALHOST.into(),
            port,
        };
        let none = End {
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        };
        for (version, asked, given) in [
            (IpVersion::V4, Request::of(none, none), v4_end(7, 5353)),
            (
                IpVersion::V6,
                Request::of(unspecified, unspecified),
                v6_end(5353),
            ),
        ] {
            let at_bind = layer(LayerKind::AleBindRedirect, version);
            driver.filtered(at_bind, Action::CalloutUnknown);
            behave(move |classify| {
                change::<RawBindRequest>(classify, |raw| raw.local = SockAddr::of(given));
            });
            let mut redirection = Redirection::new(asked);
            assert_eq!(
                driver.redirect(at_bind, &mut redirection, 7),
                Outcome::Permit
            );
            assert_eq!(redirection.current().local, given);
        }
    });
}

#[test]
fn ale_07_acquiring_writable_layer_data_blocks_until_the_callout_says_otherwise() {
    run_clean(Config::default(), |driver| {
        let at_connect = v4(LayerKind::AleConnectRedirect);
        driver.filtered(at_connect, Action::CalloutUnknown);
        behave(|classify| {
            change::<RawConnectRequest>(classify, |_| ());
            // Undo what `change` decides: what acquiring left must be a block for good.
            classify.out.action = Action::None.value();
            classify.out.rights = 1;
            let (mut handle, mut data) = (0, Out::<u8>::null());
            FwpsAcquireClassifyHandle0(classify.context, 0, into(&mut handle));
            let id = classify.filter.id;
            FwpsAcquireWritableLayerDataPointer0(
                handle,
                id,
                0,
                into(&mut data),
                into(classify.out),
            );
            assert_eq!(
                (classify.out.action, classify.out.rights),
                (Action::Block.value(), 0)
            );
            FwpsApplyModifiedLayerData0(handle, data, 0);
            FwpsReleaseClassifyHandle0(handle);
        });
        assert_eq!(
            driver.redirect(at_connect, &mut connect(), 7),
            Outcome::Block
        );
    });
}

/// What each of `handles` is told at `AUTH_CONNECT` of a connection that was redirected so.
fn states(
    driver: &mut Driver<'_>,
    redirection: &Redirection,
    handles: [usize; 2],
) -> [(u32, usize); 2] {
    let seen = Rc::new(Cell::new([(9, 0); 2]));
    let slot = Rc::clone(&seen);
    behave(move |classify| {
        let records = classify.metadata.redirect_records;
        slot.set(handles.map(|handle| {
            let mut context = 0;
            let state = FwpsQueryConnectionRedirectState0(records, handle, into(&mut context));
            (state, context)
        }));
        classify.out.action = Action::Permit.value();
    });
    let identity = driver.identity();
    let metadata = Metadata {
        present: MetadataFields::REDIRECT_RECORD_HANDLE,
        redirection: Some(redirection),
        ..Metadata::nothing(&identity)
    };
    let indication = Indication::new(v4(LayerKind::AleAuthConnect), &[], &metadata);
    driver.filtering.classify(&indication);
    seen.get()
}

#[test]
fn ale_08_ale_09_a_redirector_is_told_whether_it_or_another_redirected_a_connection() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::AleAuthConnect), Action::CalloutUnknown);
        let handles = [handle(), handle()];
        let by = |remote, handle: usize, context| Request {
            redirect_handle: handle as u64,
            context,
            ..Request::of(v4_end(1, 50000), remote)
        };
        let mut redirection = connect();
        redirection.apply(by(v4_end(2, 1), handles[0], 0));
        assert_eq!(
            states(driver, &redirection, handles),
            [
                (State::RedirectedBySelf.value(), 0),
                (State::RedirectedByOther.value(), 0)
            ]
        );
        redirection.apply(by(v4_end(3, 1), handles[1], 0));
        assert_eq!(
            states(driver, &redirection, handles),
            [
                (State::PreviouslyRedirectedBySelf.value(), 0),
                (State::RedirectedBySelf.value(), 0)
            ]
        );
        assert_eq!(
            states(driver, &connect(), handles),
            [(State::NotRedirected.value(), 0); 2]
        );
        for handle in handles {
            FwpsRedirectHandleDestroy0(handle);
        }
    });
}

#[test]
fn a_second_redirector_sees_the_first_ones_version_in_the_same_classify() {
    run_clean(Config::default(), |driver| {
        let at_connect = v4(LayerKind::AleConnectRedirect);
        driver.filtered(at_connect, Action::CalloutUnknown);
        driver.filtered(at_connect, Action::CalloutUnknown);
        let handles = [handle(), handle()];
        let turn = Rc::new(Cell::new(0_usize));
        let count = Rc::clone(&turn);
        behave(move |classify| {
            let me = count.replace(count.get() + 1);
            let shown = classify
                .layer_data::<RawConnectRequest>()
                .get()
                .expect("layer data");
            let records = classify.metadata.redirect_records;
            let state = FwpsQueryConnectionRedirectState0(records, handles[me], Out::null());
            if me == 0 {
                assert_eq!(state, State::NotRedirected.value());
            } else {
                assert_eq!(state, State::RedirectedByOther.value());
                let before: Out<RawConnectRequest> = shown.previous.offset(0);
                let before = before.get().expect("the version before");
                assert_eq!(before.remote.end(), Some(v4_end(80, 443)));
            }
            change::<RawConnectRequest>(classify, |raw| {
                raw.remote = SockAddr::of(v4_end(90, 1000 + u16::try_from(me).expect("small")));
                raw.redirect_handle = handles[me];
            });
            // A callout continues, so that the next one of the sublayer is asked.
            classify.out.action = Action::Continue.value();
            classify.out.rights = 1;
        });
        let mut redirection = connect();
        driver.redirect(at_connect, &mut redirection, 7);
        assert_eq!(turn.get(), 2);
        assert_eq!(redirection.versions().len(), 3);
        assert_eq!(redirection.current().remote, v4_end(90, 1001));
        for handle in handles {
            FwpsRedirectHandleDestroy0(handle);
        }
    });
}

#[test]
fn a_proxys_connection_has_the_records_of_the_one_that_it_serves() {
    run_clean(Config::default(), |driver| {
        let at_connect = v4(LayerKind::AleConnectRedirect);
        driver.filtered(at_connect, Action::CalloutUnknown);
        driver.filtered(at_connect, Action::CalloutUnknown);
        let handles = [handle(), handle()];
        let mut served = connect();
        served.apply(Request {
            remote: v4_end(90, 8080),
            redirect_handle: handles[0] as u64,
            ..*connect().original()
        });
        let mut redirection = Redirection::on_behalf(*connect().original(), &served);
        let turn = Rc::new(Cell::new(0_usize));
        let count = Rc::clone(&turn);
        behave(move |classify| {
            let me = count.replace(count.get() + 1);
            let records = classify.metadata.redirect_records;
            let state =
                |of: usize| FwpsQueryConnectionRedirectState0(records, handles[of], Out::null());
            let expected = if me == 0 {
                [State::RedirectedBySelf, State::RedirectedByOther]
            } else {
                [State::PreviouslyRedirectedBySelf, State::RedirectedBySelf]
            };
            assert_eq!([state(0), state(1)], expected.map(State::value), "{me}");
            change::<RawConnectRequest>(classify, |raw| {
                raw.remote = SockAddr::of(v4_end(91, 8081));
                raw.redirect_handle = handles[1];
            });
            classify.out.action = Action::Continue.value();
            classify.out.rights = 1;
        });
        driver.redirect(at_connect, &mut redirection, 7);
        assert_eq!(turn.get(), 2);
        assert_eq!(redirection.records().count(), 3, "one inherited, two made");
        for handle in handles {
            FwpsRedirectHandleDestroy0(handle);
        }
    });
}

#[test]
fn the_records_of_a_connection_are_given_in_the_form_that_sockets_take() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::AleAuthConnect), Action::CalloutUnknown);
        behave(|classify| {
            let records = classify.metadata.redirect_records;
            let mut size = 0;
            let query = FwpsQueryConnectionSioFormatRedirectRecords0;
            let small = query(records, Out::null(), 0, into(&mut size));
            assert_eq!(status(small), NtStatus::BUFFER_TOO_SMALL);
            let mut buffer = vec![0_u8; size];
            assert_eq!(
                query(records, into(&mut buffer[0]), size, into(&mut size)),
                OK
            );
            assert_eq!(buffer[0], 1, "one version");
            let none = query(0, Out::null(), 0, into(&mut size));
            assert_eq!(status(none), NtStatus::NOT_FOUND);
            classify.out.action = Action::Permit.value();
        });
        let redirection = connect();
        let identity = driver.identity();
        let metadata = Metadata {
            redirection: Some(&redirection),
            ..Metadata::nothing(&identity)
        };
        let indication = Indication::new(v4(LayerKind::AleAuthConnect), &[], &metadata);
        driver.filtering.classify(&indication);
    });
}

#[test]
fn a_redirected_connection_shows_where_it_was_to_go_and_its_target_process() {
    run_clean(Config::default(), |driver| {
        driver.filtered(v4(LayerKind::AleAuthConnect), Action::CalloutUnknown);
        behave(|classify| {
            assert_eq!(classify.metadata.redirect_target, 77);
            let at: In<SockAddr> = In::member(classify.metadata.original_destination as u64);
            assert_eq!(at.get().expect("an address").end(), Some(v4_end(80, 443)));
            classify.out.action = Action::Permit.value();
        });
        let mut redirection = connect();
        redirection.apply(Request {
            target_process: 77,
            ..Request::of(v4_end(1, 50000), v4_end(2, 2))
        });
        let identity = driver.identity();
        let metadata = Metadata {
            present: MetadataFields::ORIGINAL_DESTINATION
                | MetadataFields::LOCAL_REDIRECT_TARGET_PID,
            redirection: Some(&redirection),
            ..Metadata::nothing(&identity)
        };
        let indication = Indication::new(v4(LayerKind::AleAuthConnect), &[], &metadata);
        assert_eq!(driver.filtering.classify(&indication), Outcome::Permit);
    });
}

#[test]
fn layer_data_that_is_not_applied_or_changed_against_the_rules_is_found() {
    let found = |behaviour: fn(&mut Classify<'_>)| {
        let report = run(Config::default(), move |driver| {
            let at_connect = v4(LayerKind::AleConnectRedirect);
            driver.filtered(at_connect, Action::CalloutUnknown);
            behave(behaviour);
            driver.redirect(at_connect, &mut connect(), 7);
        });
        let rules: Vec<_> = report.violations.iter().map(|found| found.rule).collect();
        (rules, report.leaks.len())
    };
    let never_applied = found(|classify| {
        let (mut handle, mut data) = (0, Out::<u8>::null());
        FwpsAcquireClassifyHandle0(classify.context, 0, into(&mut handle));
        let id = classify.filter.id;
        FwpsAcquireWritableLayerDataPointer0(handle, id, 0, into(&mut data), into(classify.out));
        FwpsReleaseClassifyHandle0(handle);
    });
    assert_eq!(never_applied, (vec![LAYER_DATA.name, LAYER_DATA.name], 0));
    let local_changed = found(|classify| {
        change::<RawConnectRequest>(classify, |raw| raw.local = SockAddr::of(v4_end(5, 5)));
    });
    assert_eq!(local_changed, (vec![LAYER_DATA.name], 0));
    let to_this_machine = found(|classify| {
        let here = End {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
        };
        change::<RawConnectRequest>(classify, |raw| raw.remote = SockAddr::of(here));
    });
    assert_eq!(to_this_machine, (vec![LAYER_DATA.name], 0));
    let strange_handle = found(|classify| {
        change::<RawConnectRequest>(classify, |raw| raw.redirect_handle = 0x1234);
    });
    assert_eq!(strange_handle, (vec![OBJECT_STALE.name], 0));
    let kept = found(|classify| {
        let mut handle = 0;
        FwpsAcquireClassifyHandle0(classify.context, 0, into(&mut handle));
        block(classify);
    });
    assert_eq!(
        kept,
        (Vec::new(), 1),
        "a handle that is not released is a leak"
    );
}

#[test]
fn a_redirect_handle_that_is_left_is_a_leak_and_a_stale_one_a_violation() {
    let report = run(Config::default(), |_| {
        let kept = handle();
        FwpsRedirectHandleDestroy0(kept + 0x40);
    });
    assert_eq!(report.leaks[0].kind, "redirect handle");
    assert_eq!(report.violations[0].rule, OBJECT_STALE.name);
    run_clean(Config::default(), |_| {
        let mut handle = 0;
        let null = FwpsRedirectHandleCreate0(In::null(), 0, into(&mut handle));
        assert_eq!(status(null), NtStatus::FWP_NULL_POINTER);
    });
}
