//! Instructions: one call, executed step by step in a process of its own.
//!
//! Virtual machines mostly have no instruction counter, but every x86-64 processor can stop after each instruction.
//! The count is exact, the same every time, and each instruction is known to be the driver's or not. A repeated
//! string instruction (`rep movsb`) counts as one, as a counter would have it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Range;
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use serde::Serialize;

use crate::rows::{Images, ROWS, Subject};

/// The argument that makes this program execute a row for another one that counts.
pub(crate) const ARGUMENT: &str = "--steps-of";

/// Instructions of one call.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Instructions {
    /// All of them.
    pub(crate) whole: u64,
    /// Those in the driver's image.
    pub(crate) driver: u64,
}

/// Counts the instructions of one call of the row `name`.
///
/// # Errors
/// Why that is not possible here.
pub(crate) fn count(name: &str) -> Result<Instructions, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args([ARGUMENT, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let result = count_in(&mut child);
    // It waits to be ended, or never got that far.
    drop(child.kill());
    drop(child.wait());
    result
}

fn count_in(child: &mut Child) -> Result<Instructions, String> {
    let (Some(input), Some(output)) = (child.stdin.as_mut(), child.stdout.take()) else {
        return Err("no pipes".to_owned());
    };
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let &[thread, start, end] = &numbers[..] else {
        return Err("the process that is to be counted ended".to_owned());
    };
    let thread = Pid::from_raw(i32::try_from(thread).map_err(|error| error.to_string())?);
    let refused = |error: nix::Error| format!("ptrace: {error}");
    ptrace::seize(thread, ptrace::Options::empty()).map_err(refused)?;
    input.write_all(b"\n").map_err(|error| error.to_string())?;
    let counted = between_stops(thread, start..end).and_then(|nothing| {
        ptrace::cont(thread, None)?;
        let call = between_stops(thread, start..end)?;
        Ok(Instructions {
            whole: call.whole - nothing.whole,
            driver: call.driver,
        })
    });
    if ptrace::detach(thread, None).is_err() {
        // It runs, or it has ended. Nobody but us can wait for the end of a thread that we trace.
        drop(child.kill());
        let _ended = waitpid(thread, Some(WaitPidFlag::__WALL));
    }
    counted.map_err(refused)
}

/// Waits until `thread` stops itself, then counts until it does so again.
fn between_stops(thread: Pid, driver: Range<u64>) -> nix::Result<Instructions> {
    let mut signal = None;
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => break,
            WaitStatus::Stopped(_, other) => ptrace::cont(thread, other)?,
            _ => return Err(nix::Error::ECHILD),
        }
    }
    let mut counted = Instructions {
        whole: 0,
        driver: 0,
    };
    let mut at = ptrace::getregs(thread)?.rip;
    loop {
        ptrace::step(thread, signal.take())?;
        match waitpid(thread, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                let next = ptrace::getregs(thread)?.rip;
                // Unmoved: a string instruction that repeats itself.
                if next != at {
                    counted.whole += 1;
                    counted.driver += u64::from(driver.contains(&at));
                }
                at = next;
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(counted),
            WaitStatus::Stopped(_, other) => signal = Some(other),
            _ => return Err(nix::Error::ECHILD),
        }
    }
}

/// Executes the row `name` for the process that counts: stops before and behind nothing, then before and behind a call.
pub(crate) fn execute(name: &str, images: &Images) {
    let row = ROWS.iter().find(|row| row.name == name).expect("a row");
    row.on_machine(images, |subject: &mut dyn Subject, driver| {
        for _ in 0..4 {
            subject.run(64, &mut |calls| calls());
        }
        println!("{} {} {}", gettid(), driver.start, driver.end);
        let mut line = String::new();
        drop(std::io::stdin().read_line(&mut line));
        stops_around(&mut || ());
        subject.run(1, &mut |call| stops_around(call));
    });
    // Nobody asks for more.
    std::process::exit(0);
}

/// `call` between two stops, in the same way whatever it is.
#[inline(never)]
fn stops_around(call: &mut dyn FnMut()) {
    raise(Signal::SIGSTOP).expect("a signal to this thread");
    call();
    raise(Signal::SIGSTOP).expect("a signal to this thread");
}
