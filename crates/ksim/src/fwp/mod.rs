//! The Windows Filtering Platform's kernel ABI over [`wfp_engine`], which holds all of its semantics.
//!
//! ```text
//! layout            the structures of fwptypes.h, fwpmtypes.h and fwpsk.h
//! marshal, give     management objects out of a driver's structures, and into structures for it
//! session, objects  Fwpm: sessions, transactions, providers, sublayers, callouts, filters
//! bfe               the state of the base filtering engine
//! callout, flow     Fwps: registering callouts, flow contexts, delayed operations
//! defer, redirect   Fwps: classifies that are decided later ─ operation; redirectors
//! nbl, inject       Fwps: net buffer lists of packets, their contexts (nbl_context), headers (construct), injection
//! options           options of flows and of the engine
//! token             the tokens of endpoints' owners
//! host              what the engine asks back: filter structures, notify and flow delete functions
//! classify, stream  indications of the network stack to callouts ─ identity, scratch, current, check
//! stack             what drivers ask of the network stack
//! ```
//!
//! Nothing here is decided about traffic or objects: structures are read field by field and checked, the engine is
//! asked, and its answer is put into structures. No lock of this module is held while the driver runs.

pub mod bfe;
mod callout;
mod check;
pub mod classify;
mod construct;
mod current;
mod defer;
mod flow;
mod give;
pub mod host;
mod identity;
mod inject;
mod layout;
mod marshal;
mod nbl;
mod nbl_context;
mod objects;
mod operation;
mod options;
mod reassemble;
mod redirect;
mod scratch;
mod security;
mod serve;
mod session;
mod show;
pub mod stack;
mod stream;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{OnceLock, Weak};

use parking_lot::Mutex;
use wfp_engine::{BootStore, Engine, Options};
use wfp_schema::StreamFlags;

use crate::cpu::Cpu;
use crate::export::Export;
use crate::kernel::Machine;
use crate::ndis::MdlLayout;
use crate::net::{StageId, StreamInjection};
use crate::sched::Thread;

pub use bfe::Bfe;
pub use classify::KernelFiltering;
pub(crate) use current::Current;
pub use host::KernelHost;
pub(crate) use objects::check_filters_left;
pub use stack::{InjectedPacket, InjectedStreamData, StackRequest};

/// What this module gives to drivers.
pub(crate) static EXPORTS: &[&[Export]] = &[
    bfe::EXPORTS,
    callout::EXPORTS,
    construct::EXPORTS,
    defer::EXPORTS,
    flow::EXPORTS,
    inject::EXPORTS,
    inject::handle::EXPORTS,
    nbl::EXPORTS,
    nbl_context::EXPORTS,
    objects::callout::EXPORTS,
    objects::filter::EXPORTS,
    objects::layer::EXPORTS,
    objects::provider::EXPORTS,
    objects::provider_context::EXPORTS,
    objects::query::EXPORTS,
    objects::security::EXPORTS,
    objects::sublayer::EXPORTS,
    options::EXPORTS,
    reassemble::EXPORTS,
    redirect::EXPORTS,
    session::EXPORTS,
    token::EXPORTS,
];

/// How the platform is simulated.
#[derive(Debug, Clone)]
pub struct Config {
    /// What documentation leaves open.
    pub options: Options,
    /// Whether the base filtering engine runs when the machine has booted.
    pub bfe_running: bool,
    /// The persistent and boot-time objects that the machine finds when it boots: those of an earlier one.
    pub boot_store: BootStore,
    /// Services that do not start with the system, because they are disabled, started by hand, or gone: when the base
    /// filtering engine starts, the persistent objects of their providers are disabled.
    pub services_off: Vec<String>,
    /// How packets are spread over MDLs.
    pub mdl_layout: MdlLayout,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            options: Options::default(),
            bfe_running: true,
            boot_store: BootStore::default(),
            services_off: Vec::new(),
            mdl_layout: MdlLayout::Whole,
        }
    }
}

/// The platform's state in one machine.
#[derive(Debug)]
pub(crate) struct State {
    engine: Engine<KernelHost>,
    mdl_layout: MdlLayout,
    injection: inject::State,
    sessions: session::State,
    nbl_contexts: nbl_context::State,
    objects: objects::State,
    options: options::State,
    subscriptions: bfe::State,
    operations: defer::State,
    pended: Mutex<HashMap<usize, u64>>,
    records: redirect::State,
    removals: flow::Removals,
    requests: Mutex<VecDeque<StackRequest>>,
    /// Classify functions that took long once.
    slow: Mutex<HashSet<usize>>,
}

impl State {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            engine: Engine::boot(
                KernelHost::new(&config.services_off),
                config.options.clone(),
                config.boot_store.clone(),
            ),
            mdl_layout: config.mdl_layout,
            injection: inject::State::default(),
            sessions: session::State::default(),
            nbl_contexts: nbl_context::State::default(),
            objects: objects::State::default(),
            options: options::State::default(),
            subscriptions: bfe::State::default(),
            operations: defer::State::default(),
            pended: Mutex::default(),
            records: redirect::State::default(),
            removals: flow::Removals::default(),
            requests: Mutex::default(),
            slow: Mutex::default(),
        }
    }

    /// Makes the machine known to the engine's host, and boots the platform.
    pub(crate) fn boot(&self, machine: Weak<Machine>, config: &Config) {
        self.engine.host().attach(machine);
        if config.bfe_running {
            self.engine.start_bfe();
        }
    }

    /// The classify in progress on the calling thread, which runs on `cpu`.
    #[allow(clippy::unused_self, reason = "the classifies are the platform's")]
    pub(crate) fn current(&self, cpu: &Cpu) -> &'static Current {
        debug_assert!(Cpu::current().is_some_and(|here| std::ptr::eq(here, cpu)));
        Thread::current()
            .expect("a processor runs on threads only")
            .classify()
    }

    fn ask(&self, request: StackRequest) {
        self.requests.lock().push_back(request);
    }

    /// Takes the requests that `wanted` names, in order; the others stay in theirs.
    fn take_requests(&self, wanted: impl Fn(&StackRequest) -> bool) -> Vec<StackRequest> {
        let mut taken = Vec::new();
        let mut requests = self.requests.lock();
        // Most of the time there are none.
        if !requests.is_empty() {
            let mut left = VecDeque::with_capacity(requests.len());
            for request in requests.drain(..) {
                if wanted(&request) {
                    taken.push(request);
                } else {
                    left.push_back(request);
                }
            }
            *requests = left;
        }
        taken
    }

    /// Takes what was injected into a direction of a stream: at `stage`, without an end, or all of it.
    fn take_injected(
        &self,
        flow: u64,
        outbound: bool,
        stage: Option<StageId>,
    ) -> Vec<StreamInjection> {
        let wanted = |request: &StackRequest| {
            let StackRequest::InjectStream(data) = request else {
                return false;
            };
            let end = StreamFlags::SEND_DISCONNECT | StreamFlags::RECEIVE_DISCONNECT;
            let injection = &data.injection;
            data.flow_handle == flow
                && injection.flags.contains(StreamFlags::SEND) == outbound
                && stage.is_none_or(|stage| {
                    injection.stage == stage && !injection.flags.intersects(end)
                })
        };
        let injection = |request| match request {
            StackRequest::InjectStream(data) => Some(data.injection),
            _ => None,
        };
        let taken = self.take_requests(wanted);
        taken.into_iter().filter_map(injection).collect()
    }
}

impl Machine {
    /// The filter engine: its objects, and what another product would add to them.
    ///
    /// Changes that concern a driver's callout call the driver, so make those on a processor
    /// ([`Kernel::on`](crate::Kernel::on)) at `PASSIVE_LEVEL`.
    #[must_use]
    pub const fn filter_engine(&self) -> &Engine<KernelHost> {
        &self.fwp.engine
    }

    /// The base filtering engine, to start and to stop.
    #[must_use]
    pub const fn bfe(&self) -> Bfe<'_> {
        Bfe::new(self)
    }

    /// The way from a network stack to the callouts, for the processor with this number: use it there only.
    #[must_use]
    pub fn filtering(&self, processor: u32) -> KernelFiltering {
        KernelFiltering::new(self, processor)
    }

    /// What drivers have asked of the network stack since the last time, in order.
    #[must_use]
    pub fn take_stack_requests(&self) -> VecDeque<StackRequest> {
        std::mem::take(&mut *self.fwp.requests.lock())
    }
}

/// A function of the driver's by its address; `None` for NULL.
///
/// # Safety
/// `F` is the type of a function pointer, the one that the driver's function has there.
const unsafe fn function<F: Copy>(address: usize) -> Option<F> {
    const {
        assert!(
            size_of::<F>() == size_of::<usize>(),
            "F is a function pointer"
        );
    }
    if address == 0 {
        return None;
    }
    // SAFETY: not NULL, of the same size, and the caller vouches for the type.
    Some(unsafe { std::mem::transmute_copy::<usize, F>(&address) })
}

/// The machine that a host belongs to: known once it has been made.
type Attached = OnceLock<Weak<Machine>>;
