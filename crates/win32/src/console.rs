//! Ctrl+C.

use std::io;
use std::sync::OnceLock;

use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, CTRL_C_EVENT, SetConsoleCtrlHandler};
use windows_sys::core::BOOL;

static HANDLER: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Calls `handler` on Ctrl+C or Ctrl+Break, on a thread of its own, instead of ending the program. The first handler
/// stays.
///
/// <https://learn.microsoft.com/windows/console/setconsolectrlhandler>
///
/// # Errors
/// What the system answers.
pub fn on_interrupt(handler: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    if HANDLER.set(Box::new(handler)).is_err() {
        return Ok(());
    }
    // SAFETY: the routine is a function of this program, which is never unloaded.
    if unsafe { SetConsoleCtrlHandler(Some(routine), 1) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

unsafe extern "system" fn routine(event: u32) -> BOOL {
    let is_interrupt = matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT);
    HANDLER.get().filter(|_| is_interrupt).map_or(0, |handler| {
        handler();
        1
    })
}
