//! Looking up and enumerating what is built in, and enumerations with templates.

use wfp_schema::{Action, DataType, Guid, IpVersion, Layer, LayerKind, MatchType, NtStatus};

use super::support::{
    Driver, OK, Shown, at, behave, block, into, raw_provider, raw_provider_context, raw_sublayer,
    run_clean, status, v4,
};
use crate::access::{In, Out, Plain};
use crate::fwp::Config;
use crate::fwp::layout::management::{RawCondition, RawFilter, RawLayer, RawProviderContext};
use crate::fwp::layout::template::{RawCalloutTemplate, RawFilterTemplate, RawSubLayerTemplate};
use crate::fwp::layout::value::{RawBlob, RawValue};
use crate::fwp::objects::callout::{
    FwpmCalloutCreateEnumHandle0, FwpmCalloutDestroyEnumHandle0, FwpmCalloutEnum0,
};
use crate::fwp::objects::filter::{
    FwpmFilterAdd0, FwpmFilterCreateEnumHandle0, FwpmFilterDestroyEnumHandle0, FwpmFilterEnum0,
};
use crate::fwp::objects::layer::{
    FwpmLayerCreateEnumHandle0, FwpmLayerDestroyEnumHandle0, FwpmLayerEnum0, FwpmLayerGetById0,
    FwpmLayerGetByKey0,
};
use crate::fwp::objects::provider::FwpmProviderAdd0;
use crate::fwp::objects::provider_context::{
    FwpmProviderContextAdd0, FwpmProviderContextAdd2, FwpmProviderContextDeleteByKey0,
    FwpmProviderContextGetById2,
};
use crate::fwp::objects::query::FwpmFreeMemory0;
use crate::fwp::objects::sublayer::{
    FwpmSubLayerAdd0, FwpmSubLayerCreateEnumHandle0, FwpmSubLayerDestroyEnumHandle0,
    FwpmSubLayerEnum0,
};
use crate::net::Outcome;

type Create<T> = extern "win64" fn(usize, In<T>, Out<usize>) -> i32;
type Next<R> = extern "win64" fn(usize, usize, u32, Out<Out<Out<R>>>, Out<u32>) -> i32;
type Destroy = extern "win64" fn(usize, usize) -> i32;

/// Everything that an enumeration with `template` returns.
fn all<T, R: Plain>(
    engine: usize,
    (create, next, destroy): (Create<T>, Next<R>, Destroy),
    template: In<T>,
) -> Result<Vec<R>, i32> {
    let mut handle = 0;
    let created = create(engine, template, into(&mut handle));
    if created != OK {
        return Err(created);
    }
    let (mut entries, mut count) = (Out::<Out<R>>::null(), 0);
    let got = next(
        engine,
        handle,
        u32::MAX,
        into(&mut entries),
        into(&mut count),
    );
    assert_eq!(got, OK);
    let found = (0..count as usize)
        .map(|index| entries.as_in().at(index).expect("an entry"))
        .map(|entry| entry.get().expect("an object"))
        .collect();
    FwpmFreeMemory0(into(&mut entries).offset(0));
    assert_eq!(destroy(engine, handle), OK);
    Ok(found)
}

fn filters(driver: &Driver<'_>, template: &RawFilterTemplate) -> Result<Vec<u64>, i32> {
    let functions = (
        FwpmFilterCreateEnumHandle0 as Create<_>,
        FwpmFilterEnum0 as Next<RawFilter>,
        FwpmFilterDestroyEnumHandle0 as Destroy,
    );
    let found = all(driver.engine, functions, at(template))?;
    Ok(found.iter().map(|filter| filter.context[0]).collect())
}

const ANY: RawFilterTemplate = RawFilterTemplate {
    provider: In::null(),
    layer: Guid::ZERO,
    enum_type: 0,
    flags: 0,
    provider_context: 0,
    condition_count: 0,
    conditions: In::null(),
    action_mask: u32::MAX,
    callout: In::null(),
};

#[test]
fn a_layer_is_found_by_its_number_and_by_its_key() {
    run_clean(Config::default(), |driver| {
        let known = Layer::of(LayerKind::AleAuthConnect, IpVersion::V6).expect("a layer");
        let mut found = Out::<RawLayer>::null();
        let got = FwpmLayerGetById0(driver.engine, known.id().get(), into(&mut found));
        assert_eq!(got, OK);
        let layer = found.get().expect("a layer");
        assert_eq!((layer.key, layer.id), (known.key(), known.id().get()));
        assert_eq!(layer.field_count as usize, known.fields().len());
        assert_eq!(layer.default_sublayer, known.default_sublayer());
        let address = known
            .fields()
            .iter()
            .position(|field| field.name() == "IP_REMOTE_ADDRESS")
            .expect("a field");
        let field = layer.fields.as_in().at(address).expect("a field");
        assert_eq!(
            (field.kind, field.data_type),
            (1, DataType::ByteArray16.value())
        );
        FwpmFreeMemory0(into(&mut found).offset(0));

        let missing = FwpmLayerGetByKey0(driver.engine, at(&Guid::from_u128(9)), into(&mut found));
        assert_eq!(status(missing), NtStatus::FWP_LAYER_NOT_FOUND);
        let functions = (
            FwpmLayerCreateEnumHandle0 as Create<_>,
            FwpmLayerEnum0 as Next<RawLayer>,
            FwpmLayerDestroyEnumHandle0 as Destroy,
        );
        let layers = all(driver.engine, functions, In::null()).expect("layers");
        assert_eq!(layers.len(), Layer::all().len());
    });
}

#[test]
fn a_template_selects_sublayers_and_callouts_by_their_provider_and_layer() {
    run_clean(Config::default(), |driver| {
        let provider = raw_provider(Guid::from_u128(1));
        assert_eq!(
            FwpmProviderAdd0(driver.engine, at(&provider), In::null()),
            OK
        );
        let mut sublayer = raw_sublayer(Guid::from_u128(2));
        sublayer.provider = at(&provider.key);
        assert_eq!(
            FwpmSubLayerAdd0(driver.engine, at(&sublayer), In::null()),
            OK
        );
        let functions = (
            FwpmSubLayerCreateEnumHandle0 as Create<_>,
            FwpmSubLayerEnum0 as Next<crate::fwp::layout::management::RawSubLayer>,
            FwpmSubLayerDestroyEnumHandle0 as Destroy,
        );
        let template = RawSubLayerTemplate {
            provider: at(&provider.key),
        };
        let found = all(driver.engine, functions, at(&template)).expect("sublayers");
        let keys: Vec<_> = found.iter().map(|sublayer| sublayer.key).collect();
        assert_eq!(keys, [sublayer.key]);

        driver.callout(v4(LayerKind::AleAuthConnect));
        let (_, key) = driver.callout(v4(LayerKind::AleAuthListen));
        let functions = (
            FwpmCalloutCreateEnumHandle0 as Create<_>,
            FwpmCalloutEnum0 as Next<crate::fwp::layout::management::RawCallout>,
            FwpmCalloutDestroyEnumHandle0 as Destroy,
        );
        let template = RawCalloutTemplate {
            provider: In::null(),
            layer: v4(LayerKind::AleAuthListen).layer().expect("known").key(),
        };
        let found = all(driver.engine, functions, at(&template)).expect("callouts");
        let keys: Vec<_> = found.iter().map(|callout| callout.key).collect();
        assert_eq!(keys, [key]);
    });
}

#[test]
fn a_template_selects_filters_by_layer_action_and_conditions() {
    run_clean(Config::default(), |driver| {
        let connect = v4(LayerKind::AleAuthConnect);
        let port = |port: u16| RawCondition {
            field: wfp_schema::condition::IP_REMOTE_PORT,
            match_type: MatchType::Equal.value(),
            value: RawValue::number(DataType::Uint16, port.into()),
        };
        let (web, dns) = (port(80), port(53));
        let add = |number: u64, layer, condition: Option<&RawCondition>, action: Action| {
            let mut filter = driver.raw_filter(layer);
            filter.context[0] = number;
            filter.action.kind = action.value();
            filter.weight = RawValue::number(DataType::Uint8, u32::try_from(number).expect("few"));
            if let Some(condition) = condition {
                filter.condition_count = 1;
                filter.conditions = at(condition);
            }
            assert_eq!(
                FwpmFilterAdd0(driver.engine, at(&filter), In::null(), Out::null()),
                OK
            );
        };
        add(1, connect, None, Action::Permit);
        add(2, connect, Some(&web), Action::Block);
        add(3, connect, Some(&dns), Action::Permit);
        add(4, v4(LayerKind::AleAuthListen), None, Action::Block);

        let layer = connect.layer().expect("known").key();
        let at_connect = RawFilterTemplate {
            layer,
            flags: 2,
            enum_type: 1,
            ..ANY
        };
        assert_eq!(
            filters(driver, &at_connect),
            Ok(vec![3, 2, 1]),
            "heaviest first"
        );
        let blocks = RawFilterTemplate {
            action_mask: Action::Block.value() & !0x1000,
            ..at_connect
        };
        assert_eq!(filters(driver, &blocks), Ok(vec![2]));
        let to_web = RawFilterTemplate {
            enum_type: 0,
            condition_count: 1,
            conditions: at(&web),
            ..at_connect
        };
        assert_eq!(filters(driver, &to_web), Ok(vec![2, 1]));
        let decides = RawFilterTemplate { flags: 1, ..to_web };
        assert_eq!(filters(driver, &decides), Ok(vec![2]));

        let unknown = RawFilterTemplate {
            layer: Guid::from_u128(7),
            ..ANY
        };
        assert_eq!(
            filters(driver, &unknown).map_err(status),
            Err(NtStatus::FWP_LAYER_NOT_FOUND)
        );
        let invalid = RawFilterTemplate {
            enum_type: 2,
            ..ANY
        };
        assert_eq!(
            filters(driver, &invalid).map_err(status),
            Err(NtStatus::FWP_INVALID_ENUMERATOR)
        );
    });
}

#[test]
fn a_filters_provider_context_reaches_its_callout() {
    run_clean(Config::default(), |driver| {
        let engine = driver.engine;
        let bytes = [1_u8, 2, 3];
        let blob = RawBlob {
            size: 3,
            data: Out::<u8>::null().offset(bytes.as_ptr().addr()),
        };
        let context = raw_provider_context(Guid::from_u128(0xc0de), &blob);
        let mut id = 0;
        assert_eq!(
            FwpmProviderContextAdd2(engine, at(&context), In::null(), into(&mut id)),
            OK
        );
        let mut found = Out::<RawProviderContext>::null();
        assert_eq!(
            FwpmProviderContextGetById2(engine, id, into(&mut found)),
            OK
        );
        let shown = found.get().expect("found").context.get().expect("a blob");
        assert_eq!((shown.size, shown.data.as_in().at(2)), (3, Some(3)));
        FwpmFreeMemory0(into(&mut found).offset(0));

        let connect = v4(LayerKind::AleAuthConnect);
        let key = driver.callout_using_contexts(connect);
        let mut filter = driver.raw_filter(connect);
        filter.flags = wfp_schema::FilterFlags::HAS_PROVIDER_CONTEXT.bits();
        filter.action.kind = Action::CalloutUnknown.value();
        filter.action.key = key;
        let halves = context.key.to_bytes();
        let half = |at: usize| u64::from_le_bytes(*halves[at..].first_chunk().expect("8 bytes"));
        filter.context = [half(0), half(8)];
        assert_eq!(
            FwpmFilterAdd0(engine, at(&filter), In::null(), Out::null()),
            OK
        );
        behave(move |classify| {
            let at: In<RawProviderContext> = In::member(classify.filter.provider_context as u64);
            let seen = at.get().expect("a provider context");
            assert_eq!(seen.key, Guid::from_u128(0xc0de));
            assert_eq!(classify.filter.context, id, "its identifier");
            block(classify);
        });
        let outcome = driver.classify(connect, &[], Shown::default());
        assert_eq!(outcome, Outcome::Block);

        let used = FwpmProviderContextDeleteByKey0(engine, at(&context.key));
        assert_eq!(status(used), NtStatus::FWP_IN_USE);
        let mut other = context;
        other.key = Guid::from_u128(2);
        other.context_type = 99;
        let refused = FwpmProviderContextAdd0(engine, at(&other), In::null(), Out::null());
        assert_eq!(status(refused), NtStatus::FWP_INVALID_ENUMERATOR);
    });
}
