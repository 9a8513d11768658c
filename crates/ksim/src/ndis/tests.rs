//! Pools and allocations as a driver makes them.

use super::chain;
use super::layout::{Mdl, NetBufferListPoolParameters, NetBufferPoolParameters, ObjectHeader};
use super::pool::{
    NdisAllocateNetBuffer, NdisAllocateNetBufferAndNetBufferList, NdisAllocateNetBufferList,
    NdisAllocateNetBufferListPool, NdisAllocateNetBufferPool, NdisFreeNetBuffer,
    NdisFreeNetBufferList, NdisFreeNetBufferListPool, NdisFreeNetBufferPool,
};
use super::position::{
    NdisAdvanceNetBufferDataStart, NdisAdvanceNetBufferListDataStart, NdisGetDataBuffer,
    NdisRetreatNetBufferDataStart, NdisRetreatNetBufferListDataStart,
};
use crate::Kernel;
use crate::access::{In, Out};
use crate::verifier::{ARGUMENT, NBL_STATE, OBJECT_STALE, Report};

fn run(test: impl FnOnce() + Send) -> Report {
    let kernel = Kernel::new(&crate::Config::default()).expect("a kernel");
    kernel.on(0, |_| test()).expect("no bug check");
    kernel.verifier().report()
}

fn rules(report: &Report) -> Vec<&'static str> {
    report
        .violations
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

const TAG: u32 = u32::from_le_bytes(*b"Test");

fn list_pool() -> usize {
    let parameters = NetBufferListPoolParameters {
        header: ObjectHeader {
            kind: 0x80,
            revision: 1,
            size: 16,
        },
        protocol: 0,
        allocate_net_buffer: 1,
        context_size: 0,
        tag: TAG,
        data_size: 0,
    };
    // SAFETY: read during the call only.
    NdisAllocateNetBufferListPool(0, unsafe { In::new(&raw const parameters) })
}

fn buffer_pool(size: u16) -> usize {
    let header = ObjectHeader {
        kind: 0x80,
        revision: 1,
        size,
    };
    let parameters = NetBufferPoolParameters {
        header,
        tag: TAG,
        data_size: 0,
    };
    // SAFETY: read during the call only.
    NdisAllocateNetBufferPool(0, unsafe { In::new(&raw const parameters) })
}

/// A driver's data behind MDLs of these sizes.
struct Chain {
    _data: Box<[u8]>,
    mdls: Vec<Mdl>,
}

impl Chain {
    fn new(sizes: &[u32]) -> Self {
        let total: u32 = sizes.iter().sum();
        let data: Box<[u8]> = (0..total).map(|byte| byte.to_le_bytes()[0]).collect();
        let mut at = 0;
        let mut mdls: Vec<Mdl> = Vec::new();
        for size in sizes {
            // SAFETY: as long as the data, and only read.
            let buffer = unsafe { Out::new(data.as_ptr().cast_mut().wrapping_add(at)) };
            mdls.push(Mdl::for_nonpaged(buffer, *size));
            at += *size as usize;
        }
        let mut chain = Self { _data: data, mdls };
        for index in 1..chain.mdls.len() {
            let next = chain.at(index);
            chain.mdls[index - 1].next = next;
        }
        chain
    }

    fn at(&mut self, index: usize) -> Out<Mdl> {
        // SAFETY: as long as the chain, and only copied.
        unsafe { Out::new(&raw mut self.mdls[index]) }
    }
}

#[test]
fn a_list_over_the_drivers_mdls_is_positioned_in_them() {
    let report = run(|| {
        let mut chain = Chain::new(&[10, 20, 30]);
        let pool = list_pool();
        let list = NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, chain.at(0), 10, 50);
        let buffer = list.get().expect("a list").first;
        let data = chain::data_of(buffer).expect("a buffer");
        assert_eq!(
            (data.current_mdl, data.current_mdl_offset),
            (chain.at(1), 0),
            "at the end of one is at the next"
        );
        assert_eq!(chain::bytes_of(&data), (10..60).collect::<Vec<u8>>());
        NdisAdvanceNetBufferDataStart(buffer, 25, 0, None);
        let data = chain::data_of(buffer).expect("a buffer");
        assert_eq!(
            (data.current_mdl, data.current_mdl_offset),
            (chain.at(2), 5)
        );
        assert_eq!(NdisRetreatNetBufferDataStart(buffer, 35, 0, None), 0);
        let data = chain::data_of(buffer).expect("a buffer");
        assert_eq!(
            (data.current_mdl, data.current_mdl_offset, data.data_length),
            (chain.at(0), 0, 60)
        );
        NdisFreeNetBufferList(list);
        NdisFreeNetBufferListPool(pool);
    });
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn data_that_is_not_contiguous_or_not_aligned_is_copied_or_refused() {
    let report = run(|| {
        let mut chain = Chain::new(&[10, 20]);
        let pool = buffer_pool(12);
        let buffer = NdisAllocateNetBuffer(pool, chain.at(0), 5, 25);
        assert!(NdisGetDataBuffer(buffer, 10, Out::null(), 1, 0).is_null());
        let mut storage = [0_u8; 10];
        // SAFETY: written during the call only.
        let into = unsafe { Out::new(storage.as_mut_ptr()) };
        assert_eq!(NdisGetDataBuffer(buffer, 10, into, 1, 0), into);
        assert_eq!(storage, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        let here = NdisGetDataBuffer(buffer, 4, Out::null(), 1, 0);
        let misaligned = u32::try_from((here.address() + 1) % 4).expect("small");
        assert!(NdisGetDataBuffer(buffer, 4, Out::null(), 4, misaligned).is_null());
        assert_eq!(
            NdisGetDataBuffer(buffer, 4, Out::null(), 4, (misaligned + 3) % 4),
            here
        );
        NdisFreeNetBuffer(buffer);
        NdisFreeNetBufferPool(pool);
    });
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn every_buffer_of_a_list_moves() {
    let report = run(|| {
        let mut chain = Chain::new(&[40]);
        let pool = list_pool();
        let list = NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, chain.at(0), 0, 40);
        assert_eq!(NdisRetreatNetBufferListDataStart(list, 8, 0, None, None), 0);
        let buffer = list.get().expect("a list").first;
        assert_eq!(chain::data_of(buffer).expect("a buffer").data_length, 48);
        NdisAdvanceNetBufferListDataStart(list, 8, 1, None);
        assert_eq!(chain::data_of(buffer).expect("a buffer").data_length, 40);
        NdisFreeNetBufferList(list);
        NdisFreeNetBufferListPool(pool);
    });
    assert!(report.is_clean(), "{report:#?}");
}

/// An MDL and its memory.
type Made = Box<(Mdl, [u8; 64])>;

thread_local! {
    static MADE: std::cell::RefCell<Vec<Made>> = const { std::cell::RefCell::new(Vec::new()) };
}

extern "win64" fn allocate_mdl(size: Out<u32>) -> Out<Mdl> {
    assert!(size.get().expect("a size") <= 64);
    let mut made = Box::new((Mdl::for_nonpaged(Out::null(), 0), [0_u8; 64]));
    // SAFETY: on the heap until it is freed, and only copied meanwhile.
    let memory = unsafe { Out::new(made.1.as_mut_ptr()) };
    made.0 = Mdl::for_nonpaged(memory, 64);
    // SAFETY: as above.
    let mdl = unsafe { Out::new(&raw mut made.0) };
    MADE.with_borrow_mut(|all| all.push(made));
    mdl
}

extern "win64" fn free_mdl(mdl: Out<Mdl>) {
    MADE.with_borrow_mut(|all| all.retain(|made| &raw const made.0 as usize != mdl.address()));
}

#[test]
fn a_driver_may_allocate_for_a_retreat_itself() {
    let report = run(|| {
        let mut chain = Chain::new(&[10]);
        let pool = list_pool();
        let list = NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, chain.at(0), 0, 10);
        let buffer = list.get().expect("a list").first;
        assert_eq!(
            NdisRetreatNetBufferDataStart(buffer, 20, 8, Some(allocate_mdl)),
            0
        );
        let data = chain::data_of(buffer).expect("a buffer");
        assert_eq!((data.data_offset, data.data_length), (44, 30));
        NdisAdvanceNetBufferDataStart(buffer, 20, 1, Some(free_mdl));
        assert_eq!(MADE.with_borrow(Vec::len), 0);
        assert_eq!(
            chain::data_of(buffer).expect("a buffer").mdl_chain,
            chain.at(0)
        );
        NdisFreeNetBufferList(list);
        NdisFreeNetBufferListPool(pool);
    });
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn a_list_has_the_context_it_asked_for() {
    let report = run(|| {
        let pool = list_pool();
        let list = NdisAllocateNetBufferList(pool, 32, 16);
        let context = list.get().expect("a list").context;
        assert_eq!(context.offset::<u16>(8).get(), Some(48));
        assert!(
            context.offset::<u8>(16 + 47).set(1),
            "the last byte of the data"
        );
        NdisFreeNetBufferList(list);
        NdisFreeNetBufferListPool(pool);
    });
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn what_is_not_freed_is_a_leak() {
    let report = run(|| {
        let mut chain = Chain::new(&[10]);
        let pool = list_pool();
        let list = NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, chain.at(0), 0, 10);
        assert!(!list.is_null());
    });
    let kinds: Vec<_> = report
        .leaks
        .iter()
        .map(|leak| (leak.kind, leak.name.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [("net buffer list", ""), ("net buffer list pool", "Test")]
    );
}

#[test]
fn misuse_is_found() {
    let report = run(|| {
        assert_eq!(buffer_pool(4), 0);
        assert_eq!(NdisAllocateNetBufferPool(0, In::null()), 0);
        NdisFreeNetBufferPool(0x40);
        assert!(NdisAllocateNetBuffer(0x40, Out::null(), 0, 0).is_null());
    });
    assert_eq!(
        rules(&report),
        [
            ARGUMENT.name,
            ARGUMENT.name,
            OBJECT_STALE.name,
            OBJECT_STALE.name
        ]
    );
    assert!(report.leaks.is_empty());
}

#[test]
fn more_data_than_the_mdls_hold_is_found() {
    let report = run(|| {
        let mut chain = Chain::new(&[10]);
        let pool = list_pool();
        let list = NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, chain.at(0), 1, 10);
        NdisAdvanceNetBufferDataStart(list.get().expect("a list").first, 11, 0, None);
        NdisFreeNetBufferList(list);
        NdisFreeNetBufferListPool(pool);
    });
    assert_eq!(rules(&report), [ARGUMENT.name, ARGUMENT.name]);
}

#[test]
fn freeing_a_retreated_list_or_a_pool_in_use_is_found() {
    let report = run(|| {
        let mut chain = Chain::new(&[10]);
        let pool = list_pool();
        let list = NdisAllocateNetBufferAndNetBufferList(pool, 0, 0, chain.at(0), 0, 10);
        assert_eq!(
            NdisRetreatNetBufferDataStart(list.get().expect("a list").first, 4, 0, None),
            0
        );
        NdisFreeNetBufferListPool(pool);
        NdisFreeNetBufferList(list);
        NdisFreeNetBufferList(list);
    });
    assert_eq!(
        rules(&report),
        [OBJECT_STALE.name, NBL_STATE.name, OBJECT_STALE.name]
    );
    assert_eq!(report.leaks[0].kind, "net buffer retreat");
}
