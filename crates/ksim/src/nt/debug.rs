//! Debug output and bug checks.

mod format;

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::access::{In, address};
use crate::cpu::{HIGH, PASSIVE};
use crate::export::{Call, exports};
use crate::kernel::Bugcheck;
use crate::loader::memory::probe;
use crate::verifier::{STOP_BUGCHECK, STOP_PANIC};

/// Functions with variable arguments: they get the address of the argument list.
pub(super) const VARIADIC: &[&str] = &["DbgPrint", "DbgPrintEx"];

/// How many lines are kept.
const KEPT: usize = 10_000;

/// What drivers printed, the newest lines.
#[derive(Debug, Default)]
pub struct Log(Mutex<VecDeque<String>>);

impl Log {
    /// The lines, oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }

    pub(crate) fn push(&self, text: &str) {
        let mut lines = self.0.lock();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(line.to_owned());
        }
    }
}

/// Formats and keeps what a driver prints.
fn print(call: &Call<'_>, prefix: In<u8>, template: In<u8>, arguments: In<u64>) -> u32 {
    let prefix = format::bytes_until_nul(prefix);
    let text = format::format(&format::bytes_until_nul(template), arguments);
    call.machine()
        .nt()
        .debug_log()
        .push(&(String::from_utf8_lossy(&prefix) + &*text));
    0
}

/// The bug check of wdk-panic's handler; its parameters are the file's name, its length, the line and the column.
const RUST_PANIC: u32 = u32::from_be_bytes(*b"RPNC");

/// Where Rust code panicked, as its handler told in the parameters of its bug check.
fn panic_location([file, length, line, column]: [u64; 4]) -> Option<String> {
    /// No path is longer.
    const LONGEST: u64 = 4096;
    let mut bytes = vec![0; usize::try_from(length.min(LONGEST)).ok()?];
    let readable = probe(address(file), &mut bytes);
    let file = String::from_utf8_lossy(bytes.get(..readable)?).into_owned();
    (!file.is_empty()).then(|| format!("{file}:{line}:{column}"))
}

fn bug_check(call: &Call<'_>, code: u32, parameters: [u64; 4]) -> ! {
    let machine = call.machine();
    let panic = (code == RUST_PANIC).then(|| panic_location(parameters));
    let place = machine.verifier().site(call.site());
    let (rule, words) = match panic {
        Some(Some(location)) => (&STOP_PANIC, format!("panicked at {location}")),
        Some(None) => (&STOP_PANIC, format!("panicked, reported from {place}")),
        None => (
            &STOP_BUGCHECK,
            format!("{} called from {place}", call.name()),
        ),
    };
    let mut bugcheck = Bugcheck::new(code, parameters, words);
    bugcheck.stack = crate::trap::driver_stack(machine, call.registers());
    machine.crash_by(rule, bugcheck)
}

/// The pointer that is the `index`-th argument of a list.
fn pointer(arguments: In<u64>, index: usize) -> In<u8> {
    In::member(arguments.at(index).unwrap_or(0))
}

/// The list without its first `count` arguments.
fn rest(arguments: In<u64>, count: usize) -> In<u64> {
    In::member(arguments.address() as u64 + 8 * count as u64)
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-kebugcheckex>
    fn KeBugCheckEx(call, code: u32, first: u64, second: u64, third: u64, fourth: u64),
    irql PASSIVE..=HIGH;
    { bug_check(&call, code, [first, second, third, fourth]) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nf-ntddk-kebugcheck>
    fn KeBugCheck(call, code: u32),
    irql PASSIVE..=HIGH;
    { bug_check(&call, code, [0; 4]) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-dbgprint>
    fn DbgPrint(call, arguments: In<u64>) -> u32,
    irql PASSIVE..=HIGH;
    { print(&call, In::null(), pointer(arguments, 0), rest(arguments, 1)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-dbgprintex>
    fn DbgPrintEx(call, arguments: In<u64>) -> u32,
    irql PASSIVE..=HIGH;
    { print(&call, In::null(), pointer(arguments, 2), rest(arguments, 3)) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-vdbgprintex>
    fn vDbgPrintEx(call, component: u32, level: u32, template: In<u8>, arguments: In<u64>) -> u32,
    irql PASSIVE..=HIGH;
    { print(&call, In::null(), template, arguments) }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-vdbgprintexwithprefix>
    fn vDbgPrintExWithPrefix(
        call, prefix: In<u8>, component: u32, level: u32, template: In<u8>, arguments: In<u64>,
    ) -> u32,
    irql PASSIVE..=HIGH;
    { print(&call, prefix, template, arguments) }
}
