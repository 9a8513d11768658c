//! One classify as its functions see it from outside: what a classify handle stands for.
//!
//! It outlives the classify while a driver has its handle or has pended it. Its layer data, if it has any that callouts
//! may change, is a list of versions: each one that a driver applies becomes the next.

#![allow(
    clippy::significant_drop_tightening,
    reason = "the state stays locked to the end of a function so that what it checked still holds"
)]

use std::sync::Arc;

use parking_lot::Mutex;
use wfp_schema::{LayerId, LayerKind, NtStatus};

use super::give::Arena;
use super::layout::request::{RawBindRequest, RawConnectRequest, SockAddr};
use crate::access::Out;
use crate::net::{Redirection, Request};

/// A classify.
#[derive(Debug)]
pub(super) struct Operation {
    /// The layer.
    pub(super) layer: LayerId,
    /// By which the network stack knows a pend of it; 0 if it cannot be pended.
    pub(super) pend_handle: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Its callouts are being called.
    running: bool,
    pend: Pend,
    data: Option<LayerData>,
}

/// Whether a driver pended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pend {
    Never,
    Pending,
    Completed,
}

/// `FWPS_CONNECT_REQUEST0` or `FWPS_BIND_REQUEST0` in all versions.
#[derive(Debug)]
struct LayerData {
    is_bind: bool,
    versions: Redirection,
    /// Where drivers find the newest version.
    newest: Out<u8>,
    /// A version that a driver has acquired and not applied yet, and the filter that it named.
    writable: Option<(Out<u8>, u64)>,
    /// How many versions the network stack knows.
    told: usize,
    memory: Arena,
}

impl LayerData {
    fn new(is_bind: bool, versions: &Redirection) -> Self {
        let mut data = Self {
            is_bind,
            told: versions.versions().len(),
            versions: versions.unchanged(),
            newest: Out::null(),
            writable: None,
            memory: Arena::default(),
        };
        data.newest = data.show(*versions.original());
        for version in &versions.versions()[1..] {
            data.newest = data.show(*version);
            data.versions.apply(*version);
        }
        data
    }

    /// A version in memory, after the newest one.
    fn show(&mut self, version: Request) -> Out<u8> {
        let local = SockAddr::of(version.local);
        if self.is_bind {
            let raw = RawBindRequest {
                local,
                port_reservation_token: version.port_reservation_token,
                previous: self.newest,
                modifier_filter: version.modifier_filter,
            };
            return self.memory.put(raw).offset(0);
        }
        let raw = RawConnectRequest {
            local,
            remote: SockAddr::of(version.remote),
            port_reservation_token: version.port_reservation_token,
            target_process: version.target_process,
            previous: self.newest,
            modifier_filter: version.modifier_filter,
            redirect_handle: handle(version.redirect_handle),
            context: handle(version.context),
            context_size: handle(version.context_size),
        };
        self.memory.put(raw).offset(0)
    }

    /// What a driver wrote at `at`, and what it was not to write there.
    fn read(&self, at: Out<u8>, filter: u64) -> Result<Request, &'static str> {
        const FAMILY: &str = "an address of another family was written";
        let before = *self.versions.current();
        let newest = self.newest;
        if self.is_bind {
            let raw = at.offset::<RawBindRequest>(0).get().ok_or(FAMILY)?;
            if raw.previous != newest || raw.modifier_filter != filter {
                return Err("previousVersion or modifierFilterId was written");
            }
            return Ok(Request {
                local: raw.local.end().ok_or(FAMILY)?,
                port_reservation_token: raw.port_reservation_token,
                modifier_filter: filter,
                ..before
            });
        }
        let raw = at.offset::<RawConnectRequest>(0).get().ok_or(FAMILY)?;
        if raw.previous != newest || raw.modifier_filter != filter {
            return Err("previousVersion or modifierFilterId was written");
        }
        if raw.local.end() != Some(before.local) {
            return Err(
                "localAddressAndPort was written, which a connect redirection cannot change",
            );
        }
        let remote = raw.remote.end().ok_or(FAMILY)?;
        if remote.address.is_ipv4() != before.remote.address.is_ipv4() {
            return Err(FAMILY);
        }
        Ok(Request {
            local: before.local,
            remote,
            port_reservation_token: raw.port_reservation_token,
            target_process: raw.target_process,
            redirect_handle: raw.redirect_handle as u64,
            context: raw.context as u64,
            context_size: raw.context_size as u64,
            modifier_filter: filter,
        })
    }
}

fn handle(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

impl Operation {
    /// A classify that begins; `redirection` is the layer data that its callouts may change.
    pub(super) fn new(
        layer: LayerId,
        pend_handle: u64,
        redirection: Option<&Redirection>,
    ) -> Arc<Self> {
        let is_bind = layer
            .layer()
            .is_some_and(|layer| layer.kind() == LayerKind::AleBindRedirect);
        Arc::new(Self {
            layer,
            pend_handle,
            state: Mutex::new(State {
                running: true,
                pend: Pend::Never,
                data: redirection.map(|versions| LayerData::new(is_bind, versions)),
            }),
        })
    }

    /// `layerData` now: the newest version.
    pub(super) fn layer_data(&self) -> Out<u8> {
        let state = self.state.lock();
        state.data.as_ref().map_or(Out::null(), |data| data.newest)
    }

    /// The versions of its layer data, if it has any.
    pub(super) fn versions(&self) -> Option<Redirection> {
        let state = self.state.lock();
        state.data.as_ref().map(|data| data.versions.clone())
    }

    /// The versions that were applied since the last time of asking, oldest first.
    pub(super) fn take_changes(&self) -> Vec<Request> {
        let mut state = self.state.lock();
        let Some(data) = &mut state.data else {
            return Vec::new();
        };
        let versions = data.versions.versions();
        let changes = versions[data.told..].to_vec();
        data.told = versions.len();
        changes
    }

    /// Its callouts have returned. Whether it is pended, and whether layer data was acquired and not applied.
    pub(super) fn end(&self) -> (bool, bool) {
        let mut state = self.state.lock();
        state.running = false;
        let pended = state.pend == Pend::Pending;
        let open = state
            .data
            .as_ref()
            .is_some_and(|data| data.writable.is_some());
        (pended, open && !pended)
    }

    /// Whether layer data was acquired and not applied.
    pub(super) fn has_writable(&self) -> bool {
        let state = self.state.lock();
        state
            .data
            .as_ref()
            .is_some_and(|data| data.writable.is_some())
    }

    /// Whether its functions still have a meaning: its callouts are being called, or it is pended.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state.lock();
        state.running || state.pend == Pend::Pending
    }

    /// `FwpsPendClassify0`.
    ///
    /// # Errors
    /// `FWP_CANNOT_PEND`: not at this layer, not in this classify, or it was pended before.
    pub(super) fn pend(&self) -> Result<(), NtStatus> {
        let allowed = self
            .layer
            .layer()
            .is_some_and(wfp_schema::Layer::may_pend_classify);
        let mut state = self.state.lock();
        if !allowed || self.pend_handle == 0 || !state.running || state.pend != Pend::Never {
            return Err(NtStatus::FWP_CANNOT_PEND);
        }
        state.pend = Pend::Pending;
        Ok(())
    }

    /// `FwpsCompleteClassify0`. `false`: it is not pended (any more).
    pub(super) fn complete(&self) -> bool {
        let mut state = self.state.lock();
        let pended = state.pend == Pend::Pending;
        if pended {
            state.pend = Pend::Completed;
        }
        pended
    }

    /// `FwpsAcquireWritableLayerDataPointer0`: a copy of the newest version for `filter` to change.
    ///
    /// # Errors
    /// `INVALID_PARAMETER`: the layer's data is not for changing. `FWP_IN_USE`: a copy is out.
    pub(super) fn acquire(&self, filter: u64) -> Result<Out<u8>, NtStatus> {
        let mut state = self.state.lock();
        let data = state.data.as_mut().ok_or(NtStatus::INVALID_PARAMETER)?;
        if data.writable.is_some() {
            return Err(NtStatus::FWP_IN_USE);
        }
        let version = Request {
            modifier_filter: filter,
            ..*data.versions.current()
        };
        let at = data.show(version);
        data.writable = Some((at, filter));
        Ok(at)
    }

    /// `FwpsApplyModifiedLayerData0`: what was acquired becomes the newest version, and is returned.
    ///
    /// # Errors
    /// What is wrong with it, in words; then nothing is changed.
    pub(super) fn apply(&self, modified: Out<u8>) -> Result<Request, &'static str> {
        let mut state = self.state.lock();
        let acquired = state.data.as_mut().filter(|data| {
            let writable = data.writable;
            writable.is_some_and(|(at, _)| at == modified)
        });
        let Some(data) = acquired else {
            return Err("modifiedLayerData is not what was acquired and not yet applied");
        };
        let filter = data.writable.take().map_or(0, |(_, filter)| filter);
        let version = data.read(modified, filter)?;
        data.versions.apply(version);
        data.newest = modified;
        Ok(version)
    }
}
