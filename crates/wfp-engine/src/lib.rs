//! The filter engine of the Windows Filtering Platform as a pure model.
//!
//! No packets, no pointers, no ABI: objects, transactions, arbitration, callouts
//! and flow contexts, with the rules and the statuses of the real engine.
//!
//! ```text
//!      drivers' Fwpm calls        drivers' Fwps calls        a network stack
//!              │                          │                         │
//!   sessions, transactions,      register, unregister,      classify, plan, flows
//!   add_*, delete_*, objects     contexts of flows                  │
//!              │                          │                         │
//!   ┌──────────▼──────────────────────────▼─────────────────────────▼──────────┐
//!   │ Engine<H>     objects ──commit──▶ table of filters ◀──reads── classify   │
//!   └──────────┬──────────────────────────┬─────────────────────────┬──────────┘
//!    Host::notify, make_filter    Host::flow_delete       the closure given to classify
//!              │                          │                         │
//!              └──────────── callouts' functions, called with no lock held ──────
//! ```
//!
//! A [`Host`] stands for the world around: it keeps what the engine only carries
//! (the entry points of a callout, the structure by which a callout sees a
//! filter), calls callouts, and has the clock. An [`Engine`] is shared by
//! reference and used from any number of threads.
//!
//! ```
//! # use std::time::Duration;
//! # use wfp_engine::{CalloutView, FilterEntry, FilterRecord, Wait};
//! # use wfp_schema::{NtStatus, NotifyType};
//! use wfp_engine::{
//!     Callout, ClassifyOut, Engine, Filter, Host, Options, Registration, Request, Session,
//!     SubLayer, Value,
//! };
//! use wfp_schema::{Action, CalloutFlags, Guid, Layer, LayerKind, IpVersion, Rights};
//!
//! # struct Alone;
//! # impl Host for Alone {
//! #     type Callout = &'static str;
//! #     type Filter = ();
//! #     fn make_filter(&self, _: &FilterRecord) {}
//! #     fn notify(&self, _: &CalloutView<'_, Self>, _: NotifyType, _: &FilterEntry<Self>, _: &mut u64) -> NtStatus {
//! #         NtStatus::SUCCESS
//! #     }
//! #     fn flow_delete(&self, _: &CalloutView<'_, Self>, _: wfp_schema::LayerId, _: u64) {}
//! #     fn now(&self) -> Duration { Duration::ZERO }
//! #     fn wait(&self, _: Wait) {}
//! # }
//! # fn main() -> Result<(), NtStatus> {
//! let engine = Engine::new(Alone, Options::default());
//! engine.start_bfe();
//! let key = Guid::from_u128(1);
//! let layer = Layer::of(LayerKind::AleAuthConnect, IpVersion::V4).unwrap();
//!
//! let registered = engine.register(Registration {
//!     key, flags: CalloutFlags::NONE, has_flow_delete: false, host: "mine",
//! })?;
//! let session = engine.open_session(Session::dynamic())?;
//! engine.begin_transaction(session, false)?;
//! let name = Some("example".to_owned());
//! let sublayer = engine.add_sublayer(session, SubLayer { name: name.clone(), ..Default::default() })?;
//! let added = engine.add_callout(session, Callout {
//!     key, name: name.clone(), layer: layer.key(), ..Default::default()
//! })?;
//! assert_eq!(added, registered);
//! engine.add_filter(session, Filter {
//!     name, sublayer, layer: layer.key(), action: Action::CalloutTerminating, callout: key,
//!     ..Default::default()
//! })?;
//! engine.commit_transaction(session)?;
//!
//! let values = vec![Value::Empty; layer.fields().len()];
//! let verdict = engine.classify(&Request::new(layer.id(), &values), |call, out: &mut ClassifyOut| {
//!     assert_eq!(*call.callout.host(), "mine");
//!     out.action = Action::Block.value();
//!     out.rights = Rights::NONE;
//! });
//! assert!(!verdict.is_permit());
//! # Ok(())
//! # }
//! ```
//!
//! What Microsoft's documentation leaves open is a field of [`Options`], listed by
//! [`Options::questions`]. Callers in user mode need rights to what they use, see
//! [`SecurityDescriptor`]; drivers need none. What an enumeration returns is asked
//! of [`Objects`], with a [`FilterTemplate`] and its like.
//!
//! [`Engine::classify_recorded`] tells a verifier each step of an arbitration,
//! and costs nothing where it isn't used. At the stream layers, where callouts
//! decide about ranges of bytes in turn, a network stack uses [`Engine::plan`]
//! and [`Engine::ask_stage`] instead of [`Engine::classify`].
//!
//! Injections are judged by an [`InjectionCall`]; the handles that they use are
//! [`InjectionHandles`], and [`Holder`] says whose a list is.

#![forbid(unsafe_code)]
#![allow(
    clippy::significant_drop_tightening,
    reason = "the state stays locked to the end of a function so that what it checked still holds"
)]

mod arbitration;
mod bfe;
mod callout;
mod classify;
mod condition;
mod engine;
mod filter;
mod flow;
mod host;
mod id;
mod index;
mod injection;
mod lifetime;
mod management;
mod object;
mod objects;
mod offload;
mod options;
mod plan;
mod provenance;
mod record;
mod rundown;
mod security;
mod session;
mod sync;
mod table;
mod template;
mod transaction;
mod value;
mod weight;

pub use arbitration::{Answer, ClassifyOut, DecidedBy, Decision, Verdict};
pub use bfe::BootStore;
pub use callout::{CalloutView, Registration};
pub use classify::{ClassifyCall, Request};
pub use condition::{Condition, ConditionValue, RuntimeCondition};
pub use engine::Engine;
pub use filter::{FilterEntry, FilterRecord};
pub use flow::Flow;
pub use host::{Host, Wait};
pub use id::{CalloutId, FilterId, FlowId, ProviderContextId, SessionId, SubscriptionId};
pub use injection::{
    Begun, Holder, InjectionCall, InjectionHandle, InjectionHandles, InjectionPoint,
    InjectionTarget, ListShape, Refusal, Returned, clone_of_indicated,
};
pub use lifetime::Lifetime;
pub use object::{Callout, Filter, Provider, ProviderContext, SubLayer, Weight};
pub use objects::{CalloutObject, Objects, ProviderContextObject, ProviderObject, SubLayerObject};
pub use offload::{Offload, Tolerance};
pub use options::{
    AutoWeight, DiscardPosition, DualModeLayer, EnforcedBeyondData, FastLayers,
    InjectionCompletion, NoMatch, Options, ParseOptionsError, Part, Question, ReadTransaction,
    RunningCallout, SeparatedConditions, SwitchOrder, TieOrder, UserIdType,
};
pub use plan::{Plan, Stage};
pub use provenance::Provenance;
pub use record::{Arbitration, Call, Outcome, Recorder, Step};
pub use security::{
    ADMINISTRATORS, AccessEntry, AccessList, Caller, EVERYONE, NETWORK_OPERATORS, ObjectType,
    Securable, Secured, SecurityDescriptor, SecurityParts, User,
};
pub use session::{Session, TransactionWait};
pub use template::{CalloutTemplate, FilterTemplate, ProviderContextTemplate};
pub use value::{Token, Value};
