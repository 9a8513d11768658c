//! The genuine WinDivert64.sys, to compare with.

use std::ops::Range;

use ksim::{Cpu, Driver, Kernel, LoadOptions};
use portcullis_tests::foreign::windivert::{Layer, NAME, Program, SNIFF, filter, filter_flags};
use wfp_schema::NtStatus;

use crate::machine;

/// `WinDivert` with one handle that sniffs.
pub(crate) struct WinDivert {
    pub(crate) kernel: Kernel,
    driver: Driver,
    program: Program,
}

impl WinDivert {
    /// Starts the driver and opens a handle whose filter accepts or rejects all packets.
    pub(crate) fn start(image: &[u8], accepts: bool) -> Self {
        let kernel = machine::boot();
        let driver = kernel
            .load(image, &LoadOptions::named(NAME))
            .expect("the driver is loaded");
        let status = driver.start().expect("no bug check");
        assert!(status.is_success(), "{NAME} does not start: {status}");
        let program = Program::new(&kernel);
        let begun = program.initialize(Layer::Network as u32, 0, SNIFF);
        assert_eq!(begun, NtStatus::SUCCESS, "WinDivert: initialize");
        let begun = program.startup(filter_flags(Layer::Network), &filter(accepts));
        assert_eq!(begun, NtStatus::SUCCESS, "WinDivert: start up");
        Self {
            kernel,
            driver,
            program,
        }
    }

    /// Where its code is.
    pub(crate) fn code(&self) -> Range<usize> {
        self.driver.base()..self.driver.base() + self.driver.size()
    }

    /// Lets the driver do what it put off, and takes the packets that wait.
    pub(crate) fn settle(&self, cpu: &Cpu) {
        cpu.machine().run_pending(cpu);
        drop(self.program.waiting());
        cpu.machine().run_pending(cpu);
    }

    /// Closes the handle and unloads the driver.
    pub(crate) fn stop(self) {
        self.program.close();
        self.driver.unload().expect("no bug check");
    }
}
