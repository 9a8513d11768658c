//! Layers: what each kernel layer is, what it shows and what it allows.

mod kind;
mod table;

pub use kind::{Header, LayerData, LayerKind};

use crate::{Field, FieldIndex, Guid, IpVersion, MetadataFields, sublayer};
use core::fmt;

/// The run-time identifier of a layer, `FWPS_INCOMING_VALUES0.layerId`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct LayerId(u16);

impl LayerId {
    /// Number of layers in the table: identifiers below it are known.
    pub const COUNT: usize = table::LAYERS.len();

    /// The identifier with this number, known or not.
    #[must_use]
    pub const fn new(id: u16) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The layer, if it is in the table.
    #[must_use]
    pub fn layer(self) -> Option<&'static Layer> {
        table::LAYERS.get(usize::from(self.0))
    }

    /// The header's name without its prefix, such as `STREAM_V4`.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.layer().map(Layer::name)
    }
}

/// The name, or the number of an unknown layer.
impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "layer {}", self.0),
        }
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerId({} {self})", self.0)
    }
}

/// Whether a layer decides about traffic or shows what was discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Regular,
    Discard,
}

/// A kernel layer.
#[derive(Debug, PartialEq, Eq)]
pub struct Layer {
    id: LayerId,
    kind: LayerKind,
    version: Option<IpVersion>,
    role: Role,
    name: &'static str,
    key: Guid,
}

impl Layer {
    /// Every layer, ordered by identifier (the identifier is the index).
    #[must_use]
    pub const fn all() -> &'static [Self] {
        &table::LAYERS
    }

    /// The regular layer of a kind and version; `None` if the kind has no versions
    /// (see [`Layer::unversioned`]).
    #[must_use]
    pub fn of(kind: LayerKind, version: IpVersion) -> Option<&'static Self> {
        table::LAYERS.iter().find(|layer| {
            layer.kind == kind && layer.version == Some(version) && !layer.is_discard()
        })
    }

    /// The layer of a kind that is the same for both IP versions.
    #[must_use]
    pub fn unversioned(kind: LayerKind) -> Option<&'static Self> {
        table::LAYERS
            .iter()
            .find(|layer| layer.kind == kind && layer.version.is_none())
    }

    /// The layer with this key (`FWPM_LAYER_*`).
    #[must_use]
    pub fn by_key(key: Guid) -> Option<&'static Self> {
        table::LAYERS.iter().find(|layer| layer.key == key)
    }

    /// Its run-time identifier.
    #[must_use]
    pub const fn id(&self) -> LayerId {
        self.id
    }

    /// Its kind, shared by the IP versions and by a discard layer and its twin.
    #[must_use]
    pub const fn kind(&self) -> LayerKind {
        self.kind
    }

    /// Its IP version, `None` for the layers of the data link and for the fast layers.
    #[must_use]
    pub const fn version(&self) -> Option<IpVersion> {
        self.version
    }

    /// The header's name without its prefix, such as `STREAM_V4`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its key, `FWPM_LAYER_*`.
    #[must_use]
    pub const fn key(&self) -> Guid {
        self.key
    }

    /// Whether it shows what the twin discarded.
    #[must_use]
    pub const fn is_discard(&self) -> bool {
        matches!(self.role, Role::Discard)
    }

    /// The discard layer of a regular layer, or the regular layer of a discard layer.
    #[must_use]
    pub fn twin(&self) -> Option<&'static Self> {
        table::LAYERS.iter().find(|other| {
            other.kind == self.kind && other.version == self.version && other.role != self.role
        })
    }

    /// Its fields in the order of their indexes.
    #[must_use]
    pub const fn fields(&self) -> &'static [Field] {
        self.kind.fields()
    }

    /// The field with this index.
    #[must_use]
    pub fn field(&self, index: FieldIndex) -> Option<&'static Field> {
        self.kind.fields().get(index.get())
    }

    /// The field that conditions name by this key.
    #[must_use]
    pub fn field_by_condition(&self, condition: Guid) -> Option<&'static Field> {
        self.kind
            .fields()
            .iter()
            .find(|field| field.condition() == condition)
    }

    /// The metadata that may be present. A reader still tests each bit.
    #[must_use]
    pub const fn metadata(&self) -> MetadataFields {
        let listed = self.kind.metadata();
        match self.role {
            Role::Regular => listed,
            Role::Discard => listed.union(MetadataFields::DISCARD_REASON),
        }
    }

    /// What `layerData` points at.
    #[must_use]
    pub const fn data(&self) -> LayerData {
        self.kind.data()
    }

    /// Whether flow contexts can be associated for the layer.
    #[must_use]
    pub const fn is_flow_capable(&self) -> bool {
        self.metadata().contains(MetadataFields::FLOW_HANDLE)
    }

    /// Whether a block may be absorbed (dropped without a trace).
    #[must_use]
    pub const fn may_absorb(&self) -> bool {
        !self.is_discard() && self.kind.may_absorb()
    }

    /// Whether `FwpsPendOperation0` works (initial authorization only).
    #[must_use]
    pub const fn may_pend_operation(&self) -> bool {
        !self.is_discard() && self.kind.may_pend_operation()
    }

    /// Whether `FwpsPendClassify0` works.
    #[must_use]
    pub const fn may_pend_classify(&self) -> bool {
        !self.is_discard() && self.kind.may_pend_classify()
    }

    /// Whether layer data may be changed to redirect a connection or a bind.
    #[must_use]
    pub const fn may_redirect(&self) -> bool {
        self.kind.may_redirect()
    }

    /// The sublayer of filters that name none.
    #[must_use]
    pub const fn default_sublayer(&self) -> Guid {
        sublayer::UNIVERSAL
    }
}
