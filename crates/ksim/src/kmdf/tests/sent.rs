//! Requests that a driver makes and sends: answered at once, later, cancelled, too late.

use wfp_schema::NtStatus;

use super::driver::{
    DEVICE, ECHO, HOLD, HOLD_CANCELABLE, Machine, Setup, Text, at, globals, log, out, read, with,
    write,
};
use crate::access::In;
use crate::kmdf::memory::WdfMemoryCreate;
use crate::kmdf::object_api::WdfObjectDelete;
use crate::kmdf::request_api::{WdfRequestComplete, WdfRequestGetStatus};
use crate::kmdf::sent::{
    CompletionParameters, ReuseParameters, WdfIoTargetFormatRequestForIoctl,
    WdfRequestCancelSentRequest, WdfRequestCreate, WdfRequestGetCompletionParams, WdfRequestReuse,
    WdfRequestSend, WdfRequestSetCompletionRoutine,
};
use crate::kmdf::target::{
    OpenParameters, SendOptions, WdfIoTargetClose, WdfIoTargetCreate, WdfIoTargetOpen,
};

const SUCCESS: NtStatus = NtStatus::SUCCESS;

/// A target that is the test's own device, which is open.
fn target() -> usize {
    let (device, mut target) = (with(|state| state.device), 0);
    let status = WdfIoTargetCreate(globals(), device, In::null(), out(&mut target));
    assert_eq!(status, SUCCESS);
    let name = Text::new(DEVICE);
    let parameters = OpenParameters::new(2, name.unicode());
    assert_eq!(WdfIoTargetOpen(globals(), target, at(&parameters)), SUCCESS);
    target
}

/// A memory object, and where its eight bytes are.
fn memory() -> (usize, usize) {
    let (mut memory, mut address) = (0, 0);
    let status = WdfMemoryCreate(
        globals(),
        In::null(),
        0x200,
        0,
        8,
        out(&mut memory),
        out(&mut address),
    );
    assert_eq!(status, SUCCESS);
    (memory, address)
}

/// A request of the driver's own for this code, with input and output in one memory object.
fn made(target: usize, code: u32, memory: usize) -> usize {
    let mut request = 0;
    let status = WdfRequestCreate(globals(), In::null(), target, out(&mut request));
    assert_eq!(status, SUCCESS);
    format(target, request, code, memory);
    request
}

fn format(target: usize, request: usize, code: u32, memory: usize) {
    let formatted = WdfIoTargetFormatRequestForIoctl(
        globals(),
        target,
        request,
        code,
        memory,
        In::null(),
        memory,
        In::null(),
    );
    assert_eq!(formatted, SUCCESS);
    WdfRequestSetCompletionRoutine(globals(), request, Some(told), 0x77);
}

extern "win64" fn told(
    request: usize,
    target: usize,
    parameters: In<CompletionParameters>,
    context: usize,
) {
    let told = parameters.get().unwrap();
    assert_ne!((request, target), (0, 0));
    assert_eq!((told.size, told.kind, context), (72, 0xe, 0x77));
    log(format!(
        "{} with {}",
        NtStatus::from_u32(u32::try_from(told.status).unwrap()),
        told.information
    ));
}

fn send(request: usize, target: usize) -> u8 {
    WdfRequestSend(globals(), request, target, In::null())
}

#[test]
fn a_request_of_the_drivers_own_is_answered_and_used_again() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let (target, (memory, address)) = (target(), memory());
        let request = made(target, ECHO, memory);
        write(address, b"abcdefgh");
        assert_eq!(send(request, target), 1);
        assert_eq!(read(address, 8), b"hgfedcba");
        assert_eq!(WdfRequestGetStatus(globals(), request), SUCCESS);
        let mut known = CompletionParameters::default();
        WdfRequestGetCompletionParams(globals(), request, out(&mut known));
        assert_eq!(known.words[0], u64::from(ECHO));
        assert_eq!(known.words[3], memory as u64);

        let again = ReuseParameters {
            size: 24,
            flags: 0,
            status: 0,
            new_irp: 0,
        };
        assert_eq!(WdfRequestReuse(globals(), request, at(&again)), SUCCESS);
        assert_eq!(send(request, target), 0, "it has to be formatted again");
        assert_eq!(
            WdfRequestGetStatus(globals(), request),
            NtStatus::INVALID_DEVICE_REQUEST
        );
        format(target, request, ECHO, memory);
        assert_eq!(send(request, target), 1);
        WdfObjectDelete(globals(), request);
        WdfObjectDelete(globals(), target);
        WdfObjectDelete(globals(), memory);
    });
    let log = machine.take_log();
    let told = log.iter().filter(|line| line.ends_with("with 8"));
    assert_eq!(told.count(), 2, "{log:?}");
    assert_eq!(
        machine.broken_rules(),
        ["argument"],
        "the one that was not formatted"
    );
}

#[test]
fn a_request_that_is_held_comes_back_when_the_other_side_completes_it() {
    let machine = Machine::new(&Setup::default());
    let (target, memory) = machine.run(|| (target(), memory().0));
    let request = machine.run(|| {
        let request = made(target, HOLD, memory);
        assert_eq!(send(request, target), 1);
        assert_eq!(WdfRequestGetStatus(globals(), request), NtStatus::PENDING);
        request
    });
    assert_eq!(machine.held().len(), 1);
    machine.complete_oldest(NtStatus::ACCESS_DENIED);
    let log = machine.take_log();
    assert!(log.iter().any(|line| line.contains("with 0")), "{log:?}");
    machine.run(|| {
        assert_eq!(
            WdfRequestGetStatus(globals(), request),
            NtStatus::ACCESS_DENIED
        );
        for object in [request, target, memory] {
            WdfObjectDelete(globals(), object);
        }
    });
    machine.take_log();
    machine.end_clean();
}

#[test]
fn a_sent_request_is_cancelled_by_its_sender_its_time_out_and_its_targets_end() {
    type End = fn(usize, usize);
    let ends: [(End, &str); 2] = [
        (
            |request, _| assert_eq!(WdfRequestCancelSentRequest(globals(), request), 1),
            "its sender",
        ),
        (
            |_, target| WdfIoTargetClose(globals(), target),
            "its target",
        ),
    ];
    for (end, who) in ends {
        let machine = Machine::new(&Setup::default());
        machine.run(|| {
            let (target, memory) = (target(), memory().0);
            let request = made(target, HOLD_CANCELABLE, memory);
            assert_eq!(send(request, target), 1);
            end(request, target);
            assert_eq!(
                WdfRequestGetStatus(globals(), request),
                NtStatus::CANCELLED,
                "{who}"
            );
            for object in [request, target, memory] {
                WdfObjectDelete(globals(), object);
            }
        });
        machine.take_log();
        machine.end_clean();
    }
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let (target, memory) = (target(), memory().0);
        let request = made(target, HOLD_CANCELABLE, memory);
        // Synchronous, and a millisecond at most.
        let options = SendOptions::new(0x3, -10_000);
        assert_eq!(WdfRequestSend(globals(), request, target, at(&options)), 1);
        assert_eq!(WdfRequestGetStatus(globals(), request), NtStatus::CANCELLED);
        for object in [request, target, memory] {
            WdfObjectDelete(globals(), object);
        }
    });
    machine.take_log();
    machine.end_clean();
}

#[test]
fn a_request_is_sent_once_at_a_time() {
    let machine = Machine::new(&Setup::default());
    let bugcheck = machine
        .try_run(|| {
            let (target, memory) = (target(), memory().0);
            let request = made(target, HOLD, memory);
            send(request, target);
            send(request, target);
        })
        .unwrap_err();
    assert_eq!((bugcheck.code, bugcheck.parameters[0]), (0x10d, 6));
    assert_eq!(machine.broken_rules(), ["request-ownership"]);
}

#[test]
fn a_request_of_the_drivers_own_is_not_completed_by_it() {
    let machine = Machine::new(&Setup::default());
    let bugcheck = machine
        .try_run(|| {
            let mut request = 0;
            WdfRequestCreate(globals(), In::null(), 0, out(&mut request));
            WdfRequestComplete(globals(), request, SUCCESS);
        })
        .unwrap_err();
    assert_eq!(bugcheck.code, 0x10d);
    assert_eq!(machine.broken_rules(), ["request-completion"]);
}

#[test]
fn a_sent_request_that_is_deleted_is_named_and_comes_back_to_nobody() {
    let machine = Machine::new(&Setup::default());
    machine.run(|| {
        let (target, memory) = (target(), memory().0);
        let request = made(target, HOLD, memory);
        send(request, target);
        WdfObjectDelete(globals(), request);
    });
    assert_eq!(machine.broken_rules(), ["request-left"]);
    machine.complete_oldest(SUCCESS);
}
