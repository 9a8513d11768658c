/*
 * A callout driver for KMDF 1.15: a program decides about connections to one remote port, which wait for it.
 *
 * Each BUG_… makes one mistake, which the verifier has to find.
 */
#define INITGUID
#include "../common/objects.h"
#include "../common/control.h"

#define WARDEN_CODE(Function, Access) CTL_CODE(FILE_DEVICE_NETWORK, 0x840 + (Function), METHOD_BUFFERED, Access)
#define IOCTL_WARDEN_SET_PORT WARDEN_CODE(0, FILE_WRITE_ACCESS)
#define IOCTL_WARDEN_ASK WARDEN_CODE(1, FILE_READ_ACCESS)
#define IOCTL_WARDEN_ANSWER WARDEN_CODE(2, FILE_WRITE_ACCESS)

#define WARDEN_TAG 'draW'

typedef struct _QUESTION {
    UINT32 Id;
    UINT16 LocalPort;
    UINT16 RemotePort;
} QUESTION;

typedef struct _ANSWER {
    UINT32 Id;
    UINT32 Permit;
} ANSWER;

typedef enum _STAGE { Waiting, Asked, Answered, Completed } STAGE;

/* A connection that waits, or was decided and is about to be authorized again. */
typedef struct _PENDED {
    LIST_ENTRY Link;
    HANDLE Completion;
    QUESTION Question;
    UINT16 LayerId;
    STAGE Stage;
    BOOLEAN Permit;
} PENDED;

DEFINE_GUID(WARDEN_PROVIDER, 0x6a1f2c21, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x03);
DEFINE_GUID(WARDEN_SUBLAYER, 0x6a1f2c22, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x03);
DEFINE_GUID(WARDEN_CALLOUT_V4, 0x6a1f2c23, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x03);
DEFINE_GUID(WARDEN_CALLOUT_V6, 0x6a1f2c24, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x03);

static const LAYER_OBJECTS Layers[2] = {
    {&FWPM_LAYER_ALE_AUTH_CONNECT_V4, &WARDEN_CALLOUT_V4, FWP_ACTION_CALLOUT_TERMINATING},
    {&FWPM_LAYER_ALE_AUTH_CONNECT_V6, &WARDEN_CALLOUT_V6, FWP_ACTION_CALLOUT_TERMINATING},
};

static const PRODUCT Product = {&WARDEN_PROVIDER, &WARDEN_SUBLAYER, 0x5000, L"Warden", Layers, 2};

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\Warden");
static const UNICODE_STRING LinkName = RTL_CONSTANT_STRING(L"\\DosDevices\\Warden");

static struct {
    WDFDEVICE Device;
    /* Requests of programs that wait for a question. */
    WDFQUEUE Questions;
    WDFWORKITEM WorkItem;
    HANDLE Engine;
    UINT32 CalloutIds[2];
    volatile LONG Port;
    volatile LONG LastId;
    volatile LONG Stopping;
    /* How often the work item has been begun since it was last done. */
    volatile LONG Wanted;
    KSPIN_LOCK Lock;
    /* Under the lock. */
    LIST_ENTRY Pended;
} Warden;

DRIVER_INITIALIZE DriverEntry;
static EVT_WDF_DRIVER_UNLOAD Unload;
static EVT_WDF_IO_QUEUE_IO_DEVICE_CONTROL Control;
static EVT_WDF_WORKITEM Work;

/* The first connection in this stage; it goes to the next stage. */
static PENDED *Advance(STAGE From, STAGE To)
{
    PENDED *found = NULL;
    LIST_ENTRY *entry;
    KIRQL irql;

    KeAcquireSpinLock(&Warden.Lock, &irql);
    for (entry = Warden.Pended.Flink; entry != &Warden.Pended && found == NULL; entry = entry->Flink) {
        PENDED *pended = CONTAINING_RECORD(entry, PENDED, Link);
        if (pended->Stage == From) {
            pended->Stage = To;
            found = pended;
        }
    }
    KeReleaseSpinLock(&Warden.Lock, irql);
    return found;
}

/* Nobody could be asked: unless it was decided meanwhile, the connection waits again. */
static VOID StepBack(PENDED *Pended)
{
    KIRQL irql;

    KeAcquireSpinLock(&Warden.Lock, &irql);
    if (Pended->Stage == Asked) {
        Pended->Stage = Waiting;
    }
    KeReleaseSpinLock(&Warden.Lock, irql);
}

static VOID AskPrograms(VOID)
{
    PENDED *pended;

    while ((pended = Advance(Waiting, Asked)) != NULL) {
        WDFREQUEST request;
        QUESTION *question;
        if (!NT_SUCCESS(WdfIoQueueRetrieveNextRequest(Warden.Questions, &request))) {
            StepBack(pended);
            break;
        }
        if (!NT_SUCCESS(WdfRequestRetrieveOutputBuffer(request, sizeof(QUESTION), (PVOID *)&question, NULL))) {
            StepBack(pended);
            WdfRequestComplete(request, STATUS_BUFFER_TOO_SMALL);
            continue;
        }
        *question = pended->Question;
        WdfRequestCompleteWithInformation(request, STATUS_SUCCESS, sizeof(QUESTION));
    }
}

static VOID CompleteDecided(VOID)
{
    PENDED *pended;

    while ((pended = Advance(Answered, Completed)) != NULL) {
        HANDLE completion = pended->Completion;
#ifndef BUG_NEVER_COMPLETE
        /* The connection is authorized again, perhaps before this returns, and forgotten there. */
        FwpsCompleteOperation0(completion, NULL);
#endif
#ifdef BUG_COMPLETE_TWICE
        FwpsCompleteOperation0(completion, NULL);
#endif
    }
}

/* Questions go out to programs, and decided connections back to the stack. */
static VOID NTAPI Work(WDFWORKITEM WorkItem)
{
    LONG wanted = InterlockedIncrement(&Warden.Wanted);

    UNREFERENCED_PARAMETER(WorkItem);
    /* It may run on several processors at once, when it is enqueued while it runs. One of them does it all, and looks
       again if another one came meanwhile. */
    if (wanted != 1) {
        return;
    }
    do {
        wanted = Warden.Wanted;
        AskPrograms();
        CompleteDecided();
    } while (InterlockedCompareExchange(&Warden.Wanted, 0, wanted) != wanted);
}

/* What was decided about the connection that is authorized again; it is forgotten. */
static PENDED *TakeDecided(UINT16 LayerId, UINT16 LocalPort, UINT16 RemotePort)
{
    PENDED *found = NULL;
    LIST_ENTRY *entry;
    KIRQL irql;

    KeAcquireSpinLock(&Warden.Lock, &irql);
    for (entry = Warden.Pended.Flink; entry != &Warden.Pended && found == NULL; entry = entry->Flink) {
        PENDED *pended = CONTAINING_RECORD(entry, PENDED, Link);
        if (pended->Stage == Completed && pended->LayerId == LayerId && pended->Question.LocalPort == LocalPort &&
            pended->Question.RemotePort == RemotePort) {
            found = pended;
        }
    }
    if (found != NULL) {
        RemoveEntryList(&found->Link);
    }
    KeReleaseSpinLock(&Warden.Lock, irql);
    return found;
}

static VOID Block(FWPS_CLASSIFY_OUT0 *Out)
{
    Out->actionType = FWP_ACTION_BLOCK;
    Out->rights &= ~FWPS_RIGHT_ACTION_WRITE;
}

static VOID Pend(
    const FWPS_INCOMING_METADATA_VALUES0 *MetaValues, UINT16 LayerId, UINT16 LocalPort, UINT16 RemotePort,
    FWPS_CLASSIFY_OUT0 *Out)
{
    PENDED *pended;
    KIRQL irql;

    Block(Out);
#ifndef BUG_PEND_AGAIN
    if ((MetaValues->currentMetadataValues & FWPS_METADATA_FIELD_COMPLETION_HANDLE) == 0) {
        return;
    }
#endif
    pended = ExAllocatePoolWithTag(NonPagedPoolNx, sizeof(PENDED), WARDEN_TAG);
    if (pended == NULL) {
        return;
    }
    RtlZeroMemory(pended, sizeof(*pended));
    pended->Question.Id = (UINT32)InterlockedIncrement(&Warden.LastId);
    pended->Question.LocalPort = LocalPort;
    pended->Question.RemotePort = RemotePort;
    pended->LayerId = LayerId;
    if (!NT_SUCCESS(FwpsPendOperation0(MetaValues->completionHandle, &pended->Completion))) {
        ExFreePoolWithTag(pended, WARDEN_TAG);
        return;
    }
#ifndef BUG_NO_ABSORB
    Out->flags |= FWPS_CLASSIFY_OUT_FLAG_ABSORB;
#endif
    KeAcquireSpinLock(&Warden.Lock, &irql);
    InsertTailList(&Warden.Pended, &pended->Link);
    KeReleaseSpinLock(&Warden.Lock, irql);
    WdfWorkItemEnqueue(Warden.WorkItem);
}

static VOID NTAPI Classify(
    const FWPS_INCOMING_VALUES0 *inFixedValues, const FWPS_INCOMING_METADATA_VALUES0 *inMetaValues,
    void *layerData, const void *classifyContext, const FWPS_FILTER2 *filter, UINT64 flowContext,
    FWPS_CLASSIFY_OUT0 *classifyOut)
{
    const BOOLEAN v4 = inFixedValues->layerId == FWPS_LAYER_ALE_AUTH_CONNECT_V4;
    const FWPS_INCOMING_VALUE0 *values = inFixedValues->incomingValue;
    const UINT16 local = values[v4 ? FWPS_FIELD_ALE_AUTH_CONNECT_V4_IP_LOCAL_PORT
                                   : FWPS_FIELD_ALE_AUTH_CONNECT_V6_IP_LOCAL_PORT].value.uint16;
    const UINT16 remote = values[v4 ? FWPS_FIELD_ALE_AUTH_CONNECT_V4_IP_REMOTE_PORT
                                    : FWPS_FIELD_ALE_AUTH_CONNECT_V6_IP_REMOTE_PORT].value.uint16;
    const UINT32 flags = values[v4 ? FWPS_FIELD_ALE_AUTH_CONNECT_V4_FLAGS
                                   : FWPS_FIELD_ALE_AUTH_CONNECT_V6_FLAGS].value.uint32;
    PENDED *decided;

    if ((classifyOut->rights & FWPS_RIGHT_ACTION_WRITE) == 0) {
        return;
    }
    classifyOut->actionType = FWP_ACTION_PERMIT;
    if (flags & FWP_CONDITION_FLAG_IS_REAUTHORIZE) {
        decided = TakeDecided(inFixedValues->layerId, local, remote);
        if (decided != NULL) {
            if (!decided->Permit) {
                Block(classifyOut);
            }
            ExFreePoolWithTag(decided, WARDEN_TAG);
        }
#ifdef BUG_PEND_AGAIN
        else {
            Pend(inMetaValues, inFixedValues->layerId, local, remote, classifyOut);
        }
#endif
        return;
    }
    if (remote != 0 && remote == Warden.Port && Warden.Stopping == 0) {
        Pend(inMetaValues, inFixedValues->layerId, local, remote, classifyOut);
    }
}

static NTSTATUS NTAPI Notify(FWPS_CALLOUT_NOTIFY_TYPE notifyType, const GUID *filterKey, FWPS_FILTER2 *filter)
{
    UNREFERENCED_PARAMETER(notifyType);
    UNREFERENCED_PARAMETER(filterKey);
    UNREFERENCED_PARAMETER(filter);
    return STATUS_SUCCESS;
}

/* Decides about the connection with this id, or about all that wait (0). */
static NTSTATUS Decide(UINT32 Id, BOOLEAN Permit)
{
    NTSTATUS status = Id == 0 ? STATUS_SUCCESS : STATUS_NOT_FOUND;
    LIST_ENTRY *entry;
    KIRQL irql;

    KeAcquireSpinLock(&Warden.Lock, &irql);
    for (entry = Warden.Pended.Flink; entry != &Warden.Pended; entry = entry->Flink) {
        PENDED *pended = CONTAINING_RECORD(entry, PENDED, Link);
        if ((Id == 0 || pended->Question.Id == Id) && pended->Stage < Answered) {
            pended->Permit = Permit;
            pended->Stage = Answered;
            status = STATUS_SUCCESS;
        }
    }
    KeReleaseSpinLock(&Warden.Lock, irql);
    WdfWorkItemEnqueue(Warden.WorkItem);
    return status;
}

static VOID NTAPI Control(
    WDFQUEUE Queue, WDFREQUEST Request, size_t OutputBufferLength, size_t InputBufferLength, ULONG IoControlCode)
{
    NTSTATUS status = STATUS_INVALID_DEVICE_REQUEST;
    ANSWER *answer;
    LONG *port;

    UNREFERENCED_PARAMETER(Queue);
    UNREFERENCED_PARAMETER(OutputBufferLength);
    UNREFERENCED_PARAMETER(InputBufferLength);
    switch (IoControlCode) {
    case IOCTL_WARDEN_SET_PORT:
        status = WdfRequestRetrieveInputBuffer(Request, sizeof(*port), (PVOID *)&port, NULL);
        if (NT_SUCCESS(status)) {
            InterlockedExchange(&Warden.Port, *port);
        }
        break;
    case IOCTL_WARDEN_ASK:
        status = WdfRequestForwardToIoQueue(Request, Warden.Questions);
        if (NT_SUCCESS(status)) {
            WdfWorkItemEnqueue(Warden.WorkItem);
            return;
        }
        break;
    case IOCTL_WARDEN_ANSWER:
        status = WdfRequestRetrieveInputBuffer(Request, sizeof(*answer), (PVOID *)&answer, NULL);
        if (NT_SUCCESS(status)) {
            status = Decide(answer->Id, answer->Permit != 0);
        }
        break;
    }
    WdfRequestComplete(Request, status);
}

/* Start and stop. */

/* What waits is refused. */
static VOID RefuseAll(VOID)
{
    if (Warden.WorkItem != NULL) {
        Decide(0, FALSE);
        WdfWorkItemFlush(Warden.WorkItem);
    }
}

static VOID TearDown(VOID)
{
    ULONG i;

    InterlockedExchange(&Warden.Stopping, 1);
    RefuseAll();
    if (Warden.Engine != NULL) {
        FwpmEngineClose0(Warden.Engine);
        Warden.Engine = NULL;
    }
    for (i = 0; i < ARRAYSIZE(Warden.CalloutIds); i++) {
        while (Warden.CalloutIds[i] != 0) {
            if (FwpsCalloutUnregisterById0(Warden.CalloutIds[i]) != STATUS_DEVICE_BUSY) {
                Warden.CalloutIds[i] = 0;
            }
        }
    }
    /* A classify that was under way when the stop began may have pended one more. */
    RefuseAll();
    /* Connections that were not authorized again before the filters went. */
    while (!IsListEmpty(&Warden.Pended)) {
        ExFreePoolWithTag(CONTAINING_RECORD(RemoveHeadList(&Warden.Pended), PENDED, Link), WARDEN_TAG);
    }
}

static VOID NTAPI Unload(WDFDRIVER Driver)
{
    UNREFERENCED_PARAMETER(Driver);
    TearDown();
}

static NTSTATUS Start(VOID)
{
    WDF_IO_QUEUE_CONFIG queue;
    WDF_WORKITEM_CONFIG item;
    WDF_OBJECT_ATTRIBUTES attributes;
    NTSTATUS status;
    ULONG i;

    WDF_IO_QUEUE_CONFIG_INIT(&queue, WdfIoQueueDispatchManual);
    status = WdfIoQueueCreate(Warden.Device, &queue, WDF_NO_OBJECT_ATTRIBUTES, &Warden.Questions);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    WDF_WORKITEM_CONFIG_INIT(&item, Work);
    item.AutomaticSerialization = FALSE;
    WDF_OBJECT_ATTRIBUTES_INIT(&attributes);
    attributes.ParentObject = Warden.Device;
    status = WdfWorkItemCreate(&item, &attributes, &Warden.WorkItem);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    for (i = 0; i < ARRAYSIZE(Warden.CalloutIds); i++) {
        FWPS_CALLOUT2 callout = {0};
        callout.calloutKey = *Layers[i].Callout;
        callout.classifyFn = Classify;
        callout.notifyFn = Notify;
        status = FwpsCalloutRegister2(WdfDeviceWdmGetDeviceObject(Warden.Device), &callout, &Warden.CalloutIds[i]);
        if (!NT_SUCCESS(status)) {
            return status;
        }
    }
    return OpenProduct(&Product, &Warden.Engine);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    WDFDRIVER driver;
    NTSTATUS status;

    KeInitializeSpinLock(&Warden.Lock);
    InitializeListHead(&Warden.Pended);
    status = MakeDriver(DriverObject, RegistryPath, Unload, WARDEN_TAG, &driver);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = MakeControlDevice(driver, &DeviceName, &LinkName, Control, &Warden.Device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = Start();
    if (!NT_SUCCESS(status)) {
        TearDown();
        return status;
    }
    WdfControlFinishInitializing(Warden.Device);
    return STATUS_SUCCESS;
}
