//! Options of flows that callouts set while they authorize them, and options of the filter engine.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use wfp_schema::{DataType, LayerKind, NtStatus};

use super::give::Arena;
use super::layout::kernel::RawMetadata;
use super::layout::value::RawValue;
use super::objects::query::lend;
use super::session::session;
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::exports;

const SUCCESS: i32 = NtStatus::SUCCESS.to_i32();
const NULL_POINTER: i32 = NtStatus::FWP_NULL_POINTER.to_i32();
const INVALID_ENUMERATOR: i32 = NtStatus::FWP_INVALID_ENUMERATOR.to_i32();
const OUT_OF_BOUNDS: i32 = NtStatus::FWP_OUT_OF_BOUNDS.to_i32();
const TYPE_MISMATCH: i32 = NtStatus::FWP_TYPE_MISMATCH.to_i32();

/// `FWP_CLASSIFY_OPTION_TYPE`.
mod option {
    pub(super) const MULTICAST_STATE: u32 = 0;
    pub(super) const LOOSE_SOURCE_MAPPING: u32 = 1;
    pub(super) const UNICAST_LIFETIME: u32 = 2;
    pub(super) const MCAST_BCAST_LIFETIME: u32 = 3;
    pub(super) const SECURE_SOCKET_AUTHIP_MM_POLICY_KEY: u32 = 5;
    pub(super) const SECURE_SOCKET_AUTHIP_QM_POLICY_KEY: u32 = 6;
    pub(super) const LOCAL_ONLY_MAPPING: u32 = 7;
}

/// `FWP_OPTION_VALUE_DENY_MULTICAST_STATE` and `FWP_OPTION_VALUE_ALLOW_GLOBAL_MULTICAST_STATE`.
const DENY_MULTICAST_STATE: u32 = 1;
const ALLOW_GLOBAL_MULTICAST_STATE: u32 = 2;
/// `FWP_OPTION_VALUE_ENABLE_LOOSE_SOURCE`.
const ENABLE_LOOSE_SOURCE: u32 = 1;

/// How many `FWPM_ENGINE_OPTION`s there are.
const ENGINE_OPTIONS: usize = 6;
/// `FWPM_ENGINE_NAME_CACHE` is on unless somebody turns it off, as is `FWPM_ENGINE_COLLECT_NET_EVENTS`.
const DEFAULTS: [u32; ENGINE_OPTIONS] = [1, 0, 1, 0, 0, 0];
/// Which options are only switched on and off: `COLLECT_NET_EVENTS`, `NAME_CACHE`, `MONITOR_IPSEC_CONNECTIONS`.
const SWITCHES: [usize; 3] = [0, 2, 3];

/// The filter engine's options.
#[derive(Debug)]
pub(super) struct State(Mutex<[u32; ENGINE_OPTIONS]>);

impl Default for State {
    fn default() -> Self {
        Self(Mutex::new(DEFAULTS))
    }
}

exports! {
    module "fwpkclnt.sys";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/fwpsk/nf-fwpsk-fwpsclassifyoptionset0>
    fn FwpsClassifyOptionSet0(call, metadata: In<RawMetadata>, option: u32, value: In<RawValue>) -> i32,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32();
    {
        let Some(value) = value.get().filter(|_| !metadata.is_null()) else {
            return NULL_POINTER;
        };
        let current = call.machine().fwp.current(call.cpu());
        let at_ale = current.layer().layer().is_some_and(|layer| {
            matches!(
                layer.kind(),
                LayerKind::AleAuthConnect | LayerKind::AleAuthRecvAccept | LayerKind::AleAuthListen
            )
        });
        if current.context.load(Ordering::Relaxed) == 0 || !at_ale {
            return NtStatus::INVALID_PARAMETER.to_i32();
        }
        let key = matches!(
            option,
            option::SECURE_SOCKET_AUTHIP_MM_POLICY_KEY | option::SECURE_SOCKET_AUTHIP_QM_POLICY_KEY
        );
        if option > option::LOCAL_ONLY_MAPPING {
            return INVALID_ENUMERATOR;
        }
        let expected = if key { DataType::ByteArray16 } else { DataType::Uint32 };
        if value.kind != expected.value() {
            return NtStatus::OBJECT_TYPE_MISMATCH.to_i32();
        }
        let number = value.uint32();
    }
    then {
        match option {
            option::MULTICAST_STATE if number > ALLOW_GLOBAL_MULTICAST_STATE => return OUT_OF_BOUNDS,
            option::LOOSE_SOURCE_MAPPING | option::LOCAL_ONLY_MAPPING if number > 1 => return OUT_OF_BOUNDS,
            option::UNICAST_LIFETIME | option::MCAST_BCAST_LIFETIME if number == 0 => return OUT_OF_BOUNDS,
            option::MULTICAST_STATE => {
                current.set_options(|options| options.multicast_state = Some(number != DENY_MULTICAST_STATE));
            }
            option::LOOSE_SOURCE_MAPPING => {
                current.set_options(|options| options.loose_source_mapping = Some(number == ENABLE_LOOSE_SOURCE));
            }
            option::UNICAST_LIFETIME => {
                current.set_options(|options| options.unicast_lifetime = Some(number));
            }
            option::MCAST_BCAST_LIFETIME => {
                current.set_options(|options| options.group_lifetime = Some(number));
            }
            // Keys of IPsec policies, and a mapping that only matters with several interfaces: there is neither.
            _ => {}
        }
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmenginegetoption0>
    fn FwpmEngineGetOption0(call, engine: usize, option: u32, value: Out<Out<RawValue>>) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32() => later;
    {
        if value.is_null() {
            return NULL_POINTER;
        }
        if let Err(status) = session(&call, engine) {
            return status.to_i32();
        }
        let options = *call.machine().fwp.options.0.lock();
        let Some(number) = options.get(option as usize) else {
            return INVALID_ENUMERATOR;
        };
        let mut memory = Arena::default();
        let at = memory.put(RawValue::number(DataType::Uint32, *number));
        value.set(at);
        lend(&call, at.offset(0), memory);
        SUCCESS
    }

    /// <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmenginesetoption0>
    fn FwpmEngineSetOption0(call, engine: usize, option: u32, value: In<RawValue>) -> i32,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES.to_i32() => later;
    {
        let Some(value) = value.get() else {
            return NULL_POINTER;
        };
        if let Err(status) = session(&call, engine) {
            return status.to_i32();
        }
        let option = option as usize;
        if option >= ENGINE_OPTIONS {
            return INVALID_ENUMERATOR;
        }
        if value.kind != DataType::Uint32.value() {
            return TYPE_MISMATCH;
        }
        if SWITCHES.contains(&option) && value.uint32() > 1 {
            return OUT_OF_BOUNDS;
        }
        call.machine().fwp.options.0.lock()[option] = value.uint32();
        SUCCESS
    }
}
