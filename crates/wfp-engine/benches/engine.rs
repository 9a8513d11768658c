//! What the engine itself costs: a classify with few and with many filters at
//! the layer, and a million flows.
//!
//! `cargo bench -p wfp-engine`. A figure is the best and the median of several
//! batches. The filters are generated, and always the same.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wfp_engine::{
    Callout, CalloutId, CalloutView, ClassifyCall, ClassifyOut, Condition, ConditionValue as V,
    Engine, Filter, FilterEntry, FilterRecord, Flow, Host, Options, Registration, Request, Session,
    SessionId, Value, Wait, Weight,
};
use wfp_schema::field::{ale_auth_connect as f, stream};
use wfp_schema::{
    Action, CalloutFlags, Guid, IpVersion, Layer, LayerId, LayerKind, MatchType, NotifyType,
    NtStatus, condition,
};

/// A host without anything around it.
struct Alone;

impl Host for Alone {
    type Callout = ();
    type Filter = ();

    fn make_filter(&self, _: &FilterRecord) {}

    fn notify(
        &self,
        _: &CalloutView<'_, Self>,
        _: NotifyType,
        _: &FilterEntry<Self>,
        _: &mut u64,
    ) -> NtStatus {
        NtStatus::SUCCESS
    }

    fn flow_delete(&self, _: &CalloutView<'_, Self>, _: LayerId, context: u64) {
        black_box(context);
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wait(&self, _: Wait) {}
}

const CALLOUT: Guid = Guid::from_u128(0xCA11);
const BATCHES: usize = 31;
const CALLS: usize = 2_000;
const FLOWS: u64 = 1_000_000;

fn main() -> Result<(), NtStatus> {
    // The benchmark harness passes flags such as `--bench`.
    println!("{:<44} {:>10} {:>10}", "classify, ns", "best", "median");
    for count in [1, 10, 100, 1_000, 10_000] {
        classify(count)?;
    }
    println!("{:<44} {:>10}", "1,000 filters more, us each", "once");
    for count in [0, 10_000] {
        adding(count)?;
    }
    flows()
}

/// xorshift64: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn port(&mut self) -> u16 {
        u16::try_from(self.below(1 << 16)).unwrap_or_default()
    }

    fn address(&mut self) -> u32 {
        u32::try_from(self.below(1 << 32)).unwrap_or_default()
    }
}

fn running() -> Result<(Engine<Alone>, SessionId), NtStatus> {
    let engine = Engine::new(Alone, Options::default());
    engine.start_bfe();
    let session = engine.open_session(Session::default())?;
    Ok((engine, session))
}

/// Registers and adds a callout.
fn add_callout(
    engine: &Engine<Alone>,
    session: SessionId,
    layer: &Layer,
) -> Result<CalloutId, NtStatus> {
    engine.register(Registration {
        key: CALLOUT,
        flags: CalloutFlags::NONE,
        has_flow_delete: true,
        host: (),
    })?;
    engine.add_callout(
        session,
        Callout {
            key: CALLOUT,
            name: Some("bench".to_owned()),
            layer: layer.key(),
            ..Callout::default()
        },
    )
}

/// A filter such as a firewall has: mostly an address or a network and ports,
/// some with a range, an application or a flag.
fn generated(numbers: &mut Numbers, layer: &Layer) -> Filter {
    let mut conditions = Vec::new();
    if numbers.below(4) > 0 {
        let protocol = if numbers.below(3) == 0 { 17 } else { 6 };
        conditions.push(Condition::equal(condition::IP_PROTOCOL, V::Uint8(protocol)));
    }
    match numbers.below(4) {
        0 => conditions.push(Condition::equal(
            condition::IP_REMOTE_ADDRESS,
            V::Uint32(numbers.address()),
        )),
        1 => conditions.push(Condition::equal(
            condition::IP_REMOTE_ADDRESS,
            V::V4AddrMask {
                address: numbers.address(),
                mask: u32::MAX << (8 + numbers.below(16)),
            },
        )),
        _ => {}
    }
    match numbers.below(4) {
        0 => conditions.extend(
            (0..=numbers.below(3))
                .map(|_| Condition::equal(condition::IP_REMOTE_PORT, V::Uint16(numbers.port()))),
        ),
        1 => {
            let low = numbers.port();
            let high = low.saturating_add(u16::try_from(numbers.below(1000)).unwrap_or_default());
            conditions.push(Condition::new(
                condition::IP_REMOTE_PORT,
                MatchType::Range,
                V::range(V::Uint16(low), V::Uint16(high)),
            ));
        }
        _ => {}
    }
    // None asks for the protocol alone, or one of the first would decide everything.
    if numbers.below(8) == 0 || conditions.len() < 2 {
        let name = numbers.below(50).to_le_bytes();
        conditions.push(Condition::equal(
            condition::ALE_APP_ID,
            V::ByteBlob(name.into()),
        ));
    }
    if numbers.below(16) == 0 {
        conditions.push(Condition::new(
            condition::FLAGS,
            MatchType::FlagsNoneSet,
            V::Uint32(1),
        ));
    }
    Filter {
        name: Some("bench".to_owned()),
        layer: layer.key(),
        action: Action::Block,
        weight: Weight::Exact(1 + numbers.below(1 << 32)),
        conditions,
        ..Filter::default()
    }
}

/// Classifies at `ALE_AUTH_CONNECT_V4`, where the lightest of `count` filters
/// asks a callout and the others seldom match.
fn classify(count: usize) -> Result<(), NtStatus> {
    let Some(layer) = Layer::of(LayerKind::AleAuthConnect, IpVersion::V4) else {
        return Err(NtStatus::FWP_LAYER_NOT_FOUND);
    };
    let (engine, session) = running()?;
    engine.begin_transaction(session, false)?;
    add_callout(&engine, session, layer)?;
    engine.add_filter(
        session,
        Filter {
            name: Some("bench".to_owned()),
            layer: layer.key(),
            action: Action::CalloutTerminating,
            callout: CALLOUT,
            weight: Weight::Exact(0),
            ..Filter::default()
        },
    )?;
    let mut numbers = Numbers(0x5746_5046);
    for _ in 1..count {
        engine.add_filter(session, generated(&mut numbers, layer))?;
    }
    engine.commit_transaction(session)?;

    let application = 51_u64.to_le_bytes();
    let traffic: Vec<Vec<Value<'_>>> = (0..64)
        .map(|_| {
            let mut values = vec![Value::Empty; layer.fields().len()];
            values[f::IP_PROTOCOL.get()] = Value::Uint8(6);
            values[f::IP_LOCAL_ADDRESS.get()] = Value::Uint32(numbers.address());
            values[f::IP_REMOTE_ADDRESS.get()] = Value::Uint32(numbers.address());
            values[f::IP_LOCAL_PORT.get()] = Value::Uint16(numbers.port());
            values[f::IP_REMOTE_PORT.get()] = Value::Uint16(numbers.port());
            values[f::ALE_APP_ID.get()] = Value::ByteBlob(&application);
            values[f::FLAGS.get()] = Value::Uint32(0);
            values
        })
        .collect();
    let mut decided = 0_usize;
    report(&format!("{count} filters"), CALLS, || {
        for values in traffic.iter().cycle().take(CALLS) {
            let verdict = engine.classify(&Request::new(layer.id(), values), permit);
            decided += usize::from(black_box(verdict).is_permit());
        }
    });
    assert!(decided > 0, "some traffic reaches the callout");
    Ok(())
}

const fn permit(_: &ClassifyCall<'_, Alone>, out: &mut ClassifyOut) {
    out.action = Action::Permit.value();
}

/// Adds a thousand filters to a layer that has `count`, each by itself, and all
/// in one transaction.
fn adding(count: usize) -> Result<(), NtStatus> {
    const MORE: usize = 1_000;
    let Some(layer) = Layer::of(LayerKind::AleAuthConnect, IpVersion::V4) else {
        return Err(NtStatus::FWP_LAYER_NOT_FOUND);
    };
    for together in [false, true] {
        let (engine, session) = running()?;
        let mut numbers = Numbers(0x5746_5046);
        let mut add = |count| {
            (0..count).try_for_each(|_| {
                let filter = generated(&mut numbers, layer);
                engine.add_filter(session, filter).map(|_| ())
            })
        };
        engine.begin_transaction(session, false)?;
        add(count)?;
        engine.commit_transaction(session)?;
        let start = Instant::now();
        if together {
            engine.begin_transaction(session, false)?;
        }
        add(MORE)?;
        if together {
            engine.commit_transaction(session)?;
        }
        let how = if together { "together" } else { "one by one" };
        println!(
            "{:<44} {:>10.1}",
            format!("{how}, to {count}"),
            each(start.elapsed(), MORE) / 1000.0
        );
    }
    Ok(())
}

/// Runs batches, and prints the best and the median time of one call.
fn report(name: &str, calls: usize, mut batch: impl FnMut()) {
    batch();
    let mut times: Vec<Duration> = (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            batch();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "{name:<44} {:>10.0} {:>10.0}",
        each(times[0], calls),
        each(times[BATCHES / 2], calls)
    );
}

/// Nanoseconds of one of `calls`.
#[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
fn each(time: Duration, calls: usize) -> f64 {
    time.as_nanos() as f64 / calls as f64
}

/// A million flows: made, given a context each, classified, ended.
fn flows() -> Result<(), NtStatus> {
    let Some(layer) = Layer::of(LayerKind::Stream, IpVersion::V4) else {
        return Err(NtStatus::FWP_LAYER_NOT_FOUND);
    };
    let (engine, session) = running()?;
    let callout = add_callout(&engine, session, layer)?;
    engine.add_filter(
        session,
        Filter {
            name: Some("bench".to_owned()),
            layer: layer.key(),
            action: Action::CalloutTerminating,
            callout: CALLOUT,
            ..Filter::default()
        },
    )?;
    let count = usize::try_from(FLOWS).unwrap_or(usize::MAX);
    let mut flows: Vec<Arc<Flow<Alone>>> = Vec::with_capacity(count);
    println!("{:<44} {:>10}", "a million flows, ns each", "once");
    let before = resident();
    once("create", || {
        flows.extend((0..FLOWS).map(|_| engine.create_flow()));
    });
    let bare = resident();
    once("associate a context", || {
        for (flow, context) in flows.iter().zip(1..) {
            let status = engine.associate_context(flow.id(), layer.id(), callout, context);
            assert_eq!(status, NtStatus::SUCCESS);
        }
    });
    let with_context = resident();
    let mut values = vec![Value::Empty; layer.fields().len()];
    values[stream::IP_REMOTE_PORT.get()] = Value::Uint16(443);
    let mut seen = 0_u64;
    once("classify with the context", || {
        for flow in &flows {
            let request = Request::new(layer.id(), &values).on_flow(flow);
            engine.classify(&request, |call, out| {
                seen += u64::from(call.flow_context != 0);
                out.action = Action::Permit.value();
            });
        }
    });
    assert_eq!(seen, FLOWS);
    once("end", || {
        for flow in flows {
            engine.end_flow(&flow);
        }
    });
    assert_eq!(engine.flow_count(), 0);
    if let (Some(before), Some(bare), Some(with_context)) = (before, bare, with_context) {
        println!(
            "{:<44} {:>10} {:>10}",
            "bytes a flow, without and with a context",
            bare.saturating_sub(before) / FLOWS,
            with_context.saturating_sub(before) / FLOWS
        );
    }
    Ok(())
}

fn once(name: &str, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let count = usize::try_from(FLOWS).unwrap_or(usize::MAX);
    println!("{name:<44} {:>10.0}", each(start.elapsed(), count));
}

/// Memory of this process in bytes, on Linux.
fn resident() -> Option<u64> {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}
