//! User sessions, as drivers are told of them: who logs on, which session is at the console.

use wfp_schema::NtStatus;

use super::io_memory::Guarded;
use super::notify::Registered;
use crate::access::{In, Out, plain};
use crate::cpu::{APC, Callback, PASSIVE};
use crate::export::exports;
use crate::kernel::{Bugcheck, Kernel};
use crate::ndis::layout::layout;
use crate::verifier::ARGUMENT;

/// `IO_SESSION_EVENT`: what happens to a session. A fast user switch disconnects one and connects another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SessionEvent {
    /// It was made.
    Created = 1,
    /// It ended.
    Terminated = 2,
    /// It is at the console now, or a remote user's.
    Connected = 3,
    /// It is not any more.
    Disconnected = 4,
    /// Its user logged on.
    LoggedOn = 5,
    /// Its user logged off.
    LoggedOff = 6,
}

impl SessionEvent {
    /// Its bit in `IO_SESSION_STATE_NOTIFICATION.EventMask`.
    const fn mask(self) -> u32 {
        1 << (self as u32 - 1)
    }
}

/// `IO_SESSION_NOTIFICATION_FUNCTION`: session, I/O object, event, context, payload, its length.
type Function = extern "win64" fn(usize, usize, u32, usize, usize, u32) -> NtStatus;

/// `IO_SESSION_STATE_NOTIFICATION`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionStateNotification {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) io_object: usize,
    pub(crate) event_mask: u32,
    pub(crate) context: usize,
}

plain!(SessionStateNotification);

layout! {
    SessionStateNotification 32 { size @ 0, flags @ 4, io_object @ 8, event_mask @ 16, context @ 24 }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Registration {
    function: Function,
    wants: SessionStateNotification,
}

/// The drivers that are told of sessions.
pub(crate) type Sessions = Registered<Registration>;

/// `IoSessionStateNotification`.
const SESSION_STATE: u32 = 0;
/// `IO_SESSION_STATE_VALID_EVENT_MASK`.
const VALID_EVENTS: u32 = 0x3f;
/// `STATUS_INVALID_PARAMETER_3`.
const INVALID_PARAMETER_3: NtStatus = NtStatus::from_u32(0xc000_00f1);
/// `STATUS_INVALID_PARAMETER_4`.
const INVALID_PARAMETER_4: NtStatus = NtStatus::from_u32(0xc000_00f2);
/// How the verifier calls a registration.
const REGISTRATION: &str = "session notification";

impl Kernel {
    /// Something happens to the session `id`: the drivers that registered for such events are told at
    /// `PASSIVE_LEVEL`.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn change_session(&self, id: u32, event: SessionEvent) -> Result<(), Bugcheck> {
        self.here(|cpu| {
            // IO_SESSION_CONNECT_INFO: the session's number, and whether it is local.
            let payload = Guarded::new(8);
            payload.put(0, id.to_le_bytes());
            payload.put(4, [1]);
            let has_payload = matches!(event, SessionEvent::Connected | SessionEvent::Disconnected);
            let (address, length) = if has_payload {
                (payload.address(), 8)
            } else {
                (0, 0)
            };
            let session = Guarded::new(16);
            cpu.machine().nt().sessions().each(
                cpu,
                |registration| registration.wants.event_mask & event.mask() != 0,
                |registration| {
                    let Registration { function, wants } = registration;
                    let callback =
                        Callback::new("IO_SESSION_NOTIFICATION_FUNCTION", function as usize);
                    cpu.enter_driver(callback, PASSIVE, || {
                        function(
                            session.address(),
                            wants.io_object,
                            event as u32,
                            wants.context,
                            address,
                            length,
                        )
                    });
                },
            );
            cpu.machine().run_pending(cpu);
        })
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioregistercontainernotification>
    fn IoRegisterContainerNotification(
        call, class: u32, function: Option<Function>, information: In<SessionStateNotification>, length: u32,
        registration: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=APC, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        if class != SESSION_STATE {
            return NtStatus::INVALID_PARAMETER_1;
        }
        if length as usize != size_of::<SessionStateNotification>() {
            return INVALID_PARAMETER_4;
        }
        let wants = information.get().filter(|wants| {
            wants.size == length && wants.io_object != 0 && wants.event_mask & !VALID_EVENTS == 0
        });
        let (Some(wants), Some(function)) = (wants, function) else {
            call.violation(&ARGUMENT, "the notification information or the function is wrong");
            return INVALID_PARAMETER_3;
        };
        let handle = call.machine().ndis.new_handle();
        call.machine().nt().sessions().add(handle, Registration { function, wants });
        call.machine().verifier().track(&call, REGISTRATION, handle, "", 0);
        registration.set(handle);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iounregistercontainernotification>
    fn IoUnregisterContainerNotification(call, registration: usize),
    irql PASSIVE..=APC;
    {
        call.machine().verifier().untrack(&call, REGISTRATION, registration);
        call.machine().nt().sessions().remove(&call, registration);
    }
}
