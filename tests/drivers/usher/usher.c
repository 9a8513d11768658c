/*
 * A callout driver without a framework: connections to one port go to a proxy instead, and a thread of the driver's
 * own counts them.
 *
 * The thread lives from the start to the unload, which waits for its end. Each BUG_… makes one mistake, which the
 * verifier has to find.
 */
#define INITGUID
#include "../common/objects.h"

#define USHER_TAG 'rehU'
#define REDIRECTED_PORT 7000
#define PROXY_PORT 8080
/* 203.0.113.5. */
#define PROXY_ADDRESS 0xCB007105

#define IOCTL_USHER_COUNT CTL_CODE(FILE_DEVICE_NETWORK, 0x860, METHOD_BUFFERED, FILE_READ_ACCESS)

DEFINE_GUID(USHER_PROVIDER, 0x6a1f2c31, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x04);
DEFINE_GUID(USHER_SUBLAYER, 0x6a1f2c32, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x04);
DEFINE_GUID(USHER_CALLOUT_V4, 0x6a1f2c33, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x04);

static const LAYER_OBJECTS Layers[1] = {
    {&FWPM_LAYER_ALE_CONNECT_REDIRECT_V4, &USHER_CALLOUT_V4, FWP_ACTION_CALLOUT_TERMINATING},
};

static const PRODUCT Product = {&USHER_PROVIDER, &USHER_SUBLAYER, 0x6000, L"Usher", Layers, 1};

static UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\Usher");
static UNICODE_STRING LinkName = RTL_CONSTANT_STRING(L"\\DosDevices\\Usher");

/* A redirected connection that the thread has not counted. */
typedef struct _NOTE {
    LIST_ENTRY Link;
} NOTE;

static struct {
    PDEVICE_OBJECT Device;
    HANDLE Engine;
    HANDLE Redirect;
    UINT32 CalloutId;
    PETHREAD Thread;
    KEVENT Work;
    KEVENT Gone;
    volatile LONG Stopping;
    volatile LONG Count;
    KSPIN_LOCK Lock;
    /* Under the lock. */
    LIST_ENTRY Notes;
} Usher;

DRIVER_INITIALIZE DriverEntry;
static DRIVER_UNLOAD Unload;
static KSTART_ROUTINE Serve;

/* The thread. */

static NOTE *TakeNote(VOID)
{
    NOTE *note = NULL;
    KIRQL irql;

    KeAcquireSpinLock(&Usher.Lock, &irql);
    if (!IsListEmpty(&Usher.Notes)) {
        note = CONTAINING_RECORD(RemoveHeadList(&Usher.Notes), NOTE, Link);
    }
    KeReleaseSpinLock(&Usher.Lock, irql);
    return note;
}

static VOID NTAPI Serve(PVOID Context)
{
    NOTE *note;

    UNREFERENCED_PARAMETER(Context);
    do {
        KeWaitForSingleObject(&Usher.Work, Executive, KernelMode, FALSE, NULL);
        while ((note = TakeNote()) != NULL) {
            InterlockedIncrement(&Usher.Count);
            ExFreePoolWithTag(note, USHER_TAG);
        }
    } while (Usher.Stopping == 0);
#ifdef BUG_THREAD_EARLY
    /* Who waits for this may be gone before the thread is. */
    KeSetEvent(&Usher.Gone, IO_NO_INCREMENT, FALSE);
    {
        LARGE_INTEGER moment = {.QuadPart = -10 * 1000 * 1000};
        KeDelayExecutionThread(KernelMode, FALSE, &moment);
    }
#endif
    PsTerminateSystemThread(STATUS_SUCCESS);
}

static NTSTATUS StartThread(VOID)
{
    HANDLE handle;
    NTSTATUS status = PsCreateSystemThread(&handle, THREAD_ALL_ACCESS, NULL, NULL, NULL, Serve, NULL);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    /* Without a reference nobody could wait for its end: then it ends at once. */
    status = ObReferenceObjectByHandle(handle, THREAD_ALL_ACCESS, NULL, KernelMode, (PVOID *)&Usher.Thread, NULL);
    if (!NT_SUCCESS(status)) {
        InterlockedExchange(&Usher.Stopping, 1);
        KeSetEvent(&Usher.Work, IO_NO_INCREMENT, FALSE);
        ZwWaitForSingleObject(handle, FALSE, NULL);
    }
    ZwClose(handle);
    return status;
}

static VOID StopThread(VOID)
{
    if (Usher.Thread == NULL) {
        return;
    }
#ifndef BUG_THREAD_LEFT
    InterlockedExchange(&Usher.Stopping, 1);
    KeSetEvent(&Usher.Work, IO_NO_INCREMENT, FALSE);
#ifdef BUG_THREAD_EARLY
    KeWaitForSingleObject(&Usher.Gone, Executive, KernelMode, FALSE, NULL);
#else
    KeWaitForSingleObject(Usher.Thread, Executive, KernelMode, FALSE, NULL);
#endif
#endif
    ObDereferenceObject(Usher.Thread);
    Usher.Thread = NULL;
}

/* The callout. */

static VOID Note(VOID)
{
    NOTE *note = ExAllocatePoolWithTag(NonPagedPoolNx, sizeof(NOTE), USHER_TAG);
    KIRQL irql;

    if (note == NULL) {
        return;
    }
    KeAcquireSpinLock(&Usher.Lock, &irql);
    InsertTailList(&Usher.Notes, &note->Link);
    KeReleaseSpinLock(&Usher.Lock, irql);
    KeSetEvent(&Usher.Work, IO_NO_INCREMENT, FALSE);
}

/* Sends the connection to the proxy, unless that has been done. */
static BOOLEAN Redirect(UINT64 Handle, UINT64 FilterId, FWPS_CLASSIFY_OUT0 *Out)
{
    FWPS_CONNECT_REQUEST0 *request;
    struct sockaddr_in *remote;

    if (!NT_SUCCESS(FwpsAcquireWritableLayerDataPointer0(Handle, FilterId, 0, (PVOID *)&request, Out))) {
        return FALSE;
    }
    remote = (struct sockaddr_in *)&request->remoteAddressAndPort;
    remote->sin_addr.S_un.S_addr = RtlUlongByteSwap(PROXY_ADDRESS);
    remote->sin_port = RtlUshortByteSwap(PROXY_PORT);
    request->localRedirectHandle = Usher.Redirect;
#ifndef BUG_NEVER_APPLY
    FwpsApplyModifiedLayerData0(Handle, request, 0);
#endif
    return TRUE;
}

#if defined(BUG_DEEP_STACK) || defined(BUG_DEEP_UNLOAD)
#ifdef BUG_DEEP_UNLOAD
#define ROOM (13 * 1024)
#else
#define ROOM (10 * 1024)
#endif
__attribute__((noinline)) static VOID Deep(VOID)
{
    volatile UCHAR room[ROOM];
    const ULONG_PTR at = (ULONG_PTR)PsGetCurrentProcessId() % sizeof(room);

    room[at] = 1;
    room[at ^ room[at]] = (UCHAR)(ULONG_PTR)PsGetCurrentProcessId();
}
#endif

static VOID NTAPI Classify(
    const FWPS_INCOMING_VALUES0 *inFixedValues, const FWPS_INCOMING_METADATA_VALUES0 *inMetaValues,
    void *layerData, const void *classifyContext, const FWPS_FILTER1 *filter, UINT64 flowContext,
    FWPS_CLASSIFY_OUT0 *classifyOut)
{
    const FWPS_CONNECT_REQUEST0 *request = layerData;
    const UINT16 port =
        inFixedValues->incomingValue[FWPS_FIELD_ALE_CONNECT_REDIRECT_V4_IP_REMOTE_PORT].value.uint16;
    UINT64 handle;

    UNREFERENCED_PARAMETER(inMetaValues);
    UNREFERENCED_PARAMETER(flowContext);
#ifdef BUG_DEEP_STACK
    Deep();
#endif
    if ((classifyOut->rights & FWPS_RIGHT_ACTION_WRITE) == 0) {
        return;
    }
    classifyOut->actionType = FWP_ACTION_PERMIT;
    if (port != REDIRECTED_PORT || request == NULL || request->previousVersion != NULL) {
        return;
    }
    if (!NT_SUCCESS(FwpsAcquireClassifyHandle0((void *)classifyContext, 0, &handle))) {
        return;
    }
    if (Redirect(handle, filter->filterId, classifyOut)) {
        classifyOut->actionType = FWP_ACTION_PERMIT;
        Note();
    }
#ifndef BUG_KEEP_HANDLE
    FwpsReleaseClassifyHandle0(handle);
#endif
}

static NTSTATUS NTAPI Notify(FWPS_CALLOUT_NOTIFY_TYPE notifyType, const GUID *filterKey, FWPS_FILTER1 *filter)
{
    UNREFERENCED_PARAMETER(notifyType);
    UNREFERENCED_PARAMETER(filterKey);
    UNREFERENCED_PARAMETER(filter);
    return STATUS_SUCCESS;
}

/* Requests. */

static NTSTATUS Complete(PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return Status;
}

static NTSTATUS NTAPI DispatchOpenClose(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    return Complete(Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS NTAPI DispatchControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);

    UNREFERENCED_PARAMETER(DeviceObject);
    if (stack->Parameters.DeviceIoControl.IoControlCode != IOCTL_USHER_COUNT) {
        return Complete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    if (stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(LONG)) {
        return Complete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    *(LONG *)Irp->AssociatedIrp.SystemBuffer = Usher.Count;
    return Complete(Irp, STATUS_SUCCESS, sizeof(LONG));
}

/* Start and stop. Every step of the start is undone here, whether or not it was made. */

static VOID TearDown(VOID)
{
    NOTE *note;

    if (Usher.Engine != NULL) {
        FwpmEngineClose0(Usher.Engine);
        Usher.Engine = NULL;
    }
    while (Usher.CalloutId != 0) {
        if (FwpsCalloutUnregisterById0(Usher.CalloutId) != STATUS_DEVICE_BUSY) {
            Usher.CalloutId = 0;
        }
    }
    StopThread();
    while ((note = TakeNote()) != NULL) {
        ExFreePoolWithTag(note, USHER_TAG);
    }
    if (Usher.Redirect != NULL) {
        FwpsRedirectHandleDestroy0(Usher.Redirect);
    }
    IoDeleteDevice(Usher.Device);
}

static VOID NTAPI Unload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
#ifdef BUG_DEEP_UNLOAD
    Deep();
#endif
    IoDeleteSymbolicLink(&LinkName);
    TearDown();
}

static NTSTATUS Start(VOID)
{
    FWPS_CALLOUT1 callout = {0};
    NTSTATUS status;

    status = FwpsRedirectHandleCreate0(&USHER_PROVIDER, 0, &Usher.Redirect);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = StartThread();
    if (!NT_SUCCESS(status)) {
        return status;
    }
    callout.calloutKey = USHER_CALLOUT_V4;
    callout.classifyFn = Classify;
    callout.notifyFn = Notify;
    status = FwpsCalloutRegister1(Usher.Device, &callout, &Usher.CalloutId);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = OpenProduct(&Product, &Usher.Engine);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    return IoCreateSymbolicLink(&LinkName, &DeviceName);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    NTSTATUS status;

    UNREFERENCED_PARAMETER(RegistryPath);
    DriverObject->DriverUnload = Unload;
    DriverObject->MajorFunction[IRP_MJ_CREATE] = DispatchOpenClose;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = DispatchOpenClose;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = DispatchControl;

    KeInitializeSpinLock(&Usher.Lock);
    InitializeListHead(&Usher.Notes);
    KeInitializeEvent(&Usher.Work, SynchronizationEvent, FALSE);
    KeInitializeEvent(&Usher.Gone, NotificationEvent, FALSE);
    status = IoCreateDevice(DriverObject, 0, &DeviceName, FILE_DEVICE_NETWORK, FILE_DEVICE_SECURE_OPEN, FALSE,
                            &Usher.Device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    Usher.Device->Flags |= DO_BUFFERED_IO;
    status = Start();
    if (!NT_SUCCESS(status)) {
        TearDown();
    }
    return status;
}
