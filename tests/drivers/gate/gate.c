/*
 * A callout driver without a framework: connections to one remote port are blocked, and programs hear of it.
 *
 * The device's requests come in every transfer method. Those that wait do so in two ways: blocked connections are
 * waited for in a cancel-safe queue, a change of the port with a cancel routine of the driver's own.
 *
 * Each BUG_… makes one mistake, which the verifier has to find.
 */
#define INITGUID
#include "../common/objects.h"

#define GATE_CODE(Function, Method, Access) CTL_CODE(FILE_DEVICE_NETWORK, 0x800 + (Function), Method, Access)
#define IOCTL_GATE_SET_PORT GATE_CODE(0, METHOD_BUFFERED, FILE_WRITE_ACCESS)
#define IOCTL_GATE_COUNTERS GATE_CODE(1, METHOD_BUFFERED, FILE_READ_ACCESS)
#define IOCTL_GATE_NEXT_BLOCKED GATE_CODE(2, METHOD_OUT_DIRECT, FILE_READ_ACCESS)
#define IOCTL_GATE_SUM GATE_CODE(3, METHOD_IN_DIRECT, FILE_WRITE_ACCESS)
#define IOCTL_GATE_RESET GATE_CODE(4, METHOD_NEITHER, FILE_WRITE_ACCESS)
#define IOCTL_GATE_PORT_CHANGE GATE_CODE(5, METHOD_BUFFERED, FILE_READ_ACCESS)

#define GATE_TAG 'etaG'
#define MOST_RECORDS 64

typedef struct _COUNTERS {
    LONG Permitted;
    LONG Blocked;
    LONG AtDispatch;
    LONG Sum;
    LONG ShutDown;
} COUNTERS;

typedef struct _BLOCKED {
    UINT16 LayerId;
    UINT16 LocalPort;
    UINT16 RemotePort;
    UINT16 Reserved;
} BLOCKED;

/* A blocked connection that no program has heard of. */
typedef struct _RECORD {
    LIST_ENTRY Link;
    BLOCKED Blocked;
} RECORD;

typedef struct _EXTENSION {
    IO_REMOVE_LOCK RemoveLock;
    KSPIN_LOCK Lock;
    /* Under the lock: requests for blocked connections, records, and the request for a change. */
    LIST_ENTRY Waiting;
    LIST_ENTRY Records;
    ULONG RecordCount;
    PIRP PortChange;
    IO_CSQ Queue;
    PIO_WORKITEM WorkItem;
    volatile LONG WorkQueued;
    volatile LONG Port;
    COUNTERS Counters;
    HANDLE Engine;
    UINT32 CalloutIds[2];
} EXTENSION;

DEFINE_GUID(GATE_PROVIDER, 0x6a1f2c01, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x01);
DEFINE_GUID(GATE_SUBLAYER, 0x6a1f2c02, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x01);
DEFINE_GUID(GATE_CALLOUT_V4, 0x6a1f2c03, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x01);
DEFINE_GUID(GATE_CALLOUT_V6, 0x6a1f2c04, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x01);

static const LAYER_OBJECTS Layers[2] = {
    {&FWPM_LAYER_ALE_AUTH_CONNECT_V4, &GATE_CALLOUT_V4, FWP_ACTION_CALLOUT_TERMINATING},
    {&FWPM_LAYER_ALE_AUTH_CONNECT_V6, &GATE_CALLOUT_V6, FWP_ACTION_CALLOUT_TERMINATING},
};

static const PRODUCT Product = {&GATE_PROVIDER, &GATE_SUBLAYER, 0x4000, L"Gate", Layers, 2};

static UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\Gate");
static UNICODE_STRING LinkName = RTL_CONSTANT_STRING(L"\\DosDevices\\Gate");

/* Classify functions get no pointer of ours: there is one device. */
static PDEVICE_OBJECT Device;

DRIVER_INITIALIZE DriverEntry;
static DRIVER_UNLOAD Unload;
static DRIVER_CANCEL CancelPortChange;
static IO_WORKITEM_ROUTINE Tell;

static NTSTATUS Complete(PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
#ifdef BUG_TOUCH_COMPLETED
    return Irp->IoStatus.Status;
#else
    return Status;
#endif
}

/* Ends a request that held the remove lock. */
static NTSTATUS Finish(EXTENSION *Extension, PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Complete(Irp, Status, Information);
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
    return Status;
}

/* The cancel-safe queue. */

static EXTENSION *OfQueue(PIO_CSQ Queue)
{
    return CONTAINING_RECORD(Queue, EXTENSION, Queue);
}

static VOID NTAPI QueueInsert(PIO_CSQ Queue, PIRP Irp)
{
    InsertTailList(&OfQueue(Queue)->Waiting, &Irp->Tail.Overlay.ListEntry);
}

static VOID NTAPI QueueRemove(PIO_CSQ Queue, PIRP Irp)
{
    UNREFERENCED_PARAMETER(Queue);
    RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
}

/* PeekContext: the file object whose requests are looked for, or NULL for any. */
static PIRP NTAPI QueuePeek(PIO_CSQ Queue, PIRP Irp, PVOID PeekContext)
{
    LIST_ENTRY *head = &OfQueue(Queue)->Waiting;
    LIST_ENTRY *entry = Irp == NULL ? head->Flink : Irp->Tail.Overlay.ListEntry.Flink;

    for (; entry != head; entry = entry->Flink) {
        PIRP next = CONTAINING_RECORD(entry, IRP, Tail.Overlay.ListEntry);
        if (PeekContext == NULL || IoGetCurrentIrpStackLocation(next)->FileObject == PeekContext) {
            return next;
        }
    }
    return NULL;
}

static VOID NTAPI QueueAcquire(PIO_CSQ Queue, PKIRQL Irql)
{
    KeAcquireSpinLock(&OfQueue(Queue)->Lock, Irql);
}

static VOID NTAPI QueueRelease(PIO_CSQ Queue, KIRQL Irql)
{
    KeReleaseSpinLock(&OfQueue(Queue)->Lock, Irql);
}

static VOID NTAPI QueueCancelled(PIO_CSQ Queue, PIRP Irp)
{
    Finish(OfQueue(Queue), Irp, STATUS_CANCELLED, 0);
}

/* Blocked connections and who waits for them. */

static RECORD *TakeRecord(EXTENSION *Extension)
{
    RECORD *record = NULL;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->Lock, &irql);
    if (!IsListEmpty(&Extension->Records)) {
        record = CONTAINING_RECORD(RemoveHeadList(&Extension->Records), RECORD, Link);
        Extension->RecordCount--;
    }
    KeReleaseSpinLock(&Extension->Lock, irql);
    return record;
}

static BOOLEAN HasRecord(EXTENSION *Extension)
{
    BOOLEAN has;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->Lock, &irql);
    has = !IsListEmpty(&Extension->Records);
    KeReleaseSpinLock(&Extension->Lock, irql);
    return has;
}

static VOID FreeRecord(RECORD *Record)
{
    ExFreePoolWithTag(Record, GATE_TAG);
#ifdef BUG_FREE_TWICE
    ExFreePoolWithTag(Record, GATE_TAG);
#endif
}

/* Gives a record to a request. The request's buffer was checked when it came. */
static VOID Answer(EXTENSION *Extension, PIRP Irp, RECORD *Record)
{
    BLOCKED *buffer = MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority);

    if (buffer == NULL) {
        Finish(Extension, Irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    } else {
        *buffer = Record->Blocked;
        Finish(Extension, Irp, STATUS_SUCCESS, sizeof(*buffer));
    }
    FreeRecord(Record);
}

/* A work item: requests get what there is for them. */
static VOID NTAPI Tell(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    EXTENSION *extension = DeviceObject->DeviceExtension;

    UNREFERENCED_PARAMETER(Context);
    InterlockedExchange(&extension->WorkQueued, 0);
    while (HasRecord(extension)) {
        PIRP irp = IoCsqRemoveNextIrp(&extension->Queue, NULL);
        RECORD *record;
        if (irp == NULL) {
            break;
        }
        record = TakeRecord(extension);
        if (record == NULL) {
            /* Another processor was faster. */
            IoCsqInsertIrp(&extension->Queue, irp, NULL);
            break;
        }
        Answer(extension, irp, record);
    }
    IoReleaseRemoveLock(&extension->RemoveLock, extension->WorkItem);
}

static VOID QueueTell(EXTENSION *Extension)
{
    if (InterlockedExchange(&Extension->WorkQueued, 1) != 0) {
        return;
    }
    if (!NT_SUCCESS(IoAcquireRemoveLock(&Extension->RemoveLock, Extension->WorkItem))) {
        InterlockedExchange(&Extension->WorkQueued, 0);
        return;
    }
    IoQueueWorkItem(Extension->WorkItem, Tell, DelayedWorkQueue, NULL);
}

/* What does not fit or finds no memory is counted and not told. */
static VOID Remember(EXTENSION *Extension, const BLOCKED *Blocked)
{
    RECORD *record = ExAllocatePoolWithTag(NonPagedPoolNx, sizeof(RECORD), GATE_TAG);
    BOOLEAN kept = FALSE;
    KIRQL irql;

    if (record == NULL) {
        return;
    }
    record->Blocked = *Blocked;
    KeAcquireSpinLock(&Extension->Lock, &irql);
    if (Extension->RecordCount < MOST_RECORDS) {
        InsertTailList(&Extension->Records, &record->Link);
        Extension->RecordCount++;
        kept = TRUE;
    }
    KeReleaseSpinLock(&Extension->Lock, irql);
    if (kept) {
        QueueTell(Extension);
    } else {
        ExFreePoolWithTag(record, GATE_TAG);
    }
}

/* The callouts. */

static VOID NTAPI Classify(
    const FWPS_INCOMING_VALUES0 *inFixedValues, const FWPS_INCOMING_METADATA_VALUES0 *inMetaValues,
    void *layerData, const FWPS_FILTER0 *filter, UINT64 flowContext, FWPS_CLASSIFY_OUT0 *classifyOut)
{
    EXTENSION *extension = Device->DeviceExtension;
    const BOOLEAN v4 = inFixedValues->layerId == FWPS_LAYER_ALE_AUTH_CONNECT_V4;
    const ULONG local = v4 ? FWPS_FIELD_ALE_AUTH_CONNECT_V4_IP_LOCAL_PORT : FWPS_FIELD_ALE_AUTH_CONNECT_V6_IP_LOCAL_PORT;
    const ULONG remote = v4 ? FWPS_FIELD_ALE_AUTH_CONNECT_V4_IP_REMOTE_PORT : FWPS_FIELD_ALE_AUTH_CONNECT_V6_IP_REMOTE_PORT;
    const UINT16 port = inFixedValues->incomingValue[remote].value.uint16;
    BLOCKED blocked = {0};

    UNREFERENCED_PARAMETER(inMetaValues);
    UNREFERENCED_PARAMETER(layerData);
    UNREFERENCED_PARAMETER(flowContext);

    /* Read as KeGetCurrentIrql does where it is compiled in. */
    if (ReadCR8() == DISPATCH_LEVEL) {
        InterlockedIncrement(&extension->Counters.AtDispatch);
    }
#ifdef BUG_RIGHTS
    classifyOut->rights |= FWPS_RIGHT_ACTION_WRITE;
#endif
    if ((classifyOut->rights & FWPS_RIGHT_ACTION_WRITE) == 0) {
        return;
    }
    /* 0 is no port: there is none to block. */
    if (extension->Port == 0 || port != extension->Port) {
        InterlockedIncrement(&extension->Counters.Permitted);
        classifyOut->actionType = FWP_ACTION_PERMIT;
        if (filter->flags & FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT) {
            classifyOut->rights &= ~FWPS_RIGHT_ACTION_WRITE;
        }
        return;
    }

    InterlockedIncrement(&extension->Counters.Blocked);
    classifyOut->actionType = FWP_ACTION_BLOCK;
#ifndef BUG_BLOCK_KEEPS_RIGHT
    classifyOut->rights &= ~FWPS_RIGHT_ACTION_WRITE;
#endif
    blocked.LayerId = inFixedValues->layerId;
    blocked.LocalPort = inFixedValues->incomingValue[local].value.uint16;
    blocked.RemotePort = port;
    Remember(extension, &blocked);
}

static NTSTATUS NTAPI Notify(
    FWPS_CALLOUT_NOTIFY_TYPE notifyType, const GUID *filterKey, FWPS_FILTER0 *filter)
{
    UNREFERENCED_PARAMETER(notifyType);
    UNREFERENCED_PARAMETER(filterKey);
    UNREFERENCED_PARAMETER(filter);
    return STATUS_SUCCESS;
}

static VOID UnregisterCallouts(EXTENSION *Extension)
{
#ifndef BUG_LEAK_CALLOUT
    ULONG i;

    for (i = 0; i < ARRAYSIZE(Extension->CalloutIds); i++) {
        /* No flow has a context of ours, so that it is never busy for long. */
        while (Extension->CalloutIds[i] != 0) {
            if (FwpsCalloutUnregisterById0(Extension->CalloutIds[i]) != STATUS_DEVICE_BUSY) {
                Extension->CalloutIds[i] = 0;
            }
        }
    }
#else
    UNREFERENCED_PARAMETER(Extension);
#endif
}

static NTSTATUS RegisterCallouts(EXTENSION *Extension)
{
    NTSTATUS status = STATUS_SUCCESS;
    ULONG i;

    for (i = 0; NT_SUCCESS(status) && i < ARRAYSIZE(Extension->CalloutIds); i++) {
        FWPS_CALLOUT0 callout = {0};
        callout.calloutKey = *Layers[i].Callout;
        callout.classifyFn = Classify;
        callout.notifyFn = Notify;
        status = FwpsCalloutRegister0(Device, &callout, &Extension->CalloutIds[i]);
    }
    if (!NT_SUCCESS(status)) {
        UnregisterCallouts(Extension);
    }
    return status;
}

/* A request for a change of the port. */

static VOID NTAPI CancelPortChange(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    EXTENSION *extension = DeviceObject->DeviceExtension;
    KIRQL irql;

#ifndef BUG_CANCEL_LOCK
    IoReleaseCancelSpinLock(Irp->CancelIrql);
#endif
    KeAcquireSpinLock(&extension->Lock, &irql);
    if (extension->PortChange == Irp) {
        extension->PortChange = NULL;
    }
    KeReleaseSpinLock(&extension->Lock, irql);
    Finish(extension, Irp, STATUS_CANCELLED, 0);
}

/* The request, if there is one, it is of this file (NULL for any), and nobody is cancelling it. */
static PIRP TakePortChange(EXTENSION *Extension, PFILE_OBJECT File)
{
    PIRP irp;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->Lock, &irql);
    irp = Extension->PortChange;
    if (irp != NULL && File != NULL && IoGetCurrentIrpStackLocation(irp)->FileObject != File) {
        irp = NULL;
    }
#ifdef BUG_CANCEL_LEFT
    if (irp != NULL) {
#else
    if (irp != NULL && IoSetCancelRoutine(irp, NULL) == NULL) {
        irp = NULL;
    }
    if (irp != NULL) {
#endif
        Extension->PortChange = NULL;
    }
    KeReleaseSpinLock(&Extension->Lock, irql);
    return irp;
}

static NTSTATUS AwaitPortChange(EXTENSION *Extension, PIRP Irp)
{
    BOOLEAN cancelled = FALSE;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->Lock, &irql);
    if (Extension->PortChange != NULL) {
        KeReleaseSpinLock(&Extension->Lock, irql);
        return Finish(Extension, Irp, STATUS_DEVICE_BUSY, 0);
    }
#ifndef BUG_PENDING_UNMARKED
    IoMarkIrpPending(Irp);
#endif
    Extension->PortChange = Irp;
    IoSetCancelRoutine(Irp, CancelPortChange);
    if (Irp->Cancel && IoSetCancelRoutine(Irp, NULL) != NULL) {
        Extension->PortChange = NULL;
        cancelled = TRUE;
    }
    KeReleaseSpinLock(&Extension->Lock, irql);
    if (cancelled) {
        Finish(Extension, Irp, STATUS_CANCELLED, 0);
    }
    return STATUS_PENDING;
}

/* Requests. */

static NTSTATUS SetPort(EXTENSION *Extension, PIRP Irp, ULONG InputLength)
{
    PIRP waiting;

    if (InputLength != sizeof(ULONG)) {
        return Finish(Extension, Irp, STATUS_INVALID_PARAMETER, 0);
    }
    InterlockedExchange(&Extension->Port, *(LONG *)Irp->AssociatedIrp.SystemBuffer);
    waiting = TakePortChange(Extension, NULL);
    if (waiting != NULL) {
        *(LONG *)waiting->AssociatedIrp.SystemBuffer = Extension->Port;
        Finish(Extension, waiting, STATUS_SUCCESS, sizeof(LONG));
    }
#ifdef BUG_COMPLETE_TWICE
    Finish(Extension, Irp, STATUS_SUCCESS, 0);
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return STATUS_SUCCESS;
#elif defined(BUG_LOST_REQUEST)
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
    return STATUS_SUCCESS;
#else
    return Finish(Extension, Irp, STATUS_SUCCESS, 0);
#endif
}

static NTSTATUS Sum(EXTENSION *Extension, PIRP Irp)
{
    const UCHAR *bytes = NULL;
    ULONG length = 0, i;
    LONG sum = 0;

    if (Irp->MdlAddress != NULL) {
        bytes = MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority);
        length = MmGetMdlByteCount(Irp->MdlAddress);
        if (bytes == NULL) {
            return Finish(Extension, Irp, STATUS_INSUFFICIENT_RESOURCES, 0);
        }
    }
    for (i = 0; i < length; i++) {
        sum += bytes[i];
    }
    InterlockedExchange(&Extension->Counters.Sum, sum);
    return Finish(Extension, Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI DispatchControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    EXTENSION *extension = DeviceObject->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    const ULONG input = stack->Parameters.DeviceIoControl.InputBufferLength;
    const ULONG output = stack->Parameters.DeviceIoControl.OutputBufferLength;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        return Complete(Irp, status, 0);
    }
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_GATE_SET_PORT:
        return SetPort(extension, Irp, input);
    case IOCTL_GATE_COUNTERS:
        if (output < sizeof(COUNTERS)) {
            return Finish(extension, Irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        RtlCopyMemory(Irp->AssociatedIrp.SystemBuffer, &extension->Counters, sizeof(COUNTERS));
        return Finish(extension, Irp, STATUS_SUCCESS, sizeof(COUNTERS));
    case IOCTL_GATE_NEXT_BLOCKED:
        if (output < sizeof(BLOCKED)) {
            return Finish(extension, Irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        IoCsqInsertIrp(&extension->Queue, Irp, NULL);
        QueueTell(extension);
        return STATUS_PENDING;
    case IOCTL_GATE_SUM:
        return Sum(extension, Irp);
    case IOCTL_GATE_RESET:
        RtlZeroMemory(&extension->Counters, sizeof(COUNTERS));
        return Finish(extension, Irp, STATUS_SUCCESS, 0);
    case IOCTL_GATE_PORT_CHANGE:
        if (output < sizeof(LONG)) {
            return Finish(extension, Irp, STATUS_BUFFER_TOO_SMALL, 0);
        }
        return AwaitPortChange(extension, Irp);
    default:
        return Finish(extension, Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
}

static NTSTATUS NTAPI DispatchOpenClose(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    return Complete(Irp, STATUS_SUCCESS, 0);
}

/* A handle is closed: what was asked through it ends. */
static NTSTATUS NTAPI DispatchCleanup(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    EXTENSION *extension = DeviceObject->DeviceExtension;
    PFILE_OBJECT file = IoGetCurrentIrpStackLocation(Irp)->FileObject;
    PIRP waiting;

    while ((waiting = IoCsqRemoveNextIrp(&extension->Queue, file)) != NULL) {
        Finish(extension, waiting, STATUS_CANCELLED, 0);
    }
    waiting = TakePortChange(extension, file);
    if (waiting != NULL) {
        Finish(extension, waiting, STATUS_CANCELLED, 0);
    }
    return Complete(Irp, STATUS_SUCCESS, 0);
}

/* Reads the port as decimal digits. */
static NTSTATUS NTAPI DispatchRead(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    EXTENSION *extension = DeviceObject->DeviceExtension;
    const ULONG room = IoGetCurrentIrpStackLocation(Irp)->Parameters.Read.Length;
    CHAR digits[8];
    ULONG port = (ULONG)extension->Port, length = 0, i;

    do {
        digits[length++] = (CHAR)('0' + port % 10);
        port /= 10;
    } while (port != 0 && length < sizeof(digits));
    if (room < length) {
        return Complete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    for (i = 0; i < length; i++) {
        ((PCHAR)Irp->AssociatedIrp.SystemBuffer)[i] = digits[length - 1 - i];
    }
    return Complete(Irp, STATUS_SUCCESS, length);
}

static NTSTATUS NTAPI DispatchShutdown(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    EXTENSION *extension = DeviceObject->DeviceExtension;

    InterlockedIncrement(&extension->Counters.ShutDown);
    return Complete(Irp, STATUS_SUCCESS, 0);
}

/* Start and stop. Every step of the start is undone here, whether or not it was made. */

static VOID TearDown(EXTENSION *Extension)
{
    RECORD *record;

    if (Extension->Engine != NULL) {
        FwpmEngineClose0(Extension->Engine);
        Extension->Engine = NULL;
    }
    UnregisterCallouts(Extension);
    if (NT_SUCCESS(IoAcquireRemoveLock(&Extension->RemoveLock, Device))) {
        IoReleaseRemoveLockAndWait(&Extension->RemoveLock, Device);
    }
    while ((record = TakeRecord(Extension)) != NULL) {
        FreeRecord(record);
    }
    if (Extension->WorkItem != NULL) {
        IoFreeWorkItem(Extension->WorkItem);
    }
#ifndef BUG_LEAK_DEVICE
    IoDeleteDevice(Device);
#endif
}

static VOID NTAPI Unload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
    IoUnregisterShutdownNotification(Device);
    IoDeleteSymbolicLink(&LinkName);
    TearDown(Device->DeviceExtension);
}

static NTSTATUS Start(EXTENSION *Extension)
{
    NTSTATUS status;

    IoInitializeRemoveLock(&Extension->RemoveLock, GATE_TAG, 0, 0);
    KeInitializeSpinLock(&Extension->Lock);
    InitializeListHead(&Extension->Waiting);
    InitializeListHead(&Extension->Records);
    status = IoCsqInitialize(&Extension->Queue, QueueInsert, QueueRemove, QueuePeek, QueueAcquire,
                             QueueRelease, QueueCancelled);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    Extension->WorkItem = IoAllocateWorkItem(Device);
    if (Extension->WorkItem == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    status = RegisterCallouts(Extension);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = OpenProduct(&Product, &Extension->Engine);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoCreateSymbolicLink(&LinkName, &DeviceName);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoRegisterShutdownNotification(Device);
    if (!NT_SUCCESS(status)) {
        IoDeleteSymbolicLink(&LinkName);
    }
    return status;
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    NTSTATUS status;

    UNREFERENCED_PARAMETER(RegistryPath);
    DriverObject->DriverUnload = Unload;
    DriverObject->MajorFunction[IRP_MJ_CREATE] = DispatchOpenClose;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = DispatchOpenClose;
    DriverObject->MajorFunction[IRP_MJ_CLEANUP] = DispatchCleanup;
    DriverObject->MajorFunction[IRP_MJ_READ] = DispatchRead;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = DispatchControl;
    DriverObject->MajorFunction[IRP_MJ_SHUTDOWN] = DispatchShutdown;

    status = IoCreateDevice(DriverObject, sizeof(EXTENSION), &DeviceName, FILE_DEVICE_NETWORK,
                            FILE_DEVICE_SECURE_OPEN, FALSE, &Device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    Device->Flags |= DO_BUFFERED_IO;
    status = Start(Device->DeviceExtension);
    if (!NT_SUCCESS(status)) {
        TearDown(Device->DeviceExtension);
    }
    return status;
}
