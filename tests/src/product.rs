//! Another product's objects in the filter engine.

use ksim::Kernel;
use wfp_engine::{Callout, CalloutId, Condition, Filter, FilterId, Session, SessionId, SubLayer};
use wfp_schema::flags::ManagementCalloutFlags;
use wfp_schema::{Action, FilterFlags, Guid, LayerId, NtStatus};

use crate::control::alive;

/// A product with a sublayer of its own.
#[derive(Debug)]
pub struct Product {
    kernel: Kernel,
    session: SessionId,
    sublayer: Guid,
    persistent: bool,
}

impl Product {
    /// A product whose objects go with it, in a sublayer of this weight. Ours has 0x1000.
    #[must_use]
    pub fn new(kernel: &Kernel, weight: u16) -> Self {
        Self::install(kernel, weight, false)
    }

    /// A product whose objects come back whenever the base filtering engine starts.
    #[must_use]
    pub fn persistent(kernel: &Kernel, weight: u16) -> Self {
        Self::install(kernel, weight, true)
    }

    fn install(kernel: &Kernel, weight: u16, persistent: bool) -> Self {
        let session = Session {
            dynamic: !persistent,
            ..Session::default()
        };
        let name = Some("another product".to_owned());
        let sublayer = SubLayer {
            name,
            weight,
            persistent,
            ..SubLayer::default()
        };
        let (session, sublayer) = alive(kernel.on(0, |_| {
            let engine = kernel.filter_engine();
            let session = engine.open_session(session).expect("the engine runs");
            (
                session,
                engine.add_sublayer(session, sublayer).expect("a sublayer"),
            )
        }));
        Self {
            kernel: kernel.clone(),
            session,
            sublayer,
            persistent,
        }
    }

    /// Adds a callout to the engine, which nobody has registered for that.
    ///
    /// # Errors
    /// Those of `FwpmCalloutAdd0`.
    pub fn add_callout(&self, key: Guid, layer: LayerId) -> Result<CalloutId, NtStatus> {
        let flags = if self.persistent {
            ManagementCalloutFlags::PERSISTENT
        } else {
            ManagementCalloutFlags::NONE
        };
        let name = Some("another product's callout".to_owned());
        let callout = Callout {
            key,
            name,
            flags,
            layer: layer_key(layer),
            ..Callout::default()
        };
        alive(self.kernel.on(0, |_| {
            self.kernel
                .filter_engine()
                .add_callout(self.session, callout)
        }))
    }

    /// Adds a filter that permits or blocks.
    #[allow(clippy::must_use_candidate, reason = "a filter goes with its product")]
    pub fn add_filter(
        &self,
        layer: LayerId,
        action: Action,
        flags: FilterFlags,
        conditions: Vec<Condition>,
    ) -> FilterId {
        self.add(Filter {
            flags,
            conditions,
            action,
            layer: layer_key(layer),
            ..Filter::default()
        })
    }

    /// Adds a filter that asks a callout about everything.
    #[allow(clippy::must_use_candidate, reason = "a filter goes with its product")]
    pub fn add_callout_filter(
        &self,
        layer: LayerId,
        action: Action,
        callout: Guid,
        flags: FilterFlags,
    ) -> FilterId {
        self.add(Filter {
            flags,
            action,
            callout,
            layer: layer_key(layer),
            ..Filter::default()
        })
    }

    /// Deletes a filter.
    pub fn delete_filter(&self, filter: FilterId) {
        let engine = self.kernel.filter_engine();
        alive(
            self.kernel
                .on(0, |_| engine.delete_filter(self.session, filter)),
        )
        .expect("the filter is there");
    }

    fn add(&self, mut filter: Filter) -> FilterId {
        filter.name = Some("another product's filter".to_owned());
        filter.sublayer = self.sublayer;
        if self.persistent {
            filter.flags |= FilterFlags::PERSISTENT;
        }
        let engine = self.kernel.filter_engine();
        alive(
            self.kernel
                .on(0, |_| engine.add_filter(self.session, filter)),
        )
        .expect("a filter")
    }

    /// Goes away, with its objects if they do.
    pub fn close(self) {
        let engine = self.kernel.filter_engine();
        alive(self.kernel.on(0, |_| engine.close_session(self.session)))
            .expect("the session is open");
    }
}

fn layer_key(layer: LayerId) -> Guid {
    layer.layer().expect("a layer").key()
}
