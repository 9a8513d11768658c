//! Sleep, resume, shutdown and sessions, as drivers are told of them.

use std::sync::Mutex;

use wfp_schema::{Guid, NtStatus};

use super::{input, kernel, out, rules};
use crate::access::{In, Out};
use crate::cpu::DISPATCH;
use crate::nt::callback::{
    ExCreateCallback, ExNotifyCallback, ExRegisterCallback, ExUnregisterCallback,
};
use crate::nt::object::ObfDereferenceObject;
use crate::nt::power::{
    CONSOLE_DISPLAY_STATE, PoRegisterPowerSettingCallback, PoUnregisterPowerSettingCallback,
};
use crate::nt::session::{
    IoRegisterContainerNotification, IoUnregisterContainerNotification, SessionStateNotification,
};
use crate::{PoolMode, SessionEvent, SystemState};

/// What a test's callbacks were told; the context is its address.
type Told = Mutex<Vec<String>>;

fn tell(context: usize, words: String) {
    // SAFETY: each test's log outlives its kernel's callbacks.
    let told = unsafe { &*(context as *const Told) };
    told.lock().unwrap().push(words);
}

fn take(told: &Told) -> Vec<String> {
    std::mem::take(&mut told.lock().unwrap())
}

fn context(told: &Told) -> usize {
    std::ptr::from_ref(told) as usize
}

/// An `OBJECT_ATTRIBUTES` that names a callback object.
struct Named {
    _text: Vec<u16>,
    _name: Box<[u64; 2]>,
    attributes: [u64; 6],
}

impl Named {
    fn new(name: &str) -> Self {
        let text: Vec<u16> = name.encode_utf16().collect();
        let bytes = (text.len() * 2) as u64;
        let name = Box::new([bytes << 16 | bytes, text.as_ptr() as u64]);
        let attributes = [48, 0, name.as_ptr() as u64, 0, 0, 0];
        Self {
            _text: text,
            _name: name,
            attributes,
        }
    }

    fn attributes(&self) -> In<u8> {
        In::member(self.attributes.as_ptr() as u64)
    }
}

fn open(name: &str, create: u8, many: u8) -> (NtStatus, usize) {
    let (named, mut object) = (Named::new(name), 0);
    let status = ExCreateCallback(out(&mut object), named.attributes(), create, many);
    (status, object)
}

extern "win64" fn on_callback(context: usize, first: usize, second: usize) {
    tell(context, format!("{first} {second}"));
}

/// <https://learn.microsoft.com/windows-hardware/drivers/kernel/using-a-system-defined-callback-object>
#[test]
fn the_power_state_callback_is_called_before_sleep_and_after_resume() {
    let (kernel, told) = (kernel(PoolMode::Special, 1), Told::default());
    let address = context(&told);
    let (object, handle) = kernel
        .on(0, |_| {
            let (status, object) = open("\\Callback\\PowerState", 0, 0);
            assert!(status.is_success());
            (
                object,
                ExRegisterCallback(object, Some(on_callback), address),
            )
        })
        .unwrap();
    kernel.sleep().unwrap();
    assert_eq!(take(&told), ["3 0"]);
    assert_eq!(kernel.system_state(), SystemState::Sleeping);
    kernel.sleep().unwrap();
    assert!(take(&told).is_empty(), "it sleeps already");
    kernel.resume().unwrap();
    assert_eq!(take(&told), ["3 1"]);
    assert_eq!(kernel.system_state(), SystemState::Working);
    kernel
        .on(0, |_| {
            ExUnregisterCallback(handle);
            ObfDereferenceObject(object);
        })
        .unwrap();
    kernel.sleep().unwrap();
    assert!(take(&told).is_empty(), "unregistered");
    assert!(kernel.verifier().report().is_clean());
}

extern "win64" fn on_callback_at(context: usize, first: usize, second: usize) {
    let irql = crate::Cpu::current().unwrap().irql();
    tell(context, format!("{first} {second} at {irql}"));
}

#[test]
fn the_power_state_callback_is_called_at_the_level_that_is_asked_for() {
    let (kernel, told) = (kernel(PoolMode::Special, 1), Told::default());
    let address = context(&told);
    let (object, handle) = kernel
        .on(0, |_| {
            let (_, object) = open("\\Callback\\PowerState", 0, 0);
            let function = Some(on_callback_at as extern "win64" fn(usize, usize, usize));
            (object, ExRegisterCallback(object, function, address))
        })
        .unwrap();
    kernel.sleep_at(DISPATCH).unwrap();
    kernel.resume_at(DISPATCH).unwrap();
    kernel.sleep().unwrap();
    kernel.resume().unwrap();
    assert_eq!(
        take(&told),
        ["3 0 at 2", "3 1 at 2", "3 0 at 0", "3 1 at 0"]
    );
    kernel
        .on(0, |_| {
            ExUnregisterCallback(handle);
            ObfDereferenceObject(object);
        })
        .unwrap();
    assert!(kernel.verifier().report().is_clean());
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-excreatecallback>
#[test]
fn a_drivers_own_callback_object_takes_as_many_functions_as_it_was_made_for() {
    let (kernel, told) = (kernel(PoolMode::Special, 1), Told::default());
    let address = context(&told);
    kernel
        .on(0, |_| {
            assert_eq!(open("", 1, 1).0, NtStatus::UNSUCCESSFUL);
            assert_eq!(
                open("\\Callback\\Absent", 0, 1).0,
                NtStatus::OBJECT_NAME_NOT_FOUND
            );
            let (_, one) = open("\\Callback\\One", 1, 0);
            let first = ExRegisterCallback(one, Some(on_callback), address);
            assert_eq!(ExRegisterCallback(one, Some(on_callback), address), 0);
            let (_, again) = open("\\CALLBACK\\one", 0, 0);
            assert_eq!(again, one, "names do not depend on case");
            ExNotifyCallback(again, 7, 8);
            ExUnregisterCallback(first);
            ExNotifyCallback(again, 9, 9);
            ObfDereferenceObject(one);
            ObfDereferenceObject(one);
        })
        .unwrap();
    assert_eq!(take(&told), ["7 8"]);
    assert!(kernel.verifier().report().is_clean());
}

#[test]
fn the_systems_callback_objects_are_not_a_drivers_to_notify() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel
        .on(0, |_| {
            let (_, object) = open("\\Callback\\PowerState", 0, 0);
            ExNotifyCallback(object, 3, 0);
            ObfDereferenceObject(object);
            ExUnregisterCallback(0x1234);
        })
        .unwrap();
    assert_eq!(rules(&kernel), ["argument", "object-stale"]);
}

#[test]
fn a_callback_that_is_left_registered_is_a_leak() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel
        .on(0, |_| {
            let (_, object) = open("\\Callback\\PowerState", 0, 0);
            ExRegisterCallback(object, Some(on_callback), 0);
            ObfDereferenceObject(object);
        })
        .unwrap();
    let leaks = kernel.verifier().report().leaks;
    assert_eq!(leaks.len(), 1);
    assert_eq!(leaks[0].kind, "callback registration");
}

extern "win64" fn on_setting(
    setting: In<Guid>,
    value: usize,
    length: u32,
    context: usize,
) -> NtStatus {
    let value = In::<u32>::member(value as u64).get().unwrap();
    assert_eq!((setting.get(), length), (Some(CONSOLE_DISPLAY_STATE), 4));
    tell(context, value.to_string());
    NtStatus::SUCCESS
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-poregisterpowersettingcallback>
#[test]
fn a_power_setting_is_told_at_once_and_whenever_it_changes() {
    let (kernel, told) = (kernel(PoolMode::Special, 1), Told::default());
    let address = context(&told);
    let handle = kernel
        .on(0, |_| {
            let mut handle = 0;
            let guid = CONSOLE_DISPLAY_STATE;
            let status = PoRegisterPowerSettingCallback(
                0,
                input(&guid),
                Some(on_setting),
                address,
                out(&mut handle),
            );
            assert!(status.is_success());
            handle
        })
        .unwrap();
    assert_eq!(take(&told), ["1"], "the present value");
    kernel.sleep().unwrap();
    kernel.resume().unwrap();
    assert_eq!(take(&told), ["0", "1"]);
    kernel
        .set_power_setting(CONSOLE_DISPLAY_STATE, &2u32.to_le_bytes())
        .unwrap();
    kernel
        .set_power_setting(CONSOLE_DISPLAY_STATE, &2u32.to_le_bytes())
        .unwrap();
    assert_eq!(take(&told), ["2"], "told of a change only");
    kernel
        .on(0, |_| {
            assert!(PoUnregisterPowerSettingCallback(handle).is_success());
            assert_eq!(
                PoUnregisterPowerSettingCallback(handle),
                NtStatus::INVALID_PARAMETER
            );
        })
        .unwrap();
    assert_eq!(rules(&kernel), ["object-stale"], "the second time");
}

extern "win64" fn on_session(
    _session: usize,
    object: usize,
    event: u32,
    context: usize,
    payload: usize,
    length: u32,
) -> NtStatus {
    let id = (length > 0).then(|| In::<u32>::member(payload as u64).get().unwrap());
    tell(context, format!("{object:#x} {event} {id:?}"));
    NtStatus::SUCCESS
}

/// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioregistercontainernotification>
#[test]
fn a_fast_user_switch_disconnects_one_session_and_connects_another() {
    let (kernel, told) = (kernel(PoolMode::Special, 1), Told::default());
    let address = context(&told);
    let handle = kernel
        .on(0, |_| {
            let mut handle = 0;
            let wants = SessionStateNotification {
                size: 32,
                flags: 0,
                io_object: 0xbeef,
                // Connect and disconnect.
                event_mask: 0xc,
                context: address,
            };
            let register = |class, length, handle: Out<usize>| {
                IoRegisterContainerNotification(
                    class,
                    Some(on_session),
                    input(&wants),
                    length,
                    handle,
                )
            };
            assert_eq!(register(1, 32, Out::null()), NtStatus::INVALID_PARAMETER_1);
            assert!(!register(0, 31, Out::null()).is_success());
            assert!(register(0, 32, out(&mut handle)).is_success());
            handle
        })
        .unwrap();
    for (session, event) in [
        (1, SessionEvent::Disconnected),
        (2, SessionEvent::LoggedOn),
        (2, SessionEvent::Connected),
    ] {
        kernel.change_session(session, event).unwrap();
    }
    assert_eq!(take(&told), ["0xbeef 4 Some(1)", "0xbeef 3 Some(2)"]);
    kernel
        .on(0, |_| IoUnregisterContainerNotification(handle))
        .unwrap();
    kernel
        .change_session(2, SessionEvent::Disconnected)
        .unwrap();
    assert!(take(&told).is_empty());
    assert!(kernel.verifier().report().is_clean());
}
