//! Contexts of flows, associated, removed, deleted and unregistered on several
//! processors at once: whatever happens, each context is deleted exactly once,
//! and nothing of a callout runs once it has been unregistered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use wfp_engine::{
    Callout, CalloutId, CalloutView, Engine, Filter, FilterEntry, FilterRecord, Flow, Host,
    Options, Registration, Request, RunningCallout, Session, Wait,
};
use wfp_schema::{
    Action, CalloutFlags, Guid, IpVersion, Layer, LayerId, LayerKind, NotifyType, NtStatus,
};

/// One registration of a callout, from registering to unregistering.
#[derive(Default)]
struct Life {
    unregistered: AtomicBool,
    /// How often each context was deleted.
    deleted: Mutex<HashMap<u64, u32>>,
}

impl Life {
    fn assert_alive(&self) {
        assert!(
            !self.unregistered.load(Ordering::SeqCst),
            "a function of the callout runs after it was unregistered"
        );
    }
}

#[derive(Default)]
struct Races;

impl Host for Races {
    type Callout = Arc<Life>;
    type Filter = ();

    fn make_filter(&self, _: &FilterRecord) {}

    fn notify(
        &self,
        callout: &CalloutView<'_, Self>,
        _: NotifyType,
        _: &FilterEntry<Self>,
        _: &mut u64,
    ) -> NtStatus {
        callout.host().assert_alive();
        NtStatus::SUCCESS
    }

    fn flow_delete(&self, callout: &CalloutView<'_, Self>, layer: LayerId, context: u64) {
        let life = callout.host();
        life.assert_alive();
        assert_eq!(layer, LayerId::STREAM_V4);
        std::thread::yield_now();
        *life.deleted.lock().unwrap().entry(context).or_default() += 1;
        life.assert_alive();
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wait(&self, _: Wait) {
        std::thread::yield_now();
    }
}

/// xorshift64.
struct Numbers(u64);

impl Numbers {
    const fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const KEY: Guid = Guid::from_u128(0xCA11);
const FLOWS: usize = 8;
const LAYER: LayerId = LayerId::STREAM_V4;

struct Stress {
    engine: Engine<Races>,
    flows: RwLock<Vec<Arc<Flow<Races>>>>,
    callout: CalloutId,
    /// Each context that was accepted, and the life of the callout that it belongs to.
    accepted: Mutex<Vec<u64>>,
    lives: Mutex<Vec<Arc<Life>>>,
    next_context: AtomicU64,
    classified: AtomicUsize,
    unregistered: AtomicUsize,
}

impl Stress {
    fn new(options: Options) -> Self {
        let engine = Engine::new(Races, options);
        engine.start_bfe();
        let life = Arc::<Life>::default();
        let callout = engine.register(registration(&life)).unwrap();
        let session = engine.open_session(Session::default()).unwrap();
        let layer = Layer::of(LayerKind::Stream, IpVersion::V4).unwrap();
        let name = Some("stress".to_owned());
        engine
            .add_callout(
                session,
                Callout {
                    key: KEY,
                    name: name.clone(),
                    layer: layer.key(),
                    ..Callout::default()
                },
            )
            .unwrap();
        engine
            .add_filter(
                session,
                Filter {
                    name,
                    layer: layer.key(),
                    action: Action::CalloutInspection,
                    callout: KEY,
                    ..Filter::default()
                },
            )
            .unwrap();
        let flows = (0..FLOWS).map(|_| engine.create_flow()).collect();
        Self {
            engine,
            flows: RwLock::new(flows),
            callout,
            accepted: Mutex::default(),
            lives: Mutex::new(vec![life]),
            next_context: AtomicU64::new(1),
            classified: AtomicUsize::new(0),
            unregistered: AtomicUsize::new(0),
        }
    }

    fn flow(&self, numbers: &mut Numbers) -> Arc<Flow<Races>> {
        let at = usize::try_from(numbers.below(FLOWS as u64)).unwrap();
        Arc::clone(&self.flows.read().unwrap()[at])
    }

    fn step(&self, numbers: &mut Numbers) {
        match numbers.below(8) {
            0..=2 => {
                let context = self.next_context.fetch_add(1, Ordering::Relaxed);
                let flow = self.flow(numbers);
                // Whoever deletes it may do so before this call returns.
                let status = self
                    .engine
                    .associate_context(flow.id(), LAYER, self.callout, context);
                match status {
                    NtStatus::SUCCESS => self.accepted.lock().unwrap().push(context),
                    NtStatus::OBJECT_NAME_EXISTS
                    | NtStatus::NOT_FOUND
                    | NtStatus::INVALID_PARAMETER => {}
                    other => panic!("associating: {other}"),
                }
            }
            3 => {
                let flow = self.flow(numbers);
                let status = self.engine.remove_context(flow.id(), LAYER, self.callout);
                assert!(
                    matches!(
                        status,
                        NtStatus::SUCCESS
                            | NtStatus::PENDING
                            | NtStatus::UNSUCCESSFUL
                            | NtStatus::NOT_FOUND
                    ),
                    "removing: {status}"
                );
            }
            4 => {
                let at = usize::try_from(numbers.below(FLOWS as u64)).unwrap();
                let next = self.engine.create_flow();
                let old = std::mem::replace(&mut self.flows.write().unwrap()[at], next);
                assert!(self.engine.end_flow(&old));
            }
            5 => self.unregister_and_register_again(),
            _ => {
                let flow = self.flow(numbers);
                let request = Request::new(LAYER, &[]).on_flow(&flow);
                self.engine.classify(&request, |call, _| {
                    let life = call.callout.host();
                    life.assert_alive();
                    std::thread::yield_now();
                    if call.flow_context != 0 {
                        let deleted = life.deleted.lock().unwrap();
                        let count = deleted.get(&call.flow_context).copied();
                        assert_eq!(count, None, "a context is used after it was deleted");
                        drop(deleted);
                        self.classified.fetch_add(1, Ordering::Relaxed);
                    }
                    life.assert_alive();
                });
            }
        }
    }

    fn unregister_and_register_again(&self) {
        // One at a time, so that the life that ends is known.
        let mut lives = self.lives.lock().unwrap();
        match self.engine.unregister_by_id(self.callout) {
            Ok(()) => {
                lives
                    .last()
                    .unwrap()
                    .unregistered
                    .store(true, Ordering::SeqCst);
                self.unregistered.fetch_add(1, Ordering::Relaxed);
                let life = Arc::<Life>::default();
                lives.push(Arc::clone(&life));
                let id = self.engine.register(registration(&life)).unwrap();
                assert_eq!(id, self.callout);
            }
            Err(NtStatus::DEVICE_BUSY) => {}
            Err(other) => panic!("unregistering: {other}"),
        }
    }

    /// Ends every flow and the callout, and compares what was accepted with what
    /// was deleted. How many contexts were accepted, seen by a classify, and how
    /// often the callout was unregistered in between.
    fn finish(self) -> [usize; 3] {
        for flow in self.flows.read().unwrap().iter() {
            self.engine.end_flow(flow);
        }
        assert_eq!(self.engine.flow_count(), 0);
        assert_eq!(self.engine.context_count(self.callout), 0);
        assert_eq!(self.engine.unregister_by_id(self.callout), Ok(()));
        let mut deleted: Vec<u64> = Vec::new();
        for life in self.lives.lock().unwrap().iter() {
            for (context, count) in life.deleted.lock().unwrap().iter() {
                assert_eq!(*count, 1, "context {context}");
                deleted.push(*context);
            }
        }
        deleted.sort_unstable();
        let mut accepted = self.accepted.into_inner().unwrap();
        accepted.sort_unstable();
        assert_eq!(deleted, accepted);
        [
            accepted.len(),
            self.classified.into_inner(),
            self.unregistered.into_inner(),
        ]
    }
}

fn registration(life: &Arc<Life>) -> Registration<Races> {
    Registration {
        key: KEY,
        flags: CalloutFlags::NONE,
        has_flow_delete: true,
        host: Arc::clone(life),
    }
}

#[test]
fn a_context_is_deleted_exactly_once_and_never_after_its_callout() {
    let mut totals = [0; 3];
    for (allow_association_after_busy, unregister_while_running) in [
        (false, RunningCallout::Waits),
        (true, RunningCallout::Waits),
        (true, RunningCallout::Busy),
    ] {
        for seed in 1..=4_u64 {
            println!(
                "seed {seed}, association after busy {allow_association_after_busy}, {unregister_while_running:?}"
            );
            let stress = Stress::new(Options {
                allow_association_after_busy,
                unregister_while_running,
                ..Options::default()
            });
            std::thread::scope(|threads| {
                for thread in 1..=4_u64 {
                    let stress = &stress;
                    threads.spawn(move || {
                        let mut numbers = Numbers(seed << 32 | thread << 8 | 1);
                        for _ in 0..3000 {
                            stress.step(&mut numbers);
                        }
                    });
                }
            });
            let counts = stress.finish();
            println!("contexts, classified with one, unregistered: {counts:?}");
            for (total, count) in totals.iter_mut().zip(counts) {
                *total += count;
            }
        }
    }
    assert!(totals.iter().all(|total| *total > 0), "{totals:?}");
}
