//! The layouts that the driver's binary depends on, asserted against numbers that don't come from
//! the headers: a WDK that disagrees stops the build instead of the machine.
//!
//! Both architectures have them in common.

use core::mem::{offset_of, size_of};

use wdk_sys::{
    DEVICE_OBJECT, DRIVER_OBJECT, FILE_OBJECT, IO_STACK_LOCATION, IRP, KLOCK_QUEUE_HANDLE, MDL,
    UNICODE_STRING, WDF_DPC_CONFIG, WDF_DRIVER_CONFIG, WDF_DRIVER_GLOBALS, WDF_FILEOBJECT_CONFIG,
    WDF_IO_QUEUE_CONFIG, WDF_OBJECT_ATTRIBUTES, WDF_OBJECT_CONTEXT_TYPE_INFO,
    WDF_REQUEST_PARAMETERS, WDF_TIMER_CONFIG, WDF_WORKITEM_CONFIG,
};

use crate::{
    FWP_BYTE_BLOB, FWP_CONDITION_VALUE0, FWP_VALUE0, FWPM_ACTION0, FWPM_CALLOUT0,
    FWPM_DISPLAY_DATA0, FWPM_FILTER_CONDITION0, FWPM_FILTER0, FWPM_PROVIDER0, FWPM_SESSION0,
    FWPM_SUBLAYER0, FWPS_ACTION0, FWPS_CALLOUT0, FWPS_CALLOUT1, FWPS_CALLOUT2, FWPS_CALLOUT3,
    FWPS_CLASSIFY_OUT0, FWPS_CONNECT_REQUEST0, FWPS_DISCARD_METADATA0, FWPS_FILTER_CONDITION0,
    FWPS_FILTER0, FWPS_FILTER1, FWPS_FILTER2, FWPS_FILTER3, FWPS_INBOUND_FRAGMENT_METADATA0,
    FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUE0, FWPS_INCOMING_VALUES0,
    FWPS_TRANSPORT_SEND_PARAMS1, IP_ADDRESS_PREFIX, NET_BUFFER, NET_BUFFER_LIST,
    NET_BUFFER_LIST_POOL_PARAMETERS, NET_BUFFER_POOL_PARAMETERS,
};

/// `layout! { Structure = size { offset: path, ... } }`, the size left out where it varies.
macro_rules! layout {
    ($($name:ident $(= $size:literal)? { $($offset:literal: $($field:ident).+),* $(,)? })*) => { $(
        const _: () = {
            $(assert!(size_of::<$name>() == $size, concat!("size of ", stringify!($name)));)?
            $(
                assert!(
                    offset_of!($name, $($field).+) == $offset,
                    concat!("offset of ", stringify!($name), ".", stringify!($($field).+))
                );
            )*
        };
    )* };
}

// Values and conditions.
layout! {
    FWP_VALUE0 = 16 {
        0: type_, 8: __bindgen_anon_1.uint8, 8: __bindgen_anon_1.uint16, 8: __bindgen_anon_1.uint32,
        8: __bindgen_anon_1.uint64, 8: __bindgen_anon_1.int8, 8: __bindgen_anon_1.int16,
        8: __bindgen_anon_1.int32, 8: __bindgen_anon_1.int64, 8: __bindgen_anon_1.float32,
        8: __bindgen_anon_1.double64, 8: __bindgen_anon_1.byteArray16, 8: __bindgen_anon_1.byteBlob,
        8: __bindgen_anon_1.sid, 8: __bindgen_anon_1.sd, 8: __bindgen_anon_1.tokenInformation,
        8: __bindgen_anon_1.tokenAccessInformation, 8: __bindgen_anon_1.unicodeString,
        8: __bindgen_anon_1.byteArray6,
    }
    FWP_CONDITION_VALUE0 = 16 {
        0: type_, 8: __bindgen_anon_1.uint8, 8: __bindgen_anon_1.uint16, 8: __bindgen_anon_1.uint32,
        8: __bindgen_anon_1.uint64, 8: __bindgen_anon_1.int8, 8: __bindgen_anon_1.int16,
        8: __bindgen_anon_1.int32, 8: __bindgen_anon_1.int64, 8: __bindgen_anon_1.float32,
        8: __bindgen_anon_1.double64, 8: __bindgen_anon_1.byteArray16, 8: __bindgen_anon_1.byteBlob,
        8: __bindgen_anon_1.sid, 8: __bindgen_anon_1.sd, 8: __bindgen_anon_1.tokenInformation,
        8: __bindgen_anon_1.tokenAccessInformation, 8: __bindgen_anon_1.unicodeString,
        8: __bindgen_anon_1.byteArray6, 8: __bindgen_anon_1.v4AddrMask,
        8: __bindgen_anon_1.v6AddrMask, 8: __bindgen_anon_1.rangeValue,
    }
    FWP_BYTE_BLOB = 16 {
        0: size, 8: data,
    }
}

// What a classify function is given and answers.
layout! {
    FWPS_INCOMING_VALUE0 = 16 {
        0: value,
    }
    FWPS_INCOMING_VALUES0 = 16 {
        0: layerId, 4: valueCount, 8: incomingValue,
    }
    // It ends in members that grew with Windows; a driver only reads it in place.
    FWPS_INCOMING_METADATA_VALUES0 {
        0: currentMetadataValues, 4: flags, 8: reserved, 16: discardMetadata, 32: flowHandle,
        40: ipHeaderSize, 44: transportHeaderSize, 48: processPath, 56: token, 64: processId,
        72: sourceInterfaceIndex, 76: destinationInterfaceIndex, 80: compartmentId,
        84: fragmentMetadata, 96: pathMtu, 104: completionHandle, 112: transportEndpointHandle,
        120: remoteScopeId, 128: controlData, 136: controlDataLength, 140: packetDirection,
        144: headerIncludeHeader, 152: headerIncludeHeaderLength, 156: destinationPrefix,
        188: frameLength, 192: parentEndpointHandle, 200: icmpIdAndSequence,
        204: localRedirectTargetPID, 208: originalDestination, 216: redirectRecords,
        224: currentL2MetadataValues, 228: l2Flags, 232: ethernetMacHeaderSize,
        236: wiFiOperationMode, 240: vSwitchSourcePortId, 244: vSwitchSourceNicIndex,
        248: vSwitchDestinationPortId, 256: vSwitchPacketContext,
    }
    FWPS_DISCARD_METADATA0 = 16 {
        0: discardModule, 4: discardReason, 8: filterId,
    }
    FWPS_INBOUND_FRAGMENT_METADATA0 = 12 {
        0: fragmentIdentification, 4: fragmentOffset, 8: fragmentLength,
    }
    FWPS_FILTER0 = 64 {
        0: filterId, 8: weight, 24: subLayerWeight, 26: flags, 28: numFilterConditions,
        32: filterCondition, 40: action, 48: context, 56: providerContext,
    }
    FWPS_FILTER1 = 64 {
        0: filterId, 8: weight, 24: subLayerWeight, 26: flags, 28: numFilterConditions,
        32: filterCondition, 40: action, 48: context, 56: providerContext,
    }
    FWPS_FILTER2 = 64 {
        0: filterId, 8: weight, 24: subLayerWeight, 26: flags, 28: numFilterConditions,
        32: filterCondition, 40: action, 48: context, 56: providerContext,
    }
    FWPS_FILTER3 = 64 {
        0: filterId, 8: weight, 24: subLayerWeight, 26: flags, 28: numFilterConditions,
        32: filterCondition, 40: action, 48: context, 56: providerContext,
    }
    FWPS_ACTION0 = 8 {
        0: type_, 4: calloutId,
    }
    FWPS_FILTER_CONDITION0 = 24 {
        0: fieldId, 2: reserved, 4: matchType, 8: conditionValue,
    }
    FWPS_CLASSIFY_OUT0 = 40 {
        0: actionType, 8: outContext, 16: filterId, 24: rights, 28: flags, 32: reserved,
    }
}

// Callouts, injection and redirection.
layout! {
    FWPS_CALLOUT0 = 48 {
        0: calloutKey, 16: flags, 24: classifyFn, 32: notifyFn, 40: flowDeleteFn,
    }
    FWPS_CALLOUT1 = 48 {
        0: calloutKey, 16: flags, 24: classifyFn, 32: notifyFn, 40: flowDeleteFn,
    }
    FWPS_CALLOUT2 = 48 {
        0: calloutKey, 16: flags, 24: classifyFn, 32: notifyFn, 40: flowDeleteFn,
    }
    FWPS_CALLOUT3 = 48 {
        0: calloutKey, 16: flags, 24: classifyFn, 32: notifyFn, 40: flowDeleteFn,
    }
    FWPS_TRANSPORT_SEND_PARAMS1 = 48 {
        0: remoteAddress, 8: remoteScopeId, 16: controlData, 24: controlDataLength,
        32: headerIncludeHeader, 40: headerIncludeHeaderLength,
    }
    FWPS_CONNECT_REQUEST0 = 312 {
        0: localAddressAndPort, 128: remoteAddressAndPort, 256: portReservationToken,
        264: localRedirectTargetPID, 272: previousVersion, 280: modifierFilterId,
        288: localRedirectHandle, 296: localRedirectContext, 304: localRedirectContextSize,
    }
    IP_ADDRESS_PREFIX = 32 {
        0: Prefix, 28: PrefixLength,
    }
}

// Objects of the filter engine.
layout! {
    FWPM_DISPLAY_DATA0 = 16 {
        0: name, 8: description,
    }
    FWPM_SESSION0 = 72 {
        0: sessionKey, 16: displayData, 32: flags, 36: txnWaitTimeoutInMSec, 40: processId, 48: sid,
        56: username, 64: kernelMode,
    }
    FWPM_PROVIDER0 = 64 {
        0: providerKey, 16: displayData, 32: flags, 40: providerData, 56: serviceName,
    }
    FWPM_SUBLAYER0 = 72 {
        0: subLayerKey, 16: displayData, 32: flags, 40: providerKey, 48: providerData, 64: weight,
    }
    FWPM_CALLOUT0 = 88 {
        0: calloutKey, 16: displayData, 32: flags, 40: providerKey, 48: providerData,
        64: applicableLayer, 80: calloutId,
    }
    FWPM_ACTION0 = 20 {
        0: type_, 4: __bindgen_anon_1.filterType, 4: __bindgen_anon_1.calloutKey,
    }
    FWPM_FILTER_CONDITION0 = 40 {
        0: fieldKey, 16: matchType, 24: conditionValue,
    }
    FWPM_FILTER0 = 200 {
        0: filterKey, 16: displayData, 32: flags, 40: providerKey, 48: providerData, 64: layerKey,
        80: subLayerKey, 96: weight, 112: numFilterConditions, 120: filterCondition, 128: action,
        152: __bindgen_anon_1.rawContext, 152: __bindgen_anon_1.providerContextKey, 168: reserved,
        176: filterId, 184: effectiveWeight,
    }
}

// Net buffers.
layout! {
    // The size is that of NDIS 6.50; later versions' are longer.
    NET_BUFFER_LIST = 352 {
        0: __bindgen_anon_1.__bindgen_anon_1.Next,
        8: __bindgen_anon_1.__bindgen_anon_1.FirstNetBuffer, 16: Context, 24: ParentNetBufferList,
        32: NdisPoolHandle, 48: NdisReserved, 64: ProtocolReserved, 96: MiniportReserved,
        112: Scratch, 120: SourceHandle, 128: NblFlags, 132: ChildRefCount, 136: Flags,
        140: __bindgen_anon_2.Status, 144: NetBufferListInfo,
    }
    NET_BUFFER = 176 {
        0: __bindgen_anon_1.__bindgen_anon_1.Next, 8: __bindgen_anon_1.__bindgen_anon_1.CurrentMdl,
        16: __bindgen_anon_1.__bindgen_anon_1.CurrentMdlOffset,
        24: __bindgen_anon_1.__bindgen_anon_1.__bindgen_anon_1.DataLength,
        32: __bindgen_anon_1.__bindgen_anon_1.MdlChain,
        40: __bindgen_anon_1.__bindgen_anon_1.DataOffset, 48: ChecksumBias, 50: Reserved,
        56: NdisPoolHandle, 64: NdisReserved, 80: ProtocolReserved, 128: MiniportReserved,
        160: DataPhysicalAddress, 168: __bindgen_anon_2.SharedMemoryInfo,
    }
    NET_BUFFER_LIST_POOL_PARAMETERS = 16 {
        0: Header.Type, 1: Header.Revision, 2: Header.Size, 4: ProtocolId, 5: fAllocateNetBuffer,
        6: ContextSize, 8: PoolTag, 12: DataSize,
    }
    NET_BUFFER_POOL_PARAMETERS = 12 {
        0: Header, 4: PoolTag, 8: DataSize,
    }
}

// The kernel's structures: bound by wdk-sys, and as much part of the boundary.
layout! {
    UNICODE_STRING = 16 {
        0: Length, 2: MaximumLength, 8: Buffer,
    }
    MDL = 48 {
        0: Next, 8: Size, 10: MdlFlags, 16: Process, 24: MappedSystemVa, 32: StartVa, 40: ByteCount,
        44: ByteOffset,
    }
    KLOCK_QUEUE_HANDLE = 24 {
        0: LockQueue, 16: OldIrql,
    }
    IRP = 208 {
        0: Type, 2: Size, 8: MdlAddress, 16: Flags, 24: AssociatedIrp, 32: ThreadListEntry,
        48: IoStatus, 64: RequestorMode, 65: PendingReturned, 66: StackCount, 67: CurrentLocation,
        68: Cancel, 69: CancelIrql, 70: ApcEnvironment, 71: AllocationFlags, 72: UserIosb,
        80: UserEvent, 88: Overlay, 104: CancelRoutine, 112: UserBuffer, 120: Tail,
        120: Tail.Overlay.__bindgen_anon_1.__bindgen_anon_1.DriverContext, 152: Tail.Overlay.Thread,
        160: Tail.Overlay.AuxiliaryBuffer, 168: Tail.Overlay.__bindgen_anon_2.ListEntry,
        184: Tail.Overlay.__bindgen_anon_2.__bindgen_anon_1.CurrentStackLocation,
        192: Tail.Overlay.OriginalFileObject,
    }
    IO_STACK_LOCATION = 72 {
        0: MajorFunction, 1: MinorFunction, 2: Flags, 3: Control, 8: Parameters, 40: DeviceObject,
        48: FileObject, 56: CompletionRoutine, 64: Context,
    }
    DRIVER_OBJECT = 336 {
        0: Type, 2: Size, 8: DeviceObject, 16: Flags, 24: DriverStart, 32: DriverSize,
        40: DriverSection, 48: DriverExtension, 56: DriverName, 72: HardwareDatabase,
        80: FastIoDispatch, 88: DriverInit, 96: DriverStartIo, 104: DriverUnload,
        112: MajorFunction,
    }
    DEVICE_OBJECT = 336 {
        0: Type, 2: Size, 4: ReferenceCount, 8: DriverObject, 16: NextDevice, 24: AttachedDevice,
        32: CurrentIrp, 40: Timer, 48: Flags, 52: Characteristics, 56: Vpb, 64: DeviceExtension,
        72: DeviceType, 76: StackSize, 80: Queue, 152: AlignmentRequirement, 160: DeviceQueue,
        200: Dpc, 264: ActiveThreadCount, 272: SecurityDescriptor, 280: DeviceLock, 304: SectorSize,
        306: Spare1, 312: DeviceObjectExtension, 320: Reserved,
    }
    FILE_OBJECT = 216 {
        0: Type, 2: Size, 8: DeviceObject, 16: Vpb, 24: FsContext, 32: FsContext2,
        40: SectionObjectPointer, 48: PrivateCacheMap, 56: FinalStatus, 64: RelatedFileObject,
        72: LockOperation, 73: DeletePending, 74: ReadAccess, 75: WriteAccess, 76: DeleteAccess,
        77: SharedRead, 78: SharedWrite, 79: SharedDelete, 80: Flags, 88: FileName,
        104: CurrentByteOffset, 112: Waiters, 116: Busy, 120: LastLock, 128: Lock, 152: Event,
        176: CompletionContext, 184: IrpListLock, 192: IrpList, 208: FileObjectExtension,
    }
}

// The framework's structures.
layout! {
    WDF_DRIVER_CONFIG = 32 {
        0: Size, 8: EvtDriverDeviceAdd, 16: EvtDriverUnload, 24: DriverInitFlags, 28: DriverPoolTag,
    }
    WDF_OBJECT_ATTRIBUTES = 56 {
        0: Size, 8: EvtCleanupCallback, 16: EvtDestroyCallback, 24: ExecutionLevel,
        28: SynchronizationScope, 32: ParentObject, 40: ContextSizeOverride, 48: ContextTypeInfo,
    }
    WDF_OBJECT_CONTEXT_TYPE_INFO = 40 {
        0: Size, 8: ContextName, 16: ContextSize, 24: UniqueType, 32: EvtDriverGetUniqueContextType,
    }
    WDF_IO_QUEUE_CONFIG = 96 {
        0: Size, 4: DispatchType, 8: PowerManaged, 12: AllowZeroLengthRequests, 13: DefaultQueue,
        16: EvtIoDefault, 24: EvtIoRead, 32: EvtIoWrite, 40: EvtIoDeviceControl,
        48: EvtIoInternalDeviceControl, 56: EvtIoStop, 64: EvtIoResume, 72: EvtIoCanceledOnQueue,
        80: Settings, 88: Driver,
    }
    WDF_FILEOBJECT_CONFIG = 40 {
        0: Size, 8: EvtDeviceFileCreate, 16: EvtFileClose, 24: EvtFileCleanup,
        32: AutoForwardCleanupClose, 36: FileObjectClass,
    }
    WDF_REQUEST_PARAMETERS = 40 {
        0: Size, 2: MinorFunction, 4: Type, 8: Parameters,
        8: Parameters.DeviceIoControl.OutputBufferLength,
        16: Parameters.DeviceIoControl.InputBufferLength,
        24: Parameters.DeviceIoControl.IoControlCode,
        32: Parameters.DeviceIoControl.Type3InputBuffer,
    }
    WDF_DRIVER_GLOBALS = 56 {
        0: Driver, 8: DriverFlags, 12: DriverTag, 16: DriverName, 48: DisplaceDriverUnload,
    }
    WDF_TIMER_CONFIG = 40 {
        0: Size, 8: EvtTimerFunc, 16: Period, 20: AutomaticSerialization, 24: TolerableDelay,
        32: UseHighResolutionTimer,
    }
    WDF_WORKITEM_CONFIG = 24 {
        0: Size, 8: EvtWorkItemFunc, 16: AutomaticSerialization,
    }
    WDF_DPC_CONFIG = 24 {
        0: Size, 8: EvtDpcFunc, 16: AutomaticSerialization,
    }
}
