/*
 * A callout driver for KMDF 1.9: a word is masked in the streams of every connection, and packets are replaced by
 * clones of themselves.
 *
 * Every connection has a context, from its establishment to its end. Each BUG_… makes one mistake, which the verifier
 * has to find.
 */
#define INITGUID
#include "../common/objects.h"
#include "../common/control.h"

#define EDITOR_CODE(Function, Access) CTL_CODE(FILE_DEVICE_NETWORK, 0x820 + (Function), METHOD_BUFFERED, Access)
#define IOCTL_EDITOR_SET_WORD EDITOR_CODE(0, FILE_WRITE_ACCESS)
#define IOCTL_EDITOR_SET_CLONING EDITOR_CODE(1, FILE_WRITE_ACCESS)
#define IOCTL_EDITOR_COUNTERS EDITOR_CODE(2, FILE_READ_ACCESS)

#define EDITOR_TAG 'tidE'
#define LONGEST_WORD 32

typedef struct _COUNTERS {
    LONG Flows;
    LONG Masked;
    LONG Deferred;
    LONG Cloned;
} COUNTERS;

/* A connection. */
typedef struct _FLOW {
    LIST_ENTRY Link;
    UINT64 Id;
    UINT16 LayerId;
    UINT32 CalloutId;
    BOOLEAN Removing;
} FLOW;

/* Data that was injected, until the stack is done with it. */
typedef struct _INJECTED {
    PMDL Mdl;
    UCHAR Data[ANYSIZE_ARRAY];
} INJECTED;

#ifdef BUG_SECOND
/* Runs beside the one without a mistake, under names of its own, and never frees its clones. */
#define BUG_LEAK_CLONE
#define EDITOR_KEY(Name, First) \
    DEFINE_GUID(Name, First + 0x100, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x02)
#define EDITOR_DEVICE L"SecondEditor"
#define EDITOR_WEIGHT 0x2000
#else
#define EDITOR_KEY(Name, First) \
    DEFINE_GUID(Name, First, 0x51d8, 0x4f3e, 0x9b, 0x0c, 0x4d, 0x6e, 0x2a, 0x77, 0x10, 0x02)
#define EDITOR_DEVICE L"Editor"
#define EDITOR_WEIGHT 0x3000
#endif

EDITOR_KEY(EDITOR_PROVIDER, 0x6a1f2c11);
EDITOR_KEY(EDITOR_SUBLAYER, 0x6a1f2c12);
EDITOR_KEY(EDITOR_STREAM_V4, 0x6a1f2c13);
EDITOR_KEY(EDITOR_STREAM_V6, 0x6a1f2c14);
EDITOR_KEY(EDITOR_FLOW_V4, 0x6a1f2c15);
EDITOR_KEY(EDITOR_FLOW_V6, 0x6a1f2c16);
EDITOR_KEY(EDITOR_PACKET_V4, 0x6a1f2c17);

enum { StreamV4, StreamV6, FlowV4, FlowV6, PacketV4, CalloutCount };

static const LAYER_OBJECTS Layers[CalloutCount] = {
    {&FWPM_LAYER_STREAM_V4, &EDITOR_STREAM_V4, FWP_ACTION_CALLOUT_TERMINATING},
    {&FWPM_LAYER_STREAM_V6, &EDITOR_STREAM_V6, FWP_ACTION_CALLOUT_TERMINATING},
    {&FWPM_LAYER_ALE_FLOW_ESTABLISHED_V4, &EDITOR_FLOW_V4, FWP_ACTION_CALLOUT_INSPECTION},
    {&FWPM_LAYER_ALE_FLOW_ESTABLISHED_V6, &EDITOR_FLOW_V6, FWP_ACTION_CALLOUT_INSPECTION},
    {&FWPM_LAYER_OUTBOUND_IPPACKET_V4, &EDITOR_PACKET_V4, FWP_ACTION_CALLOUT_TERMINATING},
};

static const PRODUCT Product = {&EDITOR_PROVIDER, &EDITOR_SUBLAYER, EDITOR_WEIGHT, L"Editor", Layers, CalloutCount};

static const UNICODE_STRING DeviceName = RTL_CONSTANT_STRING(L"\\Device\\" EDITOR_DEVICE);
static const UNICODE_STRING LinkName = RTL_CONSTANT_STRING(L"\\DosDevices\\" EDITOR_DEVICE);

static struct {
    WDFDEVICE Device;
    HANDLE Engine;
    NDIS_HANDLE Pool;
    HANDLE StreamInjection;
    HANDLE PacketInjection;
    UINT32 CalloutIds[CalloutCount];
    KSPIN_LOCK Lock;
    /* Under the lock. */
    LIST_ENTRY Flows;
    UCHAR Word[LONGEST_WORD];
    ULONG WordLength;
    volatile LONG Cloning;
    COUNTERS Counters;
} Editor;

DRIVER_INITIALIZE DriverEntry;
static EVT_WDF_DRIVER_UNLOAD Unload;
static EVT_WDF_IO_QUEUE_IO_DEVICE_CONTROL Control;

/* Connections. */

static VOID NTAPI FlowEstablished(
    const FWPS_INCOMING_VALUES0 *inFixedValues, const FWPS_INCOMING_METADATA_VALUES0 *inMetaValues,
    void *layerData, const void *classifyContext, const FWPS_FILTER1 *filter, UINT64 flowContext,
    FWPS_CLASSIFY_OUT0 *classifyOut)
{
    const BOOLEAN v4 = inFixedValues->layerId == FWPS_LAYER_ALE_FLOW_ESTABLISHED_V4;
    const ULONG protocol = v4 ? FWPS_FIELD_ALE_FLOW_ESTABLISHED_V4_IP_PROTOCOL : FWPS_FIELD_ALE_FLOW_ESTABLISHED_V6_IP_PROTOCOL;
    FLOW *flow;
    KIRQL irql;

    classifyOut->actionType = FWP_ACTION_CONTINUE;
    if (inFixedValues->incomingValue[protocol].value.uint8 != IPPROTO_TCP) {
        return;
    }
    flow = ExAllocatePoolWithTag(NonPagedPoolNx, sizeof(FLOW), EDITOR_TAG);
    if (flow == NULL) {
        return;
    }
    flow->Id = inMetaValues->flowHandle;
    flow->LayerId = v4 ? FWPS_LAYER_STREAM_V4 : FWPS_LAYER_STREAM_V6;
    flow->CalloutId = Editor.CalloutIds[v4 ? StreamV4 : StreamV6];
    flow->Removing = FALSE;

    /* Known before it is associated: it may end at once. */
    KeAcquireSpinLock(&Editor.Lock, &irql);
    InsertTailList(&Editor.Flows, &flow->Link);
    KeReleaseSpinLock(&Editor.Lock, irql);
    InterlockedIncrement(&Editor.Counters.Flows);
    if (FwpsFlowAssociateContext0(flow->Id, flow->LayerId, flow->CalloutId, (UINT64)flow) != STATUS_SUCCESS) {
        KeAcquireSpinLock(&Editor.Lock, &irql);
        RemoveEntryList(&flow->Link);
        KeReleaseSpinLock(&Editor.Lock, irql);
        InterlockedDecrement(&Editor.Counters.Flows);
        ExFreePoolWithTag(flow, EDITOR_TAG);
    }
}

static VOID NTAPI FlowDeleted(UINT16 layerId, UINT32 calloutId, UINT64 flowContext)
{
    FLOW *flow = (FLOW *)flowContext;
    KIRQL irql;

    UNREFERENCED_PARAMETER(layerId);
    UNREFERENCED_PARAMETER(calloutId);
    KeAcquireSpinLock(&Editor.Lock, &irql);
    RemoveEntryList(&flow->Link);
    KeReleaseSpinLock(&Editor.Lock, irql);
    InterlockedDecrement(&Editor.Counters.Flows);
#ifndef BUG_LEAK_FLOW
    ExFreePoolWithTag(flow, EDITOR_TAG);
#endif
}

/* Removes the contexts of the connections that live. Each is freed by FlowDeleted. */
static VOID RemoveContexts(VOID)
{
#ifndef BUG_KEEP_CONTEXTS
    for (;;) {
        LIST_ENTRY *entry;
        FLOW *found = NULL;
        UINT64 id = 0;
        UINT16 layerId = 0;
        UINT32 calloutId = 0;
        KIRQL irql;

        KeAcquireSpinLock(&Editor.Lock, &irql);
        for (entry = Editor.Flows.Flink; entry != &Editor.Flows && found == NULL; entry = entry->Flink) {
            FLOW *flow = CONTAINING_RECORD(entry, FLOW, Link);
            if (!flow->Removing) {
                flow->Removing = TRUE;
                found = flow;
                id = flow->Id;
                layerId = flow->LayerId;
                calloutId = flow->CalloutId;
            }
        }
        KeReleaseSpinLock(&Editor.Lock, irql);
        if (found == NULL) {
            return;
        }
        /* The connection may have ended meanwhile, which is as good. */
        FwpsFlowRemoveContext0(id, layerId, calloutId);
    }
#endif
}

/* Streams. */

static BOOLEAN Equal(const UCHAR *Left, const UCHAR *Right, SIZE_T Length)
{
    SIZE_T i;

    for (i = 0; i < Length; i++) {
        if (Left[i] != Right[i]) {
            return FALSE;
        }
    }
    return TRUE;
}

/* Masks every occurrence of the word; how many there were. */
static ULONG Mask(UCHAR *Data, SIZE_T Length, const UCHAR *Word, SIZE_T WordLength)
{
    ULONG count = 0;
    SIZE_T at;

    for (at = 0; WordLength != 0 && at + WordLength <= Length; at++) {
        if (Equal(Data + at, Word, WordLength)) {
            SIZE_T i;
            for (i = 0; i < WordLength; i++) {
                Data[at + i] = '*';
            }
            count++;
        }
    }
    return count;
}

/* The length of the longest end of the data with which the word may begin. */
static SIZE_T Begun(const UCHAR *Data, SIZE_T Length, const UCHAR *Word, SIZE_T WordLength)
{
    SIZE_T part = WordLength == 0 ? 0 : WordLength - 1;

    for (part = part < Length ? part : Length; part != 0; part--) {
        if (Equal(Data + Length - part, Word, part)) {
            return part;
        }
    }
    return 0;
}

static VOID FreeInjected(INJECTED *Injected)
{
    if (Injected->Mdl != NULL) {
        IoFreeMdl(Injected->Mdl);
    }
    ExFreePoolWithTag(Injected, EDITOR_TAG);
}

static VOID NTAPI StreamInjected(void *context, NET_BUFFER_LIST *netBufferList, BOOLEAN dispatchLevel)
{
    UNREFERENCED_PARAMETER(dispatchLevel);
    FwpsFreeNetBufferList0(netBufferList);
    FreeInjected(context);
}

/* Puts the data into the connection in the place of what is blocked. It is the stack's from then on. */
static NTSTATUS Inject(
    INJECTED *Injected, SIZE_T Length, UINT64 FlowId, UINT32 CalloutId, UINT16 LayerId, UINT32 Flags)
{
    NET_BUFFER_LIST *list;
    NTSTATUS status;

    Injected->Mdl = IoAllocateMdl(Injected->Data, (ULONG)Length, FALSE, FALSE, NULL);
    if (Injected->Mdl == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    MmBuildMdlForNonPagedPool(Injected->Mdl);
    status = FwpsAllocateNetBufferAndNetBufferList0(Editor.Pool, 0, 0, Injected->Mdl, 0, Length, &list);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = FwpsStreamInjectAsync0(Editor.StreamInjection, NULL, 0, FlowId, CalloutId, LayerId, Flags, list,
                                    Length, StreamInjected, Injected);
    if (!NT_SUCCESS(status)) {
        FwpsFreeNetBufferList0(list);
    }
    return status;
}

static VOID NTAPI Stream(
    const FWPS_INCOMING_VALUES0 *inFixedValues, const FWPS_INCOMING_METADATA_VALUES0 *inMetaValues,
    void *layerData, const void *classifyContext, const FWPS_FILTER1 *filter, UINT64 flowContext,
    FWPS_CLASSIFY_OUT0 *classifyOut)
{
    const UINT32 last = FWPS_STREAM_FLAG_RECEIVE_DISCONNECT | FWPS_STREAM_FLAG_RECEIVE_ABORT |
                        FWPS_STREAM_FLAG_SEND_DISCONNECT | FWPS_STREAM_FLAG_SEND_ABORT;
    const UINT32 noMore = FWPS_CLASSIFY_OUT_FLAG_BUFFER_LIMIT_REACHED | FWPS_CLASSIFY_OUT_FLAG_NO_MORE_DATA;
    const BOOLEAN v4 = inFixedValues->layerId == FWPS_LAYER_STREAM_V4;
    FWPS_STREAM_CALLOUT_IO_PACKET0 *packet = layerData;
    FWPS_STREAM_DATA0 *data = packet->streamData;
    UCHAR word[LONGEST_WORD];
    SIZE_T wordLength, copied = 0, begun;
    INJECTED *injected;
    KIRQL irql;

    packet->streamAction = FWPS_STREAM_ACTION_NONE;
    classifyOut->actionType = FWP_ACTION_PERMIT;
    KeAcquireSpinLock(&Editor.Lock, &irql);
    wordLength = Editor.WordLength;
    RtlCopyMemory(word, Editor.Word, LONGEST_WORD);
    KeReleaseSpinLock(&Editor.Lock, irql);
    if (flowContext == 0 || wordLength == 0 || data == NULL || data->dataLength == 0) {
        return;
    }
    injected = ExAllocatePoolWithTag(NonPagedPoolNx, sizeof(INJECTED) + data->dataLength, EDITOR_TAG);
    if (injected == NULL) {
        return;
    }
    injected->Mdl = NULL;
    FwpsCopyStreamDataToBuffer0(data, injected->Data, data->dataLength, &copied);

    if (Mask(injected->Data, copied, word, wordLength) != 0) {
        InterlockedIncrement(&Editor.Counters.Masked);
        if (NT_SUCCESS(Inject(injected, copied, inMetaValues->flowHandle,
                              Editor.CalloutIds[v4 ? StreamV4 : StreamV6], inFixedValues->layerId,
                              data->flags & ~last))) {
            classifyOut->actionType = FWP_ACTION_BLOCK;
            packet->countBytesEnforced = copied;
            return;
        }
        /* What cannot be replaced is not let through either. */
        packet->streamAction = FWPS_STREAM_ACTION_DROP_CONNECTION;
        classifyOut->actionType = FWP_ACTION_NONE;
    } else {
        begun = Begun(injected->Data, copied, word, wordLength);
        if (begun != 0 && (data->flags & last) == 0 && (classifyOut->flags & noMore) == 0) {
            InterlockedIncrement(&Editor.Counters.Deferred);
            packet->streamAction = FWPS_STREAM_ACTION_NEED_MORE_DATA;
            packet->countBytesRequired = (UINT32)(wordLength - begun);
            classifyOut->actionType = FWP_ACTION_NONE;
        }
    }
    FreeInjected(injected);
}

/* Packets. */

static VOID NTAPI PacketInjected(void *context, NET_BUFFER_LIST *netBufferList, BOOLEAN dispatchLevel)
{
    UNREFERENCED_PARAMETER(context);
    UNREFERENCED_PARAMETER(dispatchLevel);
#ifndef BUG_LEAK_CLONE
    FwpsFreeCloneNetBufferList0(netBufferList, 0);
#endif
}

static VOID NTAPI Packet(
    const FWPS_INCOMING_VALUES0 *inFixedValues, const FWPS_INCOMING_METADATA_VALUES0 *inMetaValues,
    void *layerData, const void *classifyContext, const FWPS_FILTER1 *filter, UINT64 flowContext,
    FWPS_CLASSIFY_OUT0 *classifyOut)
{
    FWPS_PACKET_INJECTION_STATE state;
    NET_BUFFER_LIST *clone;
    NTSTATUS status;

    if ((classifyOut->rights & FWPS_RIGHT_ACTION_WRITE) == 0) {
        return;
    }
    classifyOut->actionType = FWP_ACTION_PERMIT;
    if (Editor.Cloning == 0) {
        return;
    }
    state = FwpsQueryPacketInjectionState0(Editor.PacketInjection, layerData, NULL);
    if (state == FWPS_PACKET_INJECTED_BY_SELF || state == FWPS_PACKET_PREVIOUSLY_INJECTED_BY_SELF) {
        return;
    }
    status = FwpsAllocateCloneNetBufferList0(layerData, NULL, NULL, 0, &clone);
    if (!NT_SUCCESS(status)) {
        return;
    }
    status = FwpsInjectNetworkSendAsync0(Editor.PacketInjection, NULL, 0,
                                         (COMPARTMENT_ID)inMetaValues->compartmentId, clone, PacketInjected, NULL);
    if (!NT_SUCCESS(status)) {
        FwpsFreeCloneNetBufferList0(clone, 0);
        return;
    }
#ifdef BUG_FREE_INJECTED
    FwpsFreeCloneNetBufferList0(clone, 0);
#endif
    InterlockedIncrement(&Editor.Counters.Cloned);
    classifyOut->actionType = FWP_ACTION_BLOCK;
    classifyOut->rights &= ~FWPS_RIGHT_ACTION_WRITE;
    classifyOut->flags |= FWPS_CLASSIFY_OUT_FLAG_ABSORB;
}

static NTSTATUS NTAPI Notify(FWPS_CALLOUT_NOTIFY_TYPE notifyType, const GUID *filterKey, FWPS_FILTER1 *filter)
{
    UNREFERENCED_PARAMETER(notifyType);
    UNREFERENCED_PARAMETER(filterKey);
    UNREFERENCED_PARAMETER(filter);
    return STATUS_SUCCESS;
}

/* Requests. */

static VOID NTAPI Control(
    WDFQUEUE Queue, WDFREQUEST Request, size_t OutputBufferLength, size_t InputBufferLength, ULONG IoControlCode)
{
    NTSTATUS status = STATUS_INVALID_DEVICE_REQUEST;
    ULONG_PTR information = 0;
    PVOID buffer;
    size_t length;
    KIRQL irql;

    UNREFERENCED_PARAMETER(Queue);
    UNREFERENCED_PARAMETER(OutputBufferLength);
    UNREFERENCED_PARAMETER(InputBufferLength);
    switch (IoControlCode) {
    case IOCTL_EDITOR_SET_WORD:
        status = WdfRequestRetrieveInputBuffer(Request, 1, &buffer, &length);
        if (NT_SUCCESS(status) && length > LONGEST_WORD) {
            status = STATUS_INVALID_PARAMETER;
        }
        if (NT_SUCCESS(status)) {
            KeAcquireSpinLock(&Editor.Lock, &irql);
            RtlCopyMemory(Editor.Word, buffer, length);
            Editor.WordLength = (ULONG)length;
            KeReleaseSpinLock(&Editor.Lock, irql);
        }
        break;
    case IOCTL_EDITOR_SET_CLONING:
        status = WdfRequestRetrieveInputBuffer(Request, 1, &buffer, &length);
        if (NT_SUCCESS(status)) {
            InterlockedExchange(&Editor.Cloning, *(UCHAR *)buffer);
        }
        break;
    case IOCTL_EDITOR_COUNTERS:
        status = WdfRequestRetrieveOutputBuffer(Request, sizeof(COUNTERS), &buffer, NULL);
        if (NT_SUCCESS(status)) {
            RtlCopyMemory(buffer, &Editor.Counters, sizeof(COUNTERS));
            information = sizeof(COUNTERS);
        }
        break;
    }
    WdfRequestCompleteWithInformation(Request, status, information);
}

/* Start and stop. */

static NTSTATUS RegisterCallouts(VOID)
{
    static const FWPS_CALLOUT_CLASSIFY_FN1 classify[CalloutCount] = {
        Stream, Stream, FlowEstablished, FlowEstablished, Packet};
    NTSTATUS status = STATUS_SUCCESS;
    ULONG i;

    for (i = 0; NT_SUCCESS(status) && i < CalloutCount; i++) {
        FWPS_CALLOUT1 callout = {0};
        callout.calloutKey = *Layers[i].Callout;
        callout.classifyFn = classify[i];
        callout.notifyFn = Notify;
        if (i == StreamV4 || i == StreamV6) {
            callout.flags = FWP_CALLOUT_FLAG_CONDITIONAL_ON_FLOW;
            callout.flowDeleteFn = FlowDeleted;
        }
        status = FwpsCalloutRegister1(WdfDeviceWdmGetDeviceObject(Editor.Device), &callout, &Editor.CalloutIds[i]);
    }
    return status;
}

static VOID UnregisterCallouts(VOID)
{
    /* A flow context that is going may keep a callout busy for a moment, not for long. */
    LARGE_INTEGER moment = {.QuadPart = -10 * 1000};
    ULONG i, tries;

    for (i = 0; i < CalloutCount; i++) {
        for (tries = 0; Editor.CalloutIds[i] != 0 && tries < 100; tries++) {
            if (FwpsCalloutUnregisterById0(Editor.CalloutIds[i]) == STATUS_DEVICE_BUSY) {
                KeDelayExecutionThread(KernelMode, FALSE, &moment);
            } else {
                Editor.CalloutIds[i] = 0;
            }
        }
    }
}

static VOID TearDown(VOID)
{
    if (Editor.Engine != NULL) {
        FwpmEngineClose0(Editor.Engine);
        Editor.Engine = NULL;
    }
    RemoveContexts();
    UnregisterCallouts();
    if (Editor.StreamInjection != NULL) {
        FwpsInjectionHandleDestroy0(Editor.StreamInjection);
    }
#ifndef BUG_FORGET_HANDLE
    if (Editor.PacketInjection != NULL) {
        FwpsInjectionHandleDestroy0(Editor.PacketInjection);
    }
#endif
    if (Editor.Pool != NULL) {
        NdisFreeNetBufferListPool(Editor.Pool);
    }
}

static VOID NTAPI Unload(WDFDRIVER Driver)
{
    UNREFERENCED_PARAMETER(Driver);
    TearDown();
}

static NTSTATUS Start(VOID)
{
    NET_BUFFER_LIST_POOL_PARAMETERS parameters = {0};
    NTSTATUS status;

    parameters.Header.Type = NDIS_OBJECT_TYPE_DEFAULT;
    parameters.Header.Revision = NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1;
    parameters.Header.Size = sizeof(parameters);
    parameters.fAllocateNetBuffer = TRUE;
    parameters.PoolTag = EDITOR_TAG;
    Editor.Pool = NdisAllocateNetBufferListPool(NULL, &parameters);
    if (Editor.Pool == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    status = FwpsInjectionHandleCreate0(AF_UNSPEC, FWPS_INJECTION_TYPE_STREAM, &Editor.StreamInjection);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = FwpsInjectionHandleCreate0(AF_INET, FWPS_INJECTION_TYPE_NETWORK, &Editor.PacketInjection);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = RegisterCallouts();
    if (!NT_SUCCESS(status)) {
        return status;
    }
    return OpenProduct(&Product, &Editor.Engine);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    WDFDRIVER driver;
    NTSTATUS status;

    KeInitializeSpinLock(&Editor.Lock);
    InitializeListHead(&Editor.Flows);
    status = MakeDriver(DriverObject, RegistryPath, Unload, EDITOR_TAG, &driver);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = MakeControlDevice(driver, &DeviceName, &LinkName, Control, &Editor.Device);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = Start();
    if (!NT_SUCCESS(status)) {
        TearDown();
        return status;
    }
    WdfControlFinishInitializing(Editor.Device);
    return STATUS_SUCCESS;
}
