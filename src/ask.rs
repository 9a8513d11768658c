//! Holding operations until a user's program has answered.
//!
//! A classify that is to ask pends its operation and keeps it here, with a clone of the packet if
//! there is one and it is one datagram. The program reads the question, answers, and the operation goes on: see
//! [`release`]. Everything goes on at `PASSIVE_LEVEL`, in the work item or in the program's
//! request, and with no lock held: letting an operation go on may authorize it again at once.
//!
//! Whatever else happens, nothing stays held: a timer looks at deadlines while anything is, the
//! program's end, the engine's, sleep and the driver's own stop let everything go on by its rule's
//! default.

mod questions;
mod release;

use core::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use kmdf::{Driver, File};
use portcullis_core::{
    Asked, Asking, Question, Ruling, Subject,
    ask::{Absence, AnswerBucket, HeldSlot, Unasked},
};
use portcullis_proto::{Action, Counter, EventKind, LifecycleStep};
use wfp::{
    NtStatus, Result,
    callout::Classify,
    cell::KernelCell,
    inject::{InjectionHandle, Parcels, Transport},
    irql::Passive,
    layer::LayerType,
    nbl::Packet,
    pool::PoolVec,
    schema::{ConditionFlags, IpVersion},
    sync::{RawSpinLock, SpinLock},
    time,
};

use self::release::HeldOperation;
pub(crate) use self::{
    questions::{answer, read},
    release::{HeldPacket, Kept},
};
use crate::{
    callouts, device,
    state::{self, Core, tag},
};

/// Operations that can be held at a time.
const HELD: usize = 256;
/// Packets of theirs that can be on their way at a time.
const INJECTIONS: u32 = 256;
/// Eight answers each.
const ANSWER_BUCKETS: usize = 1024;
/// Between two looks at deadlines, in units of 100 nanoseconds.
const TICK: u64 = 250 * 10_000;

type Table = Asking<
    RawSpinLock,
    PoolVec<HeldSlot<RawSpinLock, HeldOperation>>,
    PoolVec<AnswerBucket<RawSpinLock>>,
    HeldOperation,
>;

/// What holding needs.
struct Holding {
    table: Table,
    /// The opening of the device through which questions are read and answered.
    asker: SpinLock<Option<File>>,
    /// What injections of held packets own.
    parcels: Parcels<()>,
    handles: Handles,
}

/// For IPv4 and IPv6, until the driver stops.
type Handles = [Option<InjectionHandle<Transport>>; 2];

static HOLDING: KernelCell<Holding> = KernelCell::new(tag::ASK);
/// Connects that were let go, and that the system has not authorized again yet, as it then does.
static RESUMING: AtomicU32 = AtomicU32::new(0);
/// How often, and how long each time, a stop waits for that: what was completed is authorized at once, but an application may be
/// gone and never be.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_millis(10);
/// Whether the timer is started.
static ARMED: AtomicBool = AtomicBool::new(false);

/// Makes room, and the handles with which packets that were held are sent on.
pub(crate) fn create(_driver: Driver, passive: Passive) -> Result {
    ARMED.store(false, Ordering::SeqCst);
    RESUMING.store(0, Ordering::SeqCst);
    let slots = PoolVec::try_from_fn(tag::ASK, HELD, |_| HeldSlot::new())?;
    let buckets = PoolVec::try_from_fn(tag::ASK, ANSWER_BUCKETS, |_| AnswerBucket::new())?;
    let parcels = Parcels::try_new(tag::ASK, INJECTIONS)?;
    // Where the driver lies and when it started is not for the network to guess.
    let seed = time::system_time() ^ (&raw const ARMED).addr() as u64;
    HOLDING.try_set_with(
        || {
            Ok(Holding {
                table: Asking::new(slots, buckets, seed),
                asker: SpinLock::new(None),
                parcels,
                handles: handles(passive)?,
            })
        },
        passive,
    )?;
    Ok(())
}

/// An injection handle for each IP version.
fn handles(passive: Passive) -> Result<Handles> {
    let mut handles = [None, None];
    for (place, version) in handles.iter_mut().zip([IpVersion::V4, IpVersion::V6]) {
        match InjectionHandle::create(version, passive) {
            Ok(handle) => *place = Some(handle),
            Err(status) => {
                destroy(&mut handles, passive);
                return Err(status);
            }
        }
    }
    Ok(handles)
}

/// Waits for the handles' injections.
fn destroy(handles: &mut Handles, passive: Passive) {
    for handle in handles.iter_mut().filter_map(Option::take) {
        if let Err(status) = handle.destroy(passive) {
            state::record(LifecycleStep::DestroyInjectionHandles, status);
        }
    }
}

/// Lets what is still held go on and waits for what is on its way. Callouts are gone.
pub(crate) fn delete(passive: Passive) {
    device::stop_ask_timer(passive);
    device::flush_ask_work();
    abandon(passive);
    // SAFETY: callouts are unregistered, requests are refused, timer and work item have stopped.
    if let Some(mut holding) = unsafe { HOLDING.take(passive) } {
        destroy(&mut holding.handles, passive);
    }
}

/// The engine that enforces answers has stopped.
pub(crate) fn without_engine(passive: Passive) {
    suspend(Absence::NoEngine, passive);
}

/// The engine is there, or about to be.
pub(crate) fn with_engine() {
    resume(Absence::NoEngine);
}

/// The system is about to sleep: who answers sleeps too.
pub(crate) fn before_sleep(passive: Passive) {
    suspend(Absence::Asleep, passive);
}

/// The system is back.
pub(crate) fn after_resume(_passive: Passive) {
    resume(Absence::Asleep);
}

/// Lets everything that is held go on, and nothing be held until [`resume`].
fn suspend(absence: Absence, passive: Passive) {
    if let Some(holding) = HOLDING.get() {
        holding.table.close(absence);
        abandon(passive);
    }
}

fn resume(absence: Absence) {
    if let Some(holding) = HOLDING.get() {
        holding.table.open(absence);
    }
}

/// Lets everything that is held go on by its rule's default: nobody can be waited for.
pub(crate) fn abandon(passive: Passive) {
    if let (Some(core), Some(holding)) = (state::core(), HOLDING.get()) {
        holding.table.release_all(time::system_time(), |released| {
            holding.go_on(core, released, passive);
        });
    }
}

/// A connect that was let go is authorized again.
pub(crate) fn resumed() {
    // One that was authorized more often than it was let go makes no difference.
    let _ = RESUMING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
        count.checked_sub(1)
    });
}

/// Waits until connects that were let go have been authorized again: without filters they would all be permitted.
pub(crate) fn settle(passive: Passive) {
    for _ in 0..LOOKS {
        if RESUMING.load(Ordering::SeqCst) == 0 {
            return;
        }
        passive.sleep(LOOK);
    }
}

/// An opening of the device has ended; if it is the one that answers, nobody does any more.
pub(crate) fn file_gone(file: File, passive: Passive) {
    let Some(holding) = HOLDING.get() else {
        return;
    };
    let mut asker = holding.asker.lock();
    if *asker != Some(file) {
        return;
    }
    *asker = None;
    holding.table.close(Absence::NoProgram);
    drop(asker);
    abandon(passive);
}

/// How many operations are held.
pub(crate) fn held() -> u32 {
    HOLDING.get().map_or(0, |holding| holding.table.len())
}

/// A flow begins: what was answered about it, which is remembered until [`flow_ended`].
pub(crate) fn flow_began(subject: &Subject) -> Option<Action> {
    HOLDING
        .get()?
        .table
        .flow_began(subject, time::system_time())
}

/// A flow has ended about which somebody was asked.
pub(crate) fn flow_ended(subject: &Subject) {
    if let Some(holding) = HOLDING.get() {
        holding.table.flow_ended(subject);
    }
}

/// Asks about the operation of a classify, if that is possible and was not done before.
///
/// `packet` is the classify's, `keep` clones it, or tells why it does not.
pub(crate) fn ask<L: LayerType>(
    core: &Core,
    call: &Classify<'_, L>,
    subject: &Subject,
    question: Question<'_>,
    packet: Option<Packet<'_>>,
    keep: impl FnOnce() -> Result<Kept>,
) -> Asked {
    let Question {
        decision,
        event,
        is_reported,
    } = question;
    let terms = decision.ask;
    let undecided = |counter| {
        core.statistics().count(counter);
        Asked::Decided(terms.otherwise)
    };
    let Some(holding) = HOLDING.get() else {
        return undecided(Counter::AskCannotHold);
    };
    let now = time::system_time();
    let flags = call.fields.flags();
    if flags.contains(ConditionFlags::IS_HONORING_POLICY_AUTHORIZE) {
        // Of a connection that was redirected: it cannot be held here, and is authorized by itself too.
        return match holding.table.authorize(subject, terms, false, now) {
            Ruling::Answered(action) => Asked::Decided(action),
            _ => Asked::Elsewhere,
        };
    }
    let local = call.fields.known().local_address;
    let version = local.map_or_else(|| call.fields.version(), callouts::version_of);
    let may_hold = call.may_pend()
        && !flags.contains(ConditionFlags::IS_REAUTHORIZE)
        && packet.is_none_or(|packet| !holding.is_own(version, packet));
    let hold = match holding.table.authorize(subject, terms, may_hold, now) {
        Ruling::Hold(hold) => hold,
        Ruling::Answered(action) => return Asked::Decided(action),
        Ruling::Waits => {
            core.statistics().count(Counter::AskRepeated);
            return Asked::Held;
        }
        Ruling::Default(_, why) => {
            return undecided(match why {
                Unasked::CannotHold => Counter::AskCannotHold,
                Unasked::Nobody => Counter::AskNobody,
                Unasked::NoRoom => Counter::AskNoRoom,
            });
        }
    };
    let kept = keep().and_then(|packet| {
        let operation = call.pend()?;
        Ok(HeldOperation {
            operation,
            packet,
            version,
        })
    });
    let Ok(kept) = kept else {
        holding.table.give_up(hold);
        return undecided(Counter::AskCannotHold);
    };
    event.kind = EventKind::Asked.raw();
    event.verdict = terms.otherwise.raw();
    hold.label(event, now);
    core.statistics().count(Counter::Asked);
    // Before it can be answered: the answer's event comes after this one.
    if is_reported {
        core.report(event);
    }
    holding.table.keep(hold, kept, event, is_reported);
    arm();
    device::enqueue_ask_work();
    Asked::Held
}

/// The work item: tells readers of questions, and lets go what has waited too long.
pub(crate) fn work(passive: Passive) {
    let (Some(core), Some(holding)) = (state::core(), HOLDING.get()) else {
        return;
    };
    ARMED.store(false, Ordering::SeqCst);
    holding.table.expire(time::system_time(), |released| {
        holding.go_on(core, released, passive);
    });
    // In this order: what is held after the look at the table starts the timer itself.
    if !holding.table.is_empty() {
        arm();
    }
    questions::serve(core, holding);
}

/// Starts the timer unless it is started.
fn arm() {
    if !state::is_stopping() && !ARMED.swap(true, Ordering::SeqCst) {
        device::start_ask_timer(TICK);
    }
}

impl Holding {
    /// The handle of an IP version.
    fn handle(&self, version: IpVersion) -> Option<&InjectionHandle<Transport>> {
        self.handles.get(version as usize)?.as_ref()
    }

    /// Whether the packet comes from here: it was held, and is on its way.
    fn is_own(&self, version: IpVersion, packet: Packet<'_>) -> bool {
        let handle = self.handle(version);
        handle.is_some_and(|handle| handle.state(packet).is_own())
    }

    /// Makes an opening of the device the one that answers, unless another is.
    fn admit(&self, file: File) -> Result {
        let mut asker = self.asker.lock();
        let is_admitted = *asker.get_or_insert(file) == file;
        if is_admitted {
            self.table.open(Absence::NoProgram);
        }
        drop(asker);
        if is_admitted {
            Ok(())
        } else {
            Err(NtStatus::DEVICE_BUSY)
        }
    }
}
