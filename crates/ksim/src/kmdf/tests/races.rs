//! Two processors at once.

use wfp_schema::NtStatus;

use super::driver::{DEVICE, HOLD, Machine, Setup, evt_cancel, with};
use crate::kernel::{Config, Kernel};
use crate::kmdf::request_api::{WdfRequestComplete, WdfRequestMarkCancelableEx};
use crate::nt::io_security::Caller;

/// The driver makes a request cancelable on one processor while it is cancelled on the other: either its cancel
/// routine is called or it is told at once. No cancellation is lost, and none comes twice.
#[test]
fn marking_and_cancelling_race_for_a_request() {
    let kernel = Kernel::new(&Config {
        processors: 2,
        ..Config::default()
    })
    .unwrap();
    let machine = Machine::with_kernel(kernel, &Setup::default());
    let handle = machine.kernel.open(DEVICE, Caller::system()).unwrap();
    let globals = machine.run(|| with(|state| state.globals));
    for _ in 0..300 {
        let pending = handle.ioctl_async(HOLD, b"x", 0).unwrap();
        let request = machine.run(|| with(|state| std::mem::take(&mut state.held)))[0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                machine.kernel.on(1, |_| pending.cancel().unwrap()).unwrap();
            });
            machine.run(|| {
                let status = WdfRequestMarkCancelableEx(globals, request, Some(evt_cancel));
                if status == NtStatus::CANCELLED {
                    WdfRequestComplete(globals, request, status);
                }
            });
        });
        assert_eq!(pending.poll().unwrap().status, NtStatus::CANCELLED);
    }
    drop(handle);
    machine.end_clean();
}
