//! Layers, which are built in.

use wfp_engine::Objects;
use wfp_schema::field::{Field, FieldType};
use wfp_schema::{DataType, Guid, IpVersion, Layer, LayerId, LayerKind, NtStatus};

use super::query::{Enumerate, get};
use super::{Kind, Managed, NO_RESOURCES};
use crate::access::{In, Out};
use crate::cpu::PASSIVE;
use crate::export::exports;
use crate::fwp::give::Arena;
use crate::fwp::host::KernelHost;
use crate::fwp::layout::management::{RawDisplayData, RawField, RawLayer};
use crate::fwp::layout::template::RawLayerTemplate;
use crate::fwp::marshal::required;

/// `FWPM_LAYER_FLAG_KERNEL`, `FWPM_LAYER_FLAG_BUILTIN`, `FWPM_LAYER_FLAG_BUFFERED`.
const KERNEL: u32 = 0x1;
const BUILT_IN: u32 = 0x2;
const BUFFERED: u32 = 0x8;

/// `FWPM_FIELD_RAW_DATA`, `FWPM_FIELD_IP_ADDRESS`, `FWPM_FIELD_FLAGS`.
const RAW_DATA: u32 = 0;
const IP_ADDRESS: u32 = 1;
const FLAGS: u32 = 2;

/// `FWPM_FIELD0`.
fn field(field: &Field, version: Option<IpVersion>, memory: &mut Arena) -> RawField {
    let kind = match field.field_type() {
        FieldType::Address => IP_ADDRESS,
        _ if field.name() == "FLAGS" => FLAGS,
        _ => RAW_DATA,
    };
    let data_type = match field.field_type() {
        FieldType::Uint8 => DataType::Uint8,
        FieldType::Uint16 => DataType::Uint16,
        FieldType::Uint64 => DataType::Uint64,
        FieldType::Address if version == Some(IpVersion::V6) => DataType::ByteArray16,
        FieldType::Uint32 | FieldType::Address => DataType::Uint32,
        FieldType::ByteArray6 => DataType::ByteArray6,
        FieldType::ByteBlob => DataType::ByteBlob,
        FieldType::Sid => DataType::Sid,
        FieldType::Token => DataType::SecurityDescriptor,
    };
    RawField {
        key: memory.put(field.condition()),
        kind,
        data_type: data_type.value(),
    }
}

impl Managed for RawLayer {
    const KIND: Kind = Kind::Layer;
    type Template = RawLayerTemplate;

    fn select(
        _objects: &Objects<KernelHost>,
        _template: Option<RawLayerTemplate>,
    ) -> Result<Vec<Guid>, NtStatus> {
        // The template holds nothing but a reserved member.
        Ok(Layer::all().iter().map(Layer::key).collect())
    }

    fn show(
        _objects: &Objects<KernelHost>,
        key: Guid,
        memory: &mut Arena,
    ) -> Result<Self, NtStatus> {
        let layer = Layer::by_key(key).ok_or(NtStatus::FWP_LAYER_NOT_FOUND)?;
        let fields: Vec<_> = layer
            .fields()
            .iter()
            .map(|shown| field(shown, layer.version(), memory))
            .collect();
        let buffered = matches!(layer.kind(), LayerKind::Stream);
        Ok(Self {
            key,
            display: RawDisplayData {
                name: memory.put_string(layer.name()).as_in(),
                description: In::null(),
            },
            flags: KERNEL | BUILT_IN | if buffered { BUFFERED } else { 0 },
            field_count: u32::try_from(fields.len()).unwrap_or(u32::MAX),
            fields: memory.put_all(&fields),
            default_sublayer: layer.default_sublayer(),
            id: layer.id().get(),
        })
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayergetbyid0>
    fn FwpmLayerGetById0(call, engine: usize, id: u16, layer: Out<Out<RawLayer>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, layer, |_| {
            LayerId::new(id).layer().map(Layer::key).ok_or(NtStatus::FWP_LAYER_NOT_FOUND)
        })
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayergetbykey0>
    fn FwpmLayerGetByKey0(call, engine: usize, key: In<Guid>, layer: Out<Out<RawLayer>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        get(&call, engine, layer, |_| required(key))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayercreateenumhandle0>
    fn FwpmLayerCreateEnumHandle0(
        call, engine: usize, template: In<RawLayerTemplate>, handle: Out<usize>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawLayer>::create(&call, engine, template, handle)
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayerenum0>
    fn FwpmLayerEnum0(
        call, engine: usize, handle: usize, most: u32, entries: Out<Out<Out<RawLayer>>>, count: Out<u32>,
    ) -> i32,
    irql PASSIVE..=PASSIVE, fails NO_RESOURCES => later;
    {
        Enumerate::<RawLayer>::next(&call, engine, handle, most, (entries, count))
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmlayerdestroyenumhandle0>
    fn FwpmLayerDestroyEnumHandle0(call, engine: usize, handle: usize) -> i32,
    irql PASSIVE..=PASSIVE;
    {
        Enumerate::<RawLayer>::destroy(&call, engine, handle)
    }
}
