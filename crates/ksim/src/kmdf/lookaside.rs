//! WDFLOOKASIDE: memory objects of one size.

use wfp_schema::NtStatus;

use super::abi::ObjectAttributes;
use super::attributes::{Attributes, Constraints, Parent};
use super::memory::{self, Memory};
use super::object::{Body, Kind, client, not_null, resolve};
use crate::access::{In, Out};
use crate::cpu::{DISPATCH, PASSIVE};
use crate::export::exports;
use crate::verifier::IRQL_RANGE;

/// What a WDFLOOKASIDE holds. The buffers themselves are made anew each time, so that one that is used after it was
/// given back is found.
#[derive(Debug)]
pub(crate) struct Lookaside {
    size: usize,
    paged: bool,
    /// What its memory objects are made with.
    memory: Attributes,
}

/// The bit of `POOL_TYPE` that paged pool has: `PagedPool` and its relatives.
const PAGED_POOL: u32 = 1;

exports! {
    module "kmdf";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdflookasidelistcreate>
    fn WdfLookasideListCreate(
        call, globals: usize, attributes: In<ObjectAttributes>, size: usize, pool_type: u32,
        memory_attributes: In<ObjectAttributes>, tag: u32, lookaside: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        not_null(&call, lookaside.address(), "Lookaside");
        lookaside.set(0);
        if size == 0 {
            return NtStatus::INVALID_PARAMETER;
        }
        let paged = pool_type & PAGED_POOL != 0;
        if paged && call.cpu().irql() > PASSIVE {
            call.violation(&IRQL_RANGE, "makes a lookaside list of paged pool above PASSIVE_LEVEL");
            return NtStatus::INVALID_DEVICE_REQUEST;
        }
        match Attributes::read(&call, memory_attributes, Parent::Allowed, Constraints::None) {
            Ok(memory) => {
                let body = Body::Lookaside(Box::new(Lookaside { size, paged, memory }));
                memory::create(&call, globals, attributes, lookaside, body)
            }
            Err(status) => status,
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdfmemory/nf-wdfmemory-wdfmemorycreatefromlookaside>
    fn WdfMemoryCreateFromLookaside(call, globals: usize, lookaside: usize, memory: Out<usize>) -> NtStatus,
    irql PASSIVE..=DISPATCH, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let id = resolve(&call, lookaside, Kind::Lookaside);
        let globals = client(&call, globals);
        not_null(&call, memory.address(), "Memory");
        let created = {
            let mut state = call.machine().kmdf().lock();
            let Some((size, paged, attributes)) = state.lookaside(id).map(|list| (list.size, list.paged, list.memory)) else {
                return NtStatus::DELETE_PENDING;
            };
            if paged && call.cpu().irql() >= DISPATCH {
                drop(state);
                call.violation(&IRQL_RANGE, "takes paged memory at DISPATCH_LEVEL");
                return NtStatus::INVALID_DEVICE_REQUEST;
            }
            let attributes = attributes.or_below_driver(&state, globals);
            state.create(globals, &attributes, Body::Memory(Box::new(Memory::allocated(size))))
        };
        match created {
            Ok(id) => {
                memory.set(id.handle());
                NtStatus::SUCCESS
            }
            Err(status) => status,
        }
    }
}
