//! The system's power: sleep, resume and shutdown, and the drivers that are told.

use std::collections::HashMap;

use parking_lot::Mutex;
use wfp_schema::{Guid, NtStatus};

use super::callback::POWER_STATE;
use super::io_memory::Guarded;
use super::notify::Registered;
use crate::access::{In, Out};
use crate::cpu::{Callback, Cpu, PASSIVE};
use crate::export::exports;
use crate::kernel::{Bugcheck, Kernel};
use crate::verifier::ARGUMENT;

/// Whether the system works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SystemState {
    /// S0.
    #[default]
    Working,
    /// S1 to S4: memory is kept, nothing runs.
    Sleeping,
    /// S5: drivers were told and stay loaded, since nothing unloads them.
    Off,
}

/// `GUID_CONSOLE_DISPLAY_STATE`: 0 off, 1 on, 2 dimmed.
pub const CONSOLE_DISPLAY_STATE: Guid = Guid::from_u128(0x6fe6_9556_704a_47a0_8f24_c28d_936f_da47);
/// `GUID_MONITOR_POWER_ON`: 0 off, 1 on.
pub const MONITOR_POWER_ON: Guid = Guid::from_u128(0x0273_1015_4510_4526_99e6_e5a1_7ebd_1aea);
/// `GUID_ACDC_POWER_SOURCE`: 0 mains, 1 battery, 2 a short-term supply.
pub const ACDC_POWER_SOURCE: Guid = Guid::from_u128(0x5d3e_9a59_e9d5_4b00_a6bd_ff34_ff51_6548);

/// `PO_CB_SYSTEM_STATE_LOCK`: the second argument says whether the system is working again.
const SYSTEM_STATE_LOCK: usize = 3;

/// `POWER_SETTING_CALLBACK`: setting, value, its length, context.
type SettingCallback = extern "win64" fn(In<Guid>, usize, u32, usize) -> NtStatus;

/// How the verifier calls registrations.
const SETTING: &str = "power setting registration";
const SHUTDOWN: &str = "shutdown notification";

/// The power of one machine.
#[derive(Debug)]
pub(crate) struct Power {
    state: Mutex<SystemState>,
    settings: Mutex<HashMap<Guid, Vec<u8>>>,
    told: Registered<Setting>,
    /// Devices whose drivers are told of a shutdown, the last registered first.
    shutdown: Mutex<Vec<Shutdown>>,
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    guid: Guid,
    callback: SettingCallback,
    context: usize,
}

/// A device that gets `IRP_MJ_SHUTDOWN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shutdown {
    device: usize,
    last_chance: bool,
}

impl Default for Power {
    fn default() -> Self {
        let settings = [
            (CONSOLE_DISPLAY_STATE, 1u32),
            (MONITOR_POWER_ON, 1),
            (ACDC_POWER_SOURCE, 0),
        ];
        let settings = settings.map(|(guid, value)| (guid, value.to_le_bytes().to_vec()));
        Self {
            state: Mutex::default(),
            settings: Mutex::new(settings.into_iter().collect()),
            told: Registered::default(),
            shutdown: Mutex::default(),
        }
    }
}

impl Power {
    /// A device's driver wants to know of a shutdown, before the file systems are flushed or after.
    pub(crate) fn tell_of_shutdown(&self, device: usize, last_chance: bool) {
        let registration = Shutdown {
            device,
            last_chance,
        };
        let mut registered = self.shutdown.lock();
        if !registered.contains(&registration) {
            registered.insert(0, registration);
        }
    }

    /// It does not any more; `false` when it never did.
    pub(crate) fn forget_shutdown(&self, device: usize) -> bool {
        let mut registered = self.shutdown.lock();
        let before = registered.len();
        registered.retain(|registration| registration.device != device);
        registered.len() < before
    }

    fn shut_down(&self, cpu: &Cpu, last_chance: bool) {
        let devices: Vec<usize> = self
            .shutdown
            .lock()
            .iter()
            .filter(|registration| registration.last_chance == last_chance)
            .map(|registration| registration.device)
            .collect();
        for device in devices {
            cpu.machine().io().send_shutdown(cpu, device);
            cpu.machine().run_pending(cpu);
        }
    }

    /// Changes a setting and tells those who want to know.
    fn set(&self, cpu: &Cpu, guid: Guid, value: &[u8]) {
        let before = self.settings.lock().insert(guid, value.to_vec());
        if before.as_deref() == Some(value) {
            return;
        }
        let (guid_memory, value_memory) =
            (Guarded::holding(&guid.to_bytes()), Guarded::holding(value));
        self.told.each(
            cpu,
            |setting| setting.guid == guid,
            |setting| tell(cpu, setting, &guid_memory, &value_memory),
        );
    }
}

/// Calls what is registered with `\Callback\PowerState`.
fn notify(cpu: &Cpu, irql: u8, works: bool) {
    let callbacks = cpu.machine().nt().callbacks();
    let before = cpu.set_irql(irql);
    callbacks.notify_system(cpu, POWER_STATE, SYSTEM_STATE_LOCK, works.into());
    cpu.set_irql(before);
}

/// Calls one driver with a setting's value. Its answer changes nothing.
fn tell(cpu: &Cpu, setting: Setting, guid: &Guarded, value: &Guarded) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let callback = Callback::new("POWER_SETTING_CALLBACK", setting.callback as usize);
    cpu.enter_driver(callback, PASSIVE, || {
        (setting.callback)(
            In::member(guid.address() as u64),
            value.address(),
            length,
            setting.context,
        )
    });
}

impl Kernel {
    /// Whether the system works, sleeps or is off.
    #[must_use]
    pub fn system_state(&self) -> SystemState {
        *self.nt().power().state.lock()
    }

    /// Puts the system to sleep: tells what is registered with `\Callback\PowerState`, and that the display is off.
    /// The clock stands still until it is moved. Nothing happens unless the system works.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn sleep(&self) -> Result<(), Bugcheck> {
        self.sleep_at(PASSIVE)
    }

    /// The same, but calls what is registered with `\Callback\PowerState` at this IRQL: its page allows any up to
    /// `DISPATCH_LEVEL`.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn sleep_at(&self, irql: u8) -> Result<(), Bugcheck> {
        self.change_state(SystemState::Working, SystemState::Sleeping, |cpu| {
            let power = cpu.machine().nt().power();
            for setting in [MONITOR_POWER_ON, CONSOLE_DISPLAY_STATE] {
                power.set(cpu, setting, &0u32.to_le_bytes());
            }
            notify(cpu, irql, false);
        })
    }

    /// Wakes the system: the reverse of [`sleep`](Self::sleep). Nothing happens unless it sleeps.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn resume(&self) -> Result<(), Bugcheck> {
        self.resume_at(PASSIVE)
    }

    /// The reverse of [`sleep_at`](Self::sleep_at).
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn resume_at(&self, irql: u8) -> Result<(), Bugcheck> {
        self.change_state(SystemState::Sleeping, SystemState::Working, |cpu| {
            notify(cpu, irql, true);
            let power = cpu.machine().nt().power();
            for setting in [MONITOR_POWER_ON, CONSOLE_DISPLAY_STATE] {
                power.set(cpu, setting, &1u32.to_le_bytes());
            }
        })
    }

    /// Shuts the system down: services stop, the base filtering engine among them; drivers get `IRP_MJ_SHUTDOWN`
    /// for the devices that they registered, the last-chance ones after the others; then the power goes. Drivers are
    /// not unloaded. Nothing happens unless the system works.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn shutdown(&self) -> Result<(), Bugcheck> {
        self.change_state(SystemState::Working, SystemState::Off, |cpu| {
            let machine = cpu.machine();
            machine.bfe().stop();
            machine.run_pending(cpu);
            machine.nt().power().shut_down(cpu, false);
            machine.nt().power().shut_down(cpu, true);
            notify(cpu, PASSIVE, false);
        })
    }

    /// Gives a power setting a value, and tells the drivers that registered for it.
    ///
    /// # Errors
    /// [`Bugcheck`] when the machine stopped.
    pub fn set_power_setting(&self, setting: Guid, value: &[u8]) -> Result<(), Bugcheck> {
        self.here(|cpu| {
            cpu.machine().nt().power().set(cpu, setting, value);
            cpu.machine().run_pending(cpu);
        })
    }

    fn change_state(
        &self,
        from: SystemState,
        to: SystemState,
        work: impl FnOnce(&Cpu) + Send,
    ) -> Result<(), Bugcheck> {
        {
            let mut state = self.nt().power().state.lock();
            if *state != from {
                return Ok(());
            }
            *state = to;
        }
        self.here(|cpu| {
            work(cpu);
            cpu.machine().run_pending(cpu);
        })
    }
}

exports! {
    module "ntoskrnl.exe";

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-poregisterpowersettingcallback>
    fn PoRegisterPowerSettingCallback(
        call, device: usize, setting: In<Guid>, callback: Option<SettingCallback>, context: usize, handle: Out<usize>,
    ) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        let (Some(guid), Some(callback)) = (setting.get(), callback) else {
            call.violation(&ARGUMENT, "SettingGuid or Callback is NULL");
            return NtStatus::INVALID_PARAMETER;
        };
        let power = call.machine().nt().power();
        let setting = Setting { guid, callback, context };
        let number = call.machine().ndis.new_handle();
        power.told.add(number, setting);
        call.machine().verifier().track(&call, SETTING, number, "", 0);
        handle.set(number);
        let value = power.settings.lock().get(&guid).cloned();
        if let Some(value) = value {
            let memory = (Guarded::holding(&guid.to_bytes()), Guarded::holding(&value));
            tell(call.cpu(), setting, &memory.0, &memory.1);
        }
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/ntifs/nf-ntifs-pounregisterpowersettingcallback>
    fn PoUnregisterPowerSettingCallback(call, handle: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE;
    {
        call.machine().verifier().untrack(&call, SETTING, handle);
        if call.machine().nt().power().told.remove(&call, handle) {
            NtStatus::SUCCESS
        } else {
            NtStatus::INVALID_PARAMETER
        }
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioregistershutdownnotification>
    fn IoRegisterShutdownNotification(call, device: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        call.machine().nt().power().tell_of_shutdown(device, false);
        call.machine().verifier().track(&call, SHUTDOWN, device, "", 0);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-ioregisterlastchanceshutdownnotification>
    fn IoRegisterLastChanceShutdownNotification(call, device: usize) -> NtStatus,
    irql PASSIVE..=PASSIVE, fails NtStatus::INSUFFICIENT_RESOURCES;
    {
        call.machine().nt().power().tell_of_shutdown(device, true);
        call.machine().verifier().track(&call, SHUTDOWN, device, "", 0);
        NtStatus::SUCCESS
    }

    /// <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-iounregistershutdownnotification>
    fn IoUnregisterShutdownNotification(call, device: usize),
    irql PASSIVE..=PASSIVE;
    {
        call.machine().verifier().untrack(&call, SHUTDOWN, device);
        call.machine().nt().power().forget_shutdown(device);
    }
}
