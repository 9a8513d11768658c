//! Processes that begin and end, and who is told.

use std::sync::Mutex;

use wfp_schema::NtStatus;

use super::{kernel, out, rules};
use crate::access::Out;
use crate::cpu::Cpu;
use crate::nt::mutex::in_critical_region;
use crate::nt::object::ObfDereferenceObject;
use crate::nt::pool_api::ExFreePool;
use crate::nt::process::{
    PsGetCurrentProcessId, PsGetProcessId, PsLookupProcessByProcessId, SYSTEM_PROCESS,
};
use crate::nt::process_notify::{
    CreateNotifyInfo, PsSetCreateProcessNotifyRoutine, PsSetCreateProcessNotifyRoutineEx,
    PsSetCreateProcessNotifyRoutineEx2, SeLocateProcessImageName,
};
use crate::nt::rtl_string::UnicodeString;
use crate::{Kernel, NewProcess, PoolMode, Schedule};

const BROWSER: &str = r"C:\Program Files\Browser\browser.exe";
const SUCCESS: NtStatus = NtStatus::SUCCESS;

fn text(address: usize) -> String {
    // SAFETY: a string that the kernel shows to its callee.
    let string: Out<UnicodeString> = unsafe { Out::new(address as *mut _) };
    string.get().map(UnicodeString::text).unwrap_or_default()
}

/// What the routines of the test that runs on this kernel's processor 0 were told.
#[derive(Default)]
struct Told(Vec<String>);

fn tell(words: String) {
    let cpu = Cpu::current().unwrap();
    cpu.locals().with(|told: &mut Told| told.0.push(words));
}

fn take(kernel: &Kernel) -> Vec<String> {
    let told = |cpu: &Cpu| {
        cpu.locals()
            .with(|told: &mut Told| std::mem::take(&mut told.0))
    };
    kernel.on(0, told).unwrap()
}

extern "win64" fn plain(parent: usize, id: usize, begins: u8) {
    tell(format!("{id} of {parent}: {begins}"));
}

extern "win64" fn extended(process: usize, id: usize, info: Out<CreateNotifyInfo>) {
    assert_eq!(PsGetProcessId(process), id);
    let cpu = Cpu::current().unwrap();
    assert!(cpu.irql() == 0 && in_critical_region(cpu));
    let here = PsGetCurrentProcessId();
    tell(info.get().map_or_else(
        || format!("{id} ends in {here}"),
        |info| {
            let (image, line) = (text(info.image_file_name), info.command_line);
            let line = if line == 0 { String::new() } else { text(line) };
            let [creator, _] = info.creating_thread_id;
            assert_eq!(creator, here);
            format!(
                "{id} of {} by {creator}: {image} {line}",
                info.parent_process_id
            )
        },
    ));
}

extern "win64" fn refuse(_: usize, _: usize, info: Out<CreateNotifyInfo>) {
    if let Some(mut told) = info.get() {
        told.creation_status = NtStatus::ACCESS_DENIED;
        info.set(told);
    }
}

#[test]
fn drivers_are_told_of_a_process_in_its_creator_and_of_its_end_in_itself() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel
        .on(0, |_| {
            assert_eq!(PsSetCreateProcessNotifyRoutine(Some(plain), 0), SUCCESS);
            assert_eq!(
                PsSetCreateProcessNotifyRoutineEx(Some(extended), 0),
                SUCCESS
            );
        })
        .unwrap();
    let shell = NewProcess::new(SYSTEM_PROCESS, r"C:\Windows\explorer.exe");
    let shell = kernel.create_process(&shell).unwrap().unwrap();
    let browser = NewProcess {
        creator: SYSTEM_PROCESS,
        command_line: Some("browser --quiet"),
        id: Some(1000),
        ..NewProcess::new(shell, BROWSER)
    };
    assert_eq!(kernel.create_process(&browser).unwrap(), Ok(1000));
    assert!(kernel.exit_process(1000).unwrap());
    assert!(!kernel.exit_process(1000).unwrap(), "it is gone");
    assert!(!kernel.exit_process(SYSTEM_PROCESS).unwrap());
    assert_eq!(
        take(&kernel),
        [
            "8 of 4: 1",
            r"8 of 4 by 4: \??\C:\Windows\explorer.exe ",
            "1000 of 8: 1",
            r"1000 of 8 by 4: \??\C:\Program Files\Browser\browser.exe browser --quiet",
            "1000 of 0: 0",
            "1000 ends in 1000",
        ]
    );
    kernel
        .on(0, |_| {
            assert_eq!(PsSetCreateProcessNotifyRoutine(Some(plain), 1), SUCCESS);
            assert_eq!(
                PsSetCreateProcessNotifyRoutineEx(Some(extended), 1),
                SUCCESS
            );
        })
        .unwrap();
    assert!(kernel.exit_process(shell).unwrap());
    assert_eq!(take(&kernel), [""; 0], "nobody is registered");
    let report = kernel.verifier().report();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_routine_refuses_a_process_which_then_ends() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel
        .on(0, |_| {
            assert_eq!(PsSetCreateProcessNotifyRoutineEx(Some(refuse), 0), SUCCESS);
            assert_eq!(PsSetCreateProcessNotifyRoutine(Some(plain), 0), SUCCESS);
        })
        .unwrap();
    let refused = kernel.create_process(&NewProcess::new(4, BROWSER)).unwrap();
    assert_eq!(refused, Err(NtStatus::ACCESS_DENIED));
    assert_eq!(take(&kernel), ["8 of 4: 1", "8 of 0: 0"]);
    let leaks = kernel.verifier().leaks();
    let kinds: Vec<_> = leaks.iter().map(|leak| (leak.kind, leak.count)).collect();
    assert!(
        kinds.iter().map(|(_, count)| count).sum::<usize>() == 2
            && kinds
                .iter()
                .all(|(kind, _)| *kind == "process notify routine"),
        "{leaks:?}"
    );
}

#[test]
fn a_routine_is_registered_once_and_removed_once() {
    let kernel = kernel(PoolMode::Special, 1);
    kernel
        .on(0, |_| {
            let twice = [SUCCESS, NtStatus::INVALID_PARAMETER];
            let register = |_| PsSetCreateProcessNotifyRoutineEx2(0, Some(extended), 0);
            assert_eq!([0, 1].map(register), twice);
            assert_eq!(
                PsSetCreateProcessNotifyRoutineEx2(7, Some(extended), 0),
                NtStatus::INVALID_PARAMETER
            );
            let gone = [SUCCESS, NtStatus::PROCEDURE_NOT_FOUND];
            let remove = |_| PsSetCreateProcessNotifyRoutineEx(Some(extended), 1);
            assert_eq!([0, 1].map(remove), gone);
            assert_eq!(
                PsSetCreateProcessNotifyRoutine(None, 0),
                NtStatus::INVALID_PARAMETER
            );
        })
        .unwrap();
    assert_eq!(rules(&kernel), ["object-stale", "argument"]);
}

/// What a waiting routine does between being called and returning.
static SIDE_BY_SIDE: Mutex<()> = Mutex::new(());

extern "win64" fn slow(_: usize, id: usize, info: Out<CreateNotifyInfo>) {
    let begins = !info.is_null();
    tell(format!("{id} in {begins}"));
    for _ in 0..3 {
        PsGetCurrentProcessId();
    }
    tell(format!("{id} out {begins}"));
}

#[test]
fn removing_a_routine_waits_for_its_calls_under_every_schedule() {
    let _one = SIDE_BY_SIDE.lock().unwrap();
    let bound = crate::sched::Bound {
        departures: 2,
        schedules: 5_000,
    };
    let explored = crate::sched::explore(bound, |schedule: &Schedule| {
        let kernel = Kernel::new(&crate::Config {
            processors: 2,
            schedule: schedule.clone(),
            ..crate::Config::default()
        })
        .unwrap();
        kernel
            .on(0, |_| PsSetCreateProcessNotifyRoutineEx(Some(slow), 0))
            .unwrap();
        let create = || {
            kernel
                .create_process(&NewProcess::new(4, BROWSER))
                .unwrap()
                .unwrap();
        };
        let remove = || {
            kernel
                .on(1, |_| {
                    assert_eq!(PsSetCreateProcessNotifyRoutineEx(Some(slow), 1), SUCCESS);
                    let cpu = Cpu::current().unwrap();
                    let zero = cpu.machine().processor(0).unwrap();
                    zero.locals()
                        .with(|told: &mut Told| told.0.push("removed".into()));
                })
                .unwrap();
        };
        kernel.together(vec![Box::new(create), Box::new(remove)]);
        let told = take(&kernel);
        let removed = told.iter().position(|told| told == "removed").unwrap();
        let inside = told[..removed].len() % 2 == 1 || told.len() > removed + 1;
        if inside || !kernel.verifier().report().is_clean() {
            return Err(format!("{told:?} {:?}", kernel.verifier().report()));
        }
        Ok(())
    });
    let explored = explored.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(explored.complete && explored.schedules > 10, "{explored:?}");
}

#[test]
fn a_process_is_found_by_its_id_while_it_runs_and_named_by_its_object() {
    let kernel = kernel(PoolMode::Special, 1);
    let id = kernel
        .create_process(&NewProcess::new(4, BROWSER))
        .unwrap()
        .unwrap();
    let object = kernel
        .on(0, |_| {
            let mut object = 0;
            assert_eq!(PsLookupProcessByProcessId(id as usize, out(&mut object)), 0);
            let mut name = 0;
            assert_eq!(SeLocateProcessImageName(object, out(&mut name)), SUCCESS);
            assert_eq!(
                text(name),
                r"\Device\HarddiskVolume3\Program Files\Browser\browser.exe"
            );
            ExFreePool(name);
            object
        })
        .unwrap();
    kernel.exit_process(id).unwrap();
    let again = NewProcess {
        id: Some(id),
        ..NewProcess::new(4, r"C:\other.exe")
    };
    kernel
        .on(0, |_| {
            let mut none = 0;
            let lost = PsLookupProcessByProcessId(id as usize, out(&mut none));
            assert_eq!(lost, NtStatus::INVALID_PARAMETER.code());
            assert_eq!(PsGetProcessId(object), id as usize, "the object lives on");
        })
        .unwrap();
    assert_eq!(kernel.create_process(&again).unwrap(), Ok(id));
    kernel
        .on(0, |_| {
            let mut other = 0;
            PsLookupProcessByProcessId(id as usize, out(&mut other));
            assert_ne!(other, object);
            ObfDereferenceObject(other);
            ObfDereferenceObject(object);
            let mut name = 0;
            assert_eq!(
                SeLocateProcessImageName(0x1234, out(&mut name)),
                NtStatus::NOT_FOUND
            );
        })
        .unwrap();
    let report = kernel.verifier().report();
    assert!(report.is_clean(), "{report:?}");
}
