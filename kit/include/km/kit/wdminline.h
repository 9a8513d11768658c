/* What wdm.h gives to C alone: macros that call, and functions that are compiled into the driver. */
#pragma once

/* Intrinsics of Microsoft's compiler that clang does not have. */

#if defined(_AMD64_)
static __inline ULONG64 __readcr8(VOID)
{
    ULONG64 value;
    __asm__ volatile("mov %%cr8, %0" : "=r"(value));
    return value;
}

#define ReadCR8() __readcr8()
#endif

#define InterlockedIncrement(Addend) (__sync_add_and_fetch((Addend), 1))
#define InterlockedDecrement(Addend) (__sync_sub_and_fetch((Addend), 1))
#define InterlockedIncrement64(Addend) (__sync_add_and_fetch((Addend), 1))
#define InterlockedExchange(Target, Value) (__atomic_exchange_n((Target), (Value), __ATOMIC_SEQ_CST))
#define InterlockedCompareExchange(Destination, ExChange, Comperand) \
    (__sync_val_compare_and_swap((Destination), (Comperand), (ExChange)))
#define InterlockedExchangePointer(Target, Value) \
    ((PVOID)__atomic_exchange_n((PVOID volatile *)(Target), (PVOID)(Value), __ATOMIC_SEQ_CST))

/* Memory. */

#define RtlCopyMemory(Destination, Source, Length) memcpy((Destination), (Source), (Length))
#define RtlMoveMemory(Destination, Source, Length) memmove((Destination), (Source), (Length))
#define RtlZeroMemory(Destination, Length) memset((Destination), 0, (Length))

static __inline PVOID MmGetSystemAddressForMdlSafe(PMDL Mdl, ULONG Priority)
{
    if (Mdl->MdlFlags & (MDL_MAPPED_TO_SYSTEM_VA | MDL_SOURCE_IS_NONPAGED_POOL)) {
        return Mdl->MappedSystemVa;
    }
    return MmMapLockedPagesSpecifyCache(Mdl, KernelMode, MmCached, NULL, FALSE, Priority);
}

#define MmGetMdlByteCount(Mdl) ((Mdl)->ByteCount)

#define RtlUshortByteSwap(Value) __builtin_bswap16((USHORT)(Value))
#define RtlUlongByteSwap(Value) __builtin_bswap32((ULONG)(Value))

/* Objects. */

#define ObReferenceObject(Object) ObfReferenceObject(Object)
#define ObDereferenceObject(Object) ObfDereferenceObject(Object)

/* Doubly linked lists. */

static __inline VOID InitializeListHead(PLIST_ENTRY ListHead)
{
    ListHead->Flink = ListHead->Blink = ListHead;
}

static __inline BOOLEAN IsListEmpty(const LIST_ENTRY *ListHead)
{
    return ListHead->Flink == ListHead;
}

static __inline BOOLEAN RemoveEntryList(PLIST_ENTRY Entry)
{
    PLIST_ENTRY next = Entry->Flink;
    PLIST_ENTRY previous = Entry->Blink;
    previous->Flink = next;
    next->Blink = previous;
    return next == previous;
}

static __inline PLIST_ENTRY RemoveHeadList(PLIST_ENTRY ListHead)
{
    PLIST_ENTRY entry = ListHead->Flink;
    RemoveEntryList(entry);
    return entry;
}

static __inline VOID InsertTailList(PLIST_ENTRY ListHead, PLIST_ENTRY Entry)
{
    PLIST_ENTRY last = ListHead->Blink;
    Entry->Flink = ListHead;
    Entry->Blink = last;
    last->Flink = Entry;
    ListHead->Blink = Entry;
}

/* Spin locks. */

static __inline VOID KeInitializeSpinLock(PKSPIN_LOCK SpinLock)
{
    *SpinLock = 0;
}

#define KeAcquireSpinLock(SpinLock, OldIrql) (*(OldIrql) = KeAcquireSpinLockRaiseToDpc(SpinLock))

/* Requests. */

#define IoCompleteRequest IofCompleteRequest

static __inline PIO_STACK_LOCATION IoGetCurrentIrpStackLocation(PIRP Irp)
{
    return Irp->Tail.Overlay.CurrentStackLocation;
}

static __inline VOID IoMarkIrpPending(PIRP Irp)
{
    IoGetCurrentIrpStackLocation(Irp)->Control |= SL_PENDING_RETURNED;
}

static __inline PDRIVER_CANCEL IoSetCancelRoutine(PIRP Irp, PDRIVER_CANCEL CancelRoutine)
{
    return (PDRIVER_CANCEL)(ULONG_PTR)InterlockedExchangePointer(&Irp->CancelRoutine, CancelRoutine);
}

#define IoInitializeRemoveLock(Lock, Tag, Maxmin, HighWater) \
    IoInitializeRemoveLockEx(Lock, Tag, Maxmin, HighWater, sizeof(IO_REMOVE_LOCK))
#define IoAcquireRemoveLock(RemoveLock, Tag) \
    IoAcquireRemoveLockEx(RemoveLock, Tag, "", 1, sizeof(IO_REMOVE_LOCK))
#define IoReleaseRemoveLock(RemoveLock, Tag) \
    IoReleaseRemoveLockEx(RemoveLock, Tag, sizeof(IO_REMOVE_LOCK))
#define IoReleaseRemoveLockAndWait(RemoveLock, Tag) \
    IoReleaseRemoveLockAndWaitEx(RemoveLock, Tag, sizeof(IO_REMOVE_LOCK))
