//! The pool at the host's limits: a test in a process of its own, since it takes from all others.
#![allow(missing_docs, reason = "tests name what they show")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use ksim::nt::pool::{Freed, Request};
use ksim::{Config, Kernel};

#[test]
fn more_blocks_than_the_host_has_mappings_for_are_allocated_all_the_same() {
    let kernel = Kernel::new(&Config::default()).unwrap();
    let pool = kernel.nt().pool();
    let request = Request {
        size: 24,
        tag: u32::from_le_bytes(*b"Many"),
        site: 0,
        zeroed: true,
        paged: false,
        alignment: 16,
    };
    let blocks: Vec<_> = (0..40_000)
        .map(|_| pool.allocate(&request).unwrap().address)
        .collect();
    assert_eq!(pool.blocks(), blocks.len());
    for block in blocks {
        assert!(matches!(pool.free(block, 0), Freed::Block(_)));
    }
    assert_eq!((pool.blocks(), pool.take_damage().len()), (0, 0));
}
