//! Framework objects: handles, the tree, references and contexts.
//!
//! All objects of a machine are in one [`State`] under one lock, which is never held while a driver runs. A
//! handle is a number that was never used before, so that a stale one is always told from a live one; what kind
//! of object it named is part of it.

use std::collections::HashMap;

use wfp_schema::NtStatus;

use super::abi::{Level, ObjectCallback, Scope};
use super::attributes::Attributes;
use super::client::Client;
use super::deferred::Deferral;
use super::device::{Device, FileObject};
use super::device_init::DeviceInit;
use super::driver::Driver;
use super::lock::{SpinLock, WaitLock};
use super::lookaside::Lookaside;
use super::memory::{Collection, Memory, Text};
use super::queue::Queue;
use super::registry::Key;
use super::request::Request;
use super::target::Target;
use super::timer::Timer;
use crate::export::Call;
use crate::kernel::Bugcheck;
use crate::nt::io_memory::Guarded;
use crate::verifier::{ARGUMENT, HANDLE_TYPE, OBJECT_STALE, REQUEST_COMPLETION, Rule};

/// `WDF_VIOLATION`.
const WDF_VIOLATION: u32 = 0x10d;
/// `WDF_INVALID_HANDLE`, a subcode of it.
const WDF_INVALID_HANDLE: u64 = 5;

/// What names an object; its handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(usize);

/// Where handles lie: addresses that nobody can touch.
const BASE: usize = 0xffff_8000_0000_0000;
const KIND_SHIFT: u32 = 41;
const SERIAL_SHIFT: u32 = 4;
const KIND_MASK: usize = 0x3f;

impl Id {
    /// No object's.
    pub(crate) const NONE: Self = Self(0);

    const fn new(kind: Kind, serial: usize) -> Self {
        Self(BASE | (kind as usize) << KIND_SHIFT | serial << SERIAL_SHIFT)
    }

    /// The handle that the driver gets.
    pub(crate) const fn handle(self) -> usize {
        self.0
    }

    /// The kind of object that a handle names or named.
    fn kind(handle: usize) -> Option<Kind> {
        let kind = Kind::ALL.get((handle >> KIND_SHIFT) & KIND_MASK)?;
        (handle >= BASE && handle.is_multiple_of(1 << SERIAL_SHIFT)).then_some(*kind)
    }
}

macro_rules! kinds {
    ($($(#[$meta:meta])* $kind:ident $name:literal $code:literal,)*) => {
        /// What an object is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Kind { $($(#[$meta])* $kind),* }

        impl Kind {
            const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name of its handle type.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// The number that the framework's bug checks carry.
            const fn code(self) -> u64 {
                match self { $(Self::$kind => $code),* }
            }
        }

        /// What an object holds.
        #[derive(Debug)]
        #[allow(dead_code, reason = "an object of the driver's own holds nothing")]
        pub(crate) enum Body { $($kind(Box<$kind>)),* }

        impl Body {
            const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind),* }
            }
        }
    };
}

type File = FileObject;
type Dpc = Deferral;
type WorkItem = Deferral;

/// An object of the driver's own, made by `WdfObjectCreate`.
#[derive(Debug)]
pub(crate) struct General;

kinds! {
    Driver "WDFDRIVER" 0x1001,
    Device "WDFDEVICE" 0x1002,
    Queue "WDFQUEUE" 0x1003,
    Request "WDFREQUEST" 0x1008,
    File "WDFFILEOBJECT" 0x1018,
    Timer "WDFTIMER" 0x1028,
    Dpc "WDFDPC" 0x1015,
    WorkItem "WDFWORKITEM" 0x1025,
    SpinLock "WDFSPINLOCK" 0x1024,
    WaitLock "WDFWAITLOCK" 0x1023,
    Memory "WDFMEMORY" 0x100a,
    Text "WDFSTRING" 0x1007,
    Lookaside "WDFLOOKASIDE" 0x1009,
    Target "WDFIOTARGET" 0x1201,
    Collection "WDFCOLLECTION" 0x100e,
    Key "WDFKEY" 0x1006,
    General "WDFOBJECT" 0x1000,
    /// Not an object of the driver's, but given to it as a pointer that it must not look behind.
    DeviceInit "WDFDEVICE_INIT" 0x1000,
}

/// How far an object's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// In use.
    Live,
    /// Deleted, its cleanup not yet begun because that needs `PASSIVE_LEVEL`.
    DeletePending,
    /// Its children are being or were cleaned up, then itself.
    Disposed,
    /// Given back; only references keep it.
    Destroyed,
}

/// A context of an object, with the callbacks that came with it.
#[derive(Debug)]
struct Context {
    /// Identifies the type; 0 for callbacks without a context.
    unique_type: usize,
    memory: Option<Guarded>,
    cleanup: Option<ObjectCallback>,
    destroy: Option<ObjectCallback>,
}

/// A framework object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) kind: Kind,
    /// The globals of the driver it belongs to.
    pub(crate) client: usize,
    pub(crate) parent: Option<Id>,
    pub(crate) children: Vec<Id>,
    pub(crate) references: u32,
    pub(crate) phase: Phase,
    pub(crate) level: Level,
    pub(crate) scope: Scope,
    contexts: Vec<Context>,
    pub(crate) body: Body,
}

/// Everything that the framework keeps for one machine.
#[derive(Debug, Default)]
pub(crate) struct State {
    serial: usize,
    objects: HashMap<Id, Object>,
    /// By the address of their globals.
    pub(crate) clients: HashMap<usize, Client>,
    /// Requests by the address of their `IRP`.
    pub(crate) irps: HashMap<usize, Id>,
}

macro_rules! bodies {
    ($($get:ident $kind:ident $body:ty;)*) => {
        $(
            /// The body of such an object, if `id` is one.
            pub(crate) fn $get(&mut self, id: Id) -> Option<&mut $body> {
                match &mut self.objects.get_mut(&id)?.body {
                    Body::$kind(body) => Some(body),
                    _ => None,
                }
            }
        )*
    };
}

impl State {
    bodies! {
        driver Driver Driver;
        device Device Device;
        queue Queue Queue;
        request Request Request;
        file File FileObject;
        timer Timer Timer;
        dpc Dpc Deferral;
        work_item WorkItem Deferral;
        spin_lock SpinLock SpinLock;
        wait_lock WaitLock WaitLock;
        memory Memory Memory;
        text Text Text;
        lookaside Lookaside Lookaside;
        target Target Target;
        collection Collection Collection;
        key Key Key;
        device_init DeviceInit DeviceInit;
    }

    /// Makes an object. What the attributes leave open it has from its parent.
    ///
    /// # Errors
    /// `STATUS_DELETE_PENDING` when the parent is being deleted.
    pub(crate) fn create(
        &mut self,
        client: usize,
        attributes: &Attributes,
        body: Body,
    ) -> Result<Id, NtStatus> {
        let (mut level, mut scope) = (Level::Dispatch, Scope::None);
        if let Some(parent) = attributes.parent {
            let parent = self
                .objects
                .get(&parent)
                .filter(|parent| parent.phase == Phase::Live);
            let parent = parent.ok_or(NtStatus::DELETE_PENDING)?;
            (level, scope) = (parent.level, parent.scope);
        }
        self.serial += 1;
        let id = Id::new(body.kind(), self.serial);
        if let Some(parent) = attributes
            .parent
            .and_then(|parent| self.objects.get_mut(&parent))
        {
            parent.children.push(id);
        }
        let mut object = Object {
            kind: body.kind(),
            client,
            parent: attributes.parent,
            children: Vec::new(),
            references: 1,
            phase: Phase::Live,
            level: attributes.level.unwrap_or(level),
            scope: attributes.scope.unwrap_or(scope),
            contexts: Vec::new(),
            body,
        };
        object.add_context(attributes).ok();
        self.objects.insert(id, object);
        Ok(id)
    }

    /// The object, if it exists.
    pub(crate) fn get(&self, id: Id) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// The object, if it exists.
    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Object> {
        self.objects.get_mut(&id)
    }

    /// The objects of a kind.
    pub(crate) fn of_kind(&self, kind: Kind) -> Vec<Id> {
        let all = self.objects.iter();
        all.filter(|(_, object)| object.kind == kind)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Takes the object out of the world.
    pub(crate) fn remove(&mut self, id: Id) -> Option<Object> {
        self.objects.remove(&id)
    }

    /// The objects of one driver, oldest first.
    pub(crate) fn objects_of(&self, client: usize) -> Vec<(Id, Kind)> {
        let mine = self
            .objects
            .iter()
            .filter(|(_, object)| object.client == client);
        let mut mine: Vec<_> = mine.map(|(id, object)| (*id, object.kind)).collect();
        mine.sort_by_key(|(id, _)| id.0 & ((1 << KIND_SHIFT) - 1));
        mine
    }

    /// The minor of the framework's version that the driver of `id` was built for.
    pub(crate) fn version_of(&self, id: Id) -> u32 {
        let client = self
            .get(id)
            .and_then(|object| self.clients.get(&object.client));
        client.map_or(0, |client| client.minor)
    }

    /// The nearest object of `kind` among `id` and its ancestors.
    pub(crate) fn ancestor(&self, id: Id, kind: Kind) -> Option<Id> {
        let mut at = Some(id);
        while let Some(id) = at {
            let object = self.objects.get(&id)?;
            if object.kind == kind {
                return Some(id);
            }
            at = object.parent;
        }
        None
    }
}

impl Object {
    /// Adds a context. `None` when the type is there already; then its address comes back instead.
    pub(crate) fn add_context(&mut self, attributes: &Attributes) -> Result<usize, usize> {
        let (unique_type, size) = attributes.context.unwrap_or((0, 0));
        if unique_type == 0 && attributes.cleanup.is_none() && attributes.destroy.is_none() {
            return Ok(0);
        }
        if let Some(known) = self.context(unique_type) {
            return Err(known);
        }
        let memory = (unique_type != 0).then(|| Guarded::new(size));
        let address = memory.as_ref().map_or(0, Guarded::address);
        let Attributes {
            cleanup, destroy, ..
        } = *attributes;
        self.contexts.push(Context {
            unique_type,
            memory,
            cleanup,
            destroy,
        });
        Ok(address)
    }

    /// The address of the context of a type.
    pub(crate) fn context(&self, unique_type: usize) -> Option<usize> {
        let context = self
            .contexts
            .iter()
            .find(|context| unique_type != 0 && context.unique_type == unique_type)?;
        context.memory.as_ref().map(Guarded::address)
    }

    /// Takes the cleanup callbacks, which are called once.
    pub(crate) fn take_cleanups(&mut self) -> Vec<ObjectCallback> {
        self.contexts
            .iter_mut()
            .filter_map(|context| context.cleanup.take())
            .collect()
    }

    /// Takes the destroy callbacks, which are called once.
    pub(crate) fn take_destroys(&mut self) -> Vec<ObjectCallback> {
        self.contexts
            .iter_mut()
            .filter_map(|context| context.destroy.take())
            .collect()
    }

    /// Whether the driver wrote behind the end of a context.
    pub(crate) fn context_overrun(&self) -> bool {
        self.contexts
            .iter()
            .filter_map(|context| context.memory.as_ref())
            .any(|memory| !memory.intact())
    }

    /// Whether `address` is that of a context.
    pub(crate) fn owns_context(&self, address: usize) -> bool {
        self.contexts
            .iter()
            .filter_map(|context| context.memory.as_ref())
            .any(|memory| memory.address() == address)
    }
}

/// Records a breach of `rule` and stops the machine with `WDF_VIOLATION`, as the framework does.
pub(crate) fn fatal(call: &Call<'_>, rule: &Rule, parameters: [u64; 3], message: &str) -> ! {
    let [first, second, third] = parameters;
    stop(
        call,
        rule,
        WDF_VIOLATION,
        [first, second, third, 0],
        message,
    )
}

/// Records a breach of `rule` and stops the machine with the bug check `code`.
pub(crate) fn stop(
    call: &Call<'_>,
    rule: &Rule,
    code: u32,
    parameters: [u64; 4],
    message: &str,
) -> ! {
    call.violation(rule, message);
    let place = call.machine().verifier().site(call.site());
    let message = format!("{message}, in {} called from {place}", call.name());
    call.machine().crash(Bugcheck {
        code,
        parameters,
        message,
        ..Bugcheck::default()
    })
}

/// The object that `handle` names, which must be of `kind`.
pub(crate) fn resolve(call: &Call<'_>, handle: usize, kind: Kind) -> Id {
    let id = resolve_any(call, handle);
    let found = Id::kind(handle);
    if found != Some(kind) {
        let found = found.map_or("nothing", Kind::name);
        let message = format!("{handle:#x} is a {found}, not a {}", kind.name());
        fatal(
            call,
            &HANDLE_TYPE,
            [WDF_INVALID_HANDLE, handle as u64, kind.code()],
            &message,
        );
    }
    id
}

/// The object that `handle` names, of whatever kind.
pub(crate) fn resolve_any(call: &Call<'_>, handle: usize) -> Id {
    let id = Id(handle);
    if call.machine().kmdf().lock().objects.contains_key(&id) {
        return id;
    }
    let parameters = [WDF_INVALID_HANDLE, handle as u64, Kind::General.code()];
    match Id::kind(handle) {
        Some(Kind::Request) => {
            let message = format!("the WDFREQUEST {handle:#x} was completed before");
            fatal(call, &REQUEST_COMPLETION, parameters, &message)
        }
        Some(kind) => {
            let message = format!("the {} {handle:#x} does not exist any more", kind.name());
            fatal(call, &OBJECT_STALE, parameters, &message)
        }
        None => {
            let message = format!("{handle:#x} is not a framework handle");
            fatal(call, &OBJECT_STALE, parameters, &message)
        }
    }
}

/// The driver's globals, which must be those of a bound driver.
pub(crate) fn client(call: &Call<'_>, globals: usize) -> usize {
    if call.machine().kmdf().lock().clients.contains_key(&globals) {
        return globals;
    }
    let message = format!("{globals:#x} are not the globals of a driver bound to the framework");
    fatal(
        call,
        &ARGUMENT,
        [WDF_INVALID_HANDLE, globals as u64, Kind::General.code()],
        &message,
    )
}

/// Stops the machine when a pointer that a function needs is NULL, as the framework does.
pub(crate) fn not_null(call: &Call<'_>, address: usize, what: &str) {
    /// `WDF_REQUIRED_PARAMETER_IS_NULL`.
    const REQUIRED_PARAMETER_IS_NULL: u64 = 4;
    if address == 0 {
        let message = format!("{what} is NULL");
        fatal(
            call,
            &ARGUMENT,
            [REQUIRED_PARAMETER_IS_NULL, 0, call.site() as u64],
            &message,
        );
    }
}
