//! What the driver decided, flow by flow, from its events.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use portcullis_proto::event::{EventKind, EventRecord, Operation};
use portcullis_proto::policy::Action;

pub use crate::report::address;

/// What the driver's events say of a flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// The host name: the one that was blocked first, otherwise the last that was found. (A flow of DNS queries has
    /// one a query; all others have one at most.)
    pub host: Option<String>,
    /// Whether that host's `ClientHello` had an encrypted one in it too, or what looks like one.
    pub has_encrypted_hello: bool,
    /// At how many places rules changed what was sent, and what was received.
    pub changes: [u64; 2],
    /// The path of its application, where that is known.
    pub application: Option<String>,
    /// The LUID of the interface that its packets took last; 0 unknown.
    pub interface: u64,
    /// The rule that decided last; `None` is the default action, or no decision.
    pub rule: Option<u32>,
    /// Where it was redirected to.
    pub redirected_to: Option<SocketAddr>,
    /// The rule that blocked first, where one did.
    pub blocked_by: Option<Option<u32>>,
}

/// The driver's decisions by flow handle, and by endpoint for listens.
#[derive(Debug, Default)]
pub struct Decisions {
    flows: HashMap<u64, Decided>,
    listens: HashMap<(IpAddr, u16), Option<u32>>,
}

impl Decisions {
    /// Folds `event` in. Events come in the order of their sequence numbers.
    pub fn add(&mut self, event: &EventRecord) {
        let Some(kind) = EventKind::from_raw(event.kind) else {
            return;
        };
        let blocked = Action::from_raw(event.verdict) == Some(Action::Block);
        let is_listen = Operation::from_raw(event.operation) == Some(Operation::Listen);
        match kind {
            EventKind::Authorize if is_listen => {
                let endpoint = (address(event, &event.local_address), event.local_port.get());
                if blocked {
                    self.listens.insert(endpoint, event.rule());
                }
            }
            EventKind::Authorize
            | EventKind::HostName
            | EventKind::Reauthorize
            | EventKind::Content
            | EventKind::FlowClosed => {
                let flow = self.flows.entry(event.flow.get()).or_default();
                if flow.blocked_by.is_none()
                    && let Some(host) = event.host()
                {
                    flow.host = Some(host.to_owned());
                    flow.has_encrypted_hello =
                        event.flags.get() & EventRecord::ENCRYPTED_HELLO != 0;
                }
                if kind == EventKind::FlowClosed {
                    flow.changes = event.value.map(zerocopy::little_endian::U64::get);
                }
                flow.rule = event.rule();
                flow.interface = event.interface.get();
                if event.target_port.get() != 0 {
                    let target = address(event, &event.target_address);
                    flow.redirected_to = Some(SocketAddr::new(target, event.target_port.get()));
                }
                if flow.application.is_none() {
                    let units: Vec<u16> = event.application().collect();
                    flow.application =
                        (!units.is_empty()).then(|| String::from_utf16_lossy(&units));
                }
                if blocked && flow.blocked_by.is_none() {
                    flow.blocked_by = Some(event.rule());
                }
            }
            _ => {}
        }
    }

    /// What was decided of the flow that had `handles`, oldest first.
    #[must_use]
    pub fn of_flow(&self, handles: &[u64]) -> Decided {
        let mut all = handles.iter().filter_map(|handle| self.flows.get(handle));
        let mut decided = all.next().cloned().unwrap_or_default();
        for later in all {
            if decided.blocked_by.is_none() && later.host.is_some() {
                decided.host.clone_from(&later.host);
                decided.has_encrypted_hello = later.has_encrypted_hello;
            }
            for (all, more) in decided.changes.iter_mut().zip(later.changes) {
                *all += more;
            }
            decided.blocked_by = decided.blocked_by.or(later.blocked_by);
            decided.redirected_to = decided.redirected_to.or(later.redirected_to);
            decided.rule = later.rule;
            decided.interface = later.interface;
        }
        decided
    }

    /// The rule that refused to let a program listen there.
    #[must_use]
    pub fn of_listen(&self, address: IpAddr, port: u16) -> Option<Option<u32>> {
        self.listens.get(&(address, port)).copied()
    }
}
