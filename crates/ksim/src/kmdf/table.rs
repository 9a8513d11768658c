//! The framework's function table: names by index, sizes by version, and what each slot holds.

use crate::export::Export;
use crate::thunks::Thunks;

/// The newest version that is simulated, as the minor of 1.x.
pub(crate) const NEWEST: u32 = 33;

/// Up to this many functions the driver's array is filled; a driver with more gets the address of our table.
pub(crate) const COPIED_AT_MOST: u32 = 438;

/// How many functions KMDF 1.`minor` has; `None` for a version that was never released.
///
/// Source: `wdffuncenum.h` of each version.
#[must_use]
pub const fn functions_of(minor: u32) -> Option<u32> {
    Some(match minor {
        9 => 396,
        11 => 432,
        13 => 438,
        15 | 17 => 444,
        19 => 446,
        21 => 448,
        23 => 451,
        25 | 27 => 453,
        29 => 454,
        31 | 33 => 458,
        _ => return None,
    })
}

/// How many structures KMDF 1.33 has; what a newer driver is told.
pub(crate) const STRUCTURES: u32 = 81;

/// The functions that are simulated, file by file.
fn exports() -> impl Iterator<Item = &'static Export> {
    super::EXPORTS.iter().flat_map(|table| table.iter())
}

/// Makes the stub that slot `index` leads to: the simulated function, or one that says its name and stops.
pub(crate) fn make_stub(thunks: &Thunks, index: usize) -> usize {
    let name = FUNCTIONS[index];
    let export = exports().find(|export| export.name == name);
    export.map_or_else(
        || thunks.make_missing(name),
        |export| thunks.make((export.address)()),
    )
}

macro_rules! functions {
    ($($name:ident)*) => {
        /// Every function by its index.
        pub(crate) static FUNCTIONS: &[&str] = &[$(stringify!($name)),*];
    };
}

functions! {
    WdfChildListCreate
    WdfChildListGetDevice
    WdfChildListRetrievePdo
    WdfChildListRetrieveAddressDescription
    WdfChildListBeginScan
    WdfChildListEndScan
    WdfChildListBeginIteration
    WdfChildListRetrieveNextDevice
    WdfChildListEndIteration
    WdfChildListAddOrUpdateChildDescriptionAsPresent
    WdfChildListUpdateChildDescriptionAsMissing
    WdfChildListUpdateAllChildDescriptionsAsPresent
    WdfChildListRequestChildEject
    WdfCollectionCreate
    WdfCollectionGetCount
    WdfCollectionAdd
    WdfCollectionRemove
    WdfCollectionRemoveItem
    WdfCollectionGetItem
    WdfCollectionGetFirstItem
    WdfCollectionGetLastItem
    WdfCommonBufferCreate
    WdfCommonBufferGetAlignedVirtualAddress
    WdfCommonBufferGetAlignedLogicalAddress
    WdfCommonBufferGetLength
    WdfControlDeviceInitAllocate
    WdfControlDeviceInitSetShutdownNotification
    WdfControlFinishInitializing
    WdfDeviceGetDeviceState
    WdfDeviceSetDeviceState
    WdfWdmDeviceGetWdfDeviceHandle
    WdfDeviceWdmGetDeviceObject
    WdfDeviceWdmGetAttachedDevice
    WdfDeviceWdmGetPhysicalDevice
    WdfDeviceWdmDispatchPreprocessedIrp
    WdfDeviceAddDependentUsageDeviceObject
    WdfDeviceAddRemovalRelationsPhysicalDevice
    WdfDeviceRemoveRemovalRelationsPhysicalDevice
    WdfDeviceClearRemovalRelationsDevices
    WdfDeviceGetDriver
    WdfDeviceRetrieveDeviceName
    WdfDeviceAssignMofResourceName
    WdfDeviceGetIoTarget
    WdfDeviceGetDevicePnpState
    WdfDeviceGetDevicePowerState
    WdfDeviceGetDevicePowerPolicyState
    WdfDeviceAssignS0IdleSettings
    WdfDeviceAssignSxWakeSettings
    WdfDeviceOpenRegistryKey
    WdfDeviceSetSpecialFileSupport
    WdfDeviceSetCharacteristics
    WdfDeviceGetCharacteristics
    WdfDeviceGetAlignmentRequirement
    WdfDeviceSetAlignmentRequirement
    WdfDeviceInitFree
    WdfDeviceInitSetPnpPowerEventCallbacks
    WdfDeviceInitSetPowerPolicyEventCallbacks
    WdfDeviceInitSetPowerPolicyOwnership
    WdfDeviceInitRegisterPnpStateChangeCallback
    WdfDeviceInitRegisterPowerStateChangeCallback
    WdfDeviceInitRegisterPowerPolicyStateChangeCallback
    WdfDeviceInitSetIoType
    WdfDeviceInitSetExclusive
    WdfDeviceInitSetPowerNotPageable
    WdfDeviceInitSetPowerPageable
    WdfDeviceInitSetPowerInrush
    WdfDeviceInitSetDeviceType
    WdfDeviceInitAssignName
    WdfDeviceInitAssignSDDLString
    WdfDeviceInitSetDeviceClass
    WdfDeviceInitSetCharacteristics
    WdfDeviceInitSetFileObjectConfig
    WdfDeviceInitSetRequestAttributes
    WdfDeviceInitAssignWdmIrpPreprocessCallback
    WdfDeviceInitSetIoInCallerContextCallback
    WdfDeviceCreate
    WdfDeviceSetStaticStopRemove
    WdfDeviceCreateDeviceInterface
    WdfDeviceSetDeviceInterfaceState
    WdfDeviceRetrieveDeviceInterfaceString
    WdfDeviceCreateSymbolicLink
    WdfDeviceQueryProperty
    WdfDeviceAllocAndQueryProperty
    WdfDeviceSetPnpCapabilities
    WdfDeviceSetPowerCapabilities
    WdfDeviceSetBusInformationForChildren
    WdfDeviceIndicateWakeStatus
    WdfDeviceSetFailed
    WdfDeviceStopIdleNoTrack
    WdfDeviceResumeIdleNoTrack
    WdfDeviceGetFileObject
    WdfDeviceEnqueueRequest
    WdfDeviceGetDefaultQueue
    WdfDeviceConfigureRequestDispatching
    WdfDmaEnablerCreate
    WdfDmaEnablerGetMaximumLength
    WdfDmaEnablerGetMaximumScatterGatherElements
    WdfDmaEnablerSetMaximumScatterGatherElements
    WdfDmaTransactionCreate
    WdfDmaTransactionInitialize
    WdfDmaTransactionInitializeUsingRequest
    WdfDmaTransactionExecute
    WdfDmaTransactionRelease
    WdfDmaTransactionDmaCompleted
    WdfDmaTransactionDmaCompletedWithLength
    WdfDmaTransactionDmaCompletedFinal
    WdfDmaTransactionGetBytesTransferred
    WdfDmaTransactionSetMaximumLength
    WdfDmaTransactionGetRequest
    WdfDmaTransactionGetCurrentDmaTransferLength
    WdfDmaTransactionGetDevice
    WdfDpcCreate
    WdfDpcEnqueue
    WdfDpcCancel
    WdfDpcGetParentObject
    WdfDpcWdmGetDpc
    WdfDriverCreate
    WdfDriverGetRegistryPath
    WdfDriverWdmGetDriverObject
    WdfDriverOpenParametersRegistryKey
    WdfWdmDriverGetWdfDriverHandle
    WdfDriverRegisterTraceInfo
    WdfDriverRetrieveVersionString
    WdfDriverIsVersionAvailable
    WdfFdoInitWdmGetPhysicalDevice
    WdfFdoInitOpenRegistryKey
    WdfFdoInitQueryProperty
    WdfFdoInitAllocAndQueryProperty
    WdfFdoInitSetEventCallbacks
    WdfFdoInitSetFilter
    WdfFdoInitSetDefaultChildListConfig
    WdfFdoQueryForInterface
    WdfFdoGetDefaultChildList
    WdfFdoAddStaticChild
    WdfFdoLockStaticChildListForIteration
    WdfFdoRetrieveNextStaticChild
    WdfFdoUnlockStaticChildListFromIteration
    WdfFileObjectGetFileName
    WdfFileObjectGetFlags
    WdfFileObjectGetDevice
    WdfFileObjectWdmGetFileObject
    WdfInterruptCreate
    WdfInterruptQueueDpcForIsr
    WdfInterruptSynchronize
    WdfInterruptAcquireLock
    WdfInterruptReleaseLock
    WdfInterruptEnable
    WdfInterruptDisable
    WdfInterruptWdmGetInterrupt
    WdfInterruptGetInfo
    WdfInterruptSetPolicy
    WdfInterruptGetDevice
    WdfIoQueueCreate
    WdfIoQueueGetState
    WdfIoQueueStart
    WdfIoQueueStop
    WdfIoQueueStopSynchronously
    WdfIoQueueGetDevice
    WdfIoQueueRetrieveNextRequest
    WdfIoQueueRetrieveRequestByFileObject
    WdfIoQueueFindRequest
    WdfIoQueueRetrieveFoundRequest
    WdfIoQueueDrainSynchronously
    WdfIoQueueDrain
    WdfIoQueuePurgeSynchronously
    WdfIoQueuePurge
    WdfIoQueueReadyNotify
    WdfIoTargetCreate
    WdfIoTargetOpen
    WdfIoTargetCloseForQueryRemove
    WdfIoTargetClose
    WdfIoTargetStart
    WdfIoTargetStop
    WdfIoTargetGetState
    WdfIoTargetGetDevice
    WdfIoTargetQueryTargetProperty
    WdfIoTargetAllocAndQueryTargetProperty
    WdfIoTargetQueryForInterface
    WdfIoTargetWdmGetTargetDeviceObject
    WdfIoTargetWdmGetTargetPhysicalDevice
    WdfIoTargetWdmGetTargetFileObject
    WdfIoTargetWdmGetTargetFileHandle
    WdfIoTargetSendReadSynchronously
    WdfIoTargetFormatRequestForRead
    WdfIoTargetSendWriteSynchronously
    WdfIoTargetFormatRequestForWrite
    WdfIoTargetSendIoctlSynchronously
    WdfIoTargetFormatRequestForIoctl
    WdfIoTargetSendInternalIoctlSynchronously
    WdfIoTargetFormatRequestForInternalIoctl
    WdfIoTargetSendInternalIoctlOthersSynchronously
    WdfIoTargetFormatRequestForInternalIoctlOthers
    WdfMemoryCreate
    WdfMemoryCreatePreallocated
    WdfMemoryGetBuffer
    WdfMemoryAssignBuffer
    WdfMemoryCopyToBuffer
    WdfMemoryCopyFromBuffer
    WdfLookasideListCreate
    WdfMemoryCreateFromLookaside
    WdfDeviceMiniportCreate
    WdfDriverMiniportUnload
    WdfObjectGetTypedContextWorker
    WdfObjectAllocateContext
    WdfObjectContextGetObject
    WdfObjectReferenceActual
    WdfObjectDereferenceActual
    WdfObjectCreate
    WdfObjectDelete
    WdfObjectQuery
    WdfPdoInitAllocate
    WdfPdoInitSetEventCallbacks
    WdfPdoInitAssignDeviceID
    WdfPdoInitAssignInstanceID
    WdfPdoInitAddHardwareID
    WdfPdoInitAddCompatibleID
    WdfPdoInitAddDeviceText
    WdfPdoInitSetDefaultLocale
    WdfPdoInitAssignRawDevice
    WdfPdoMarkMissing
    WdfPdoRequestEject
    WdfPdoGetParent
    WdfPdoRetrieveIdentificationDescription
    WdfPdoRetrieveAddressDescription
    WdfPdoUpdateAddressDescription
    WdfPdoAddEjectionRelationsPhysicalDevice
    WdfPdoRemoveEjectionRelationsPhysicalDevice
    WdfPdoClearEjectionRelationsDevices
    WdfDeviceAddQueryInterface
    WdfRegistryOpenKey
    WdfRegistryCreateKey
    WdfRegistryClose
    WdfRegistryWdmGetHandle
    WdfRegistryRemoveKey
    WdfRegistryRemoveValue
    WdfRegistryQueryValue
    WdfRegistryQueryMemory
    WdfRegistryQueryMultiString
    WdfRegistryQueryUnicodeString
    WdfRegistryQueryString
    WdfRegistryQueryULong
    WdfRegistryAssignValue
    WdfRegistryAssignMemory
    WdfRegistryAssignMultiString
    WdfRegistryAssignUnicodeString
    WdfRegistryAssignString
    WdfRegistryAssignULong
    WdfRequestCreate
    WdfRequestCreateFromIrp
    WdfRequestReuse
    WdfRequestChangeTarget
    WdfRequestFormatRequestUsingCurrentType
    WdfRequestWdmFormatUsingStackLocation
    WdfRequestSend
    WdfRequestGetStatus
    WdfRequestMarkCancelable
    WdfRequestUnmarkCancelable
    WdfRequestIsCanceled
    WdfRequestCancelSentRequest
    WdfRequestIsFrom32BitProcess
    WdfRequestSetCompletionRoutine
    WdfRequestGetCompletionParams
    WdfRequestAllocateTimer
    WdfRequestComplete
    WdfRequestCompleteWithPriorityBoost
    WdfRequestCompleteWithInformation
    WdfRequestGetParameters
    WdfRequestRetrieveInputMemory
    WdfRequestRetrieveOutputMemory
    WdfRequestRetrieveInputBuffer
    WdfRequestRetrieveOutputBuffer
    WdfRequestRetrieveInputWdmMdl
    WdfRequestRetrieveOutputWdmMdl
    WdfRequestRetrieveUnsafeUserInputBuffer
    WdfRequestRetrieveUnsafeUserOutputBuffer
    WdfRequestSetInformation
    WdfRequestGetInformation
    WdfRequestGetFileObject
    WdfRequestProbeAndLockUserBufferForRead
    WdfRequestProbeAndLockUserBufferForWrite
    WdfRequestGetRequestorMode
    WdfRequestForwardToIoQueue
    WdfRequestGetIoQueue
    WdfRequestRequeue
    WdfRequestStopAcknowledge
    WdfRequestWdmGetIrp
    WdfIoResourceRequirementsListSetSlotNumber
    WdfIoResourceRequirementsListSetInterfaceType
    WdfIoResourceRequirementsListAppendIoResList
    WdfIoResourceRequirementsListInsertIoResList
    WdfIoResourceRequirementsListGetCount
    WdfIoResourceRequirementsListGetIoResList
    WdfIoResourceRequirementsListRemove
    WdfIoResourceRequirementsListRemoveByIoResList
    WdfIoResourceListCreate
    WdfIoResourceListAppendDescriptor
    WdfIoResourceListInsertDescriptor
    WdfIoResourceListUpdateDescriptor
    WdfIoResourceListGetCount
    WdfIoResourceListGetDescriptor
    WdfIoResourceListRemove
    WdfIoResourceListRemoveByDescriptor
    WdfCmResourceListAppendDescriptor
    WdfCmResourceListInsertDescriptor
    WdfCmResourceListGetCount
    WdfCmResourceListGetDescriptor
    WdfCmResourceListRemove
    WdfCmResourceListRemoveByDescriptor
    WdfStringCreate
    WdfStringGetUnicodeString
    WdfObjectAcquireLock
    WdfObjectReleaseLock
    WdfWaitLockCreate
    WdfWaitLockAcquire
    WdfWaitLockRelease
    WdfSpinLockCreate
    WdfSpinLockAcquire
    WdfSpinLockRelease
    WdfTimerCreate
    WdfTimerStart
    WdfTimerStop
    WdfTimerGetParentObject
    WdfUsbTargetDeviceCreate
    WdfUsbTargetDeviceRetrieveInformation
    WdfUsbTargetDeviceGetDeviceDescriptor
    WdfUsbTargetDeviceRetrieveConfigDescriptor
    WdfUsbTargetDeviceQueryString
    WdfUsbTargetDeviceAllocAndQueryString
    WdfUsbTargetDeviceFormatRequestForString
    WdfUsbTargetDeviceGetNumInterfaces
    WdfUsbTargetDeviceSelectConfig
    WdfUsbTargetDeviceWdmGetConfigurationHandle
    WdfUsbTargetDeviceRetrieveCurrentFrameNumber
    WdfUsbTargetDeviceSendControlTransferSynchronously
    WdfUsbTargetDeviceFormatRequestForControlTransfer
    WdfUsbTargetDeviceIsConnectedSynchronous
    WdfUsbTargetDeviceResetPortSynchronously
    WdfUsbTargetDeviceCyclePortSynchronously
    WdfUsbTargetDeviceFormatRequestForCyclePort
    WdfUsbTargetDeviceSendUrbSynchronously
    WdfUsbTargetDeviceFormatRequestForUrb
    WdfUsbTargetPipeGetInformation
    WdfUsbTargetPipeIsInEndpoint
    WdfUsbTargetPipeIsOutEndpoint
    WdfUsbTargetPipeGetType
    WdfUsbTargetPipeSetNoMaximumPacketSizeCheck
    WdfUsbTargetPipeWriteSynchronously
    WdfUsbTargetPipeFormatRequestForWrite
    WdfUsbTargetPipeReadSynchronously
    WdfUsbTargetPipeFormatRequestForRead
    WdfUsbTargetPipeConfigContinuousReader
    WdfUsbTargetPipeAbortSynchronously
    WdfUsbTargetPipeFormatRequestForAbort
    WdfUsbTargetPipeResetSynchronously
    WdfUsbTargetPipeFormatRequestForReset
    WdfUsbTargetPipeSendUrbSynchronously
    WdfUsbTargetPipeFormatRequestForUrb
    WdfUsbInterfaceGetInterfaceNumber
    WdfUsbInterfaceGetNumEndpoints
    WdfUsbInterfaceGetDescriptor
    WdfUsbInterfaceSelectSetting
    WdfUsbInterfaceGetEndpointInformation
    WdfUsbTargetDeviceGetInterface
    WdfUsbInterfaceGetConfiguredSettingIndex
    WdfUsbInterfaceGetNumConfiguredPipes
    WdfUsbInterfaceGetConfiguredPipe
    WdfUsbTargetPipeWdmGetPipeHandle
    WdfVerifierDbgBreakPoint
    WdfVerifierKeBugCheck
    WdfWmiProviderCreate
    WdfWmiProviderGetDevice
    WdfWmiProviderIsEnabled
    WdfWmiProviderGetTracingHandle
    WdfWmiInstanceCreate
    WdfWmiInstanceRegister
    WdfWmiInstanceDeregister
    WdfWmiInstanceGetDevice
    WdfWmiInstanceGetProvider
    WdfWmiInstanceFireEvent
    WdfWorkItemCreate
    WdfWorkItemEnqueue
    WdfWorkItemGetParentObject
    WdfWorkItemFlush
    WdfCommonBufferCreateWithConfig
    WdfDmaEnablerGetFragmentLength
    WdfDmaEnablerWdmGetDmaAdapter
    WdfUsbInterfaceGetNumSettings
    WdfDeviceRemoveDependentUsageDeviceObject
    WdfDeviceGetSystemPowerAction
    WdfInterruptSetExtendedPolicy
    WdfIoQueueAssignForwardProgressPolicy
    WdfPdoInitAssignContainerID
    WdfPdoInitAllowForwardingRequestToParent
    WdfRequestMarkCancelableEx
    WdfRequestIsReserved
    WdfRequestForwardToParentDeviceIoQueue
    WdfCxDeviceInitAllocate
    WdfCxDeviceInitAssignWdmIrpPreprocessCallback
    WdfCxDeviceInitSetIoInCallerContextCallback
    WdfCxDeviceInitSetRequestAttributes
    WdfCxDeviceInitSetFileObjectConfig
    WdfDeviceWdmDispatchIrp
    WdfDeviceWdmDispatchIrpToIoQueue
    WdfDeviceInitSetRemoveLockOptions
    WdfDeviceConfigureWdmIrpDispatchCallback
    WdfDmaEnablerConfigureSystemProfile
    WdfDmaTransactionInitializeUsingOffset
    WdfDmaTransactionGetTransferInfo
    WdfDmaTransactionSetChannelConfigurationCallback
    WdfDmaTransactionSetTransferCompleteCallback
    WdfDmaTransactionSetImmediateExecution
    WdfDmaTransactionAllocateResources
    WdfDmaTransactionSetDeviceAddressOffset
    WdfDmaTransactionFreeResources
    WdfDmaTransactionCancel
    WdfDmaTransactionWdmGetTransferContext
    WdfInterruptQueueWorkItemForIsr
    WdfInterruptTryToAcquireLock
    WdfIoQueueStopAndPurge
    WdfIoQueueStopAndPurgeSynchronously
    WdfIoTargetPurge
    WdfUsbTargetDeviceCreateWithParameters
    WdfUsbTargetDeviceQueryUsbCapability
    WdfUsbTargetDeviceCreateUrb
    WdfUsbTargetDeviceCreateIsochUrb
    WdfDeviceWdmAssignPowerFrameworkSettings
    WdfDmaTransactionStopSystemTransfer
    WdfCxVerifierKeBugCheck
    WdfInterruptReportActive
    WdfInterruptReportInactive
    WdfDeviceInitSetReleaseHardwareOrderOnFailure
    WdfGetTriageInfo
    WdfDeviceInitSetIoTypeEx
    WdfDeviceQueryPropertyEx
    WdfDeviceAllocAndQueryPropertyEx
    WdfDeviceAssignProperty
    WdfFdoInitQueryPropertyEx
    WdfFdoInitAllocAndQueryPropertyEx
    WdfDeviceStopIdleActual
    WdfDeviceResumeIdleActual
    WdfDeviceGetSelfIoTarget
    WdfDeviceInitAllowSelfIoTarget
    WdfIoTargetSelfAssignDefaultIoQueue
    WdfDeviceOpenDevicemapKey
    WdfDmaTransactionSetSingleTransferRequirement
    WdfCxDeviceInitSetPnpPowerEventCallbacks
    WdfFileObjectGetInitiatorProcessId
    WdfRequestGetRequestorProcessId
    WdfDeviceRetrieveCompanionTarget
    WdfCompanionTargetSendTaskSynchronously
    WdfCompanionTargetWdmGetCompanionProcess
    WdfDriverOpenPersistentStateRegistryKey
    WdfDriverErrorReportApiMissing
    WdfPdoInitRemovePowerDependencyOnParent
    WdfCxDeviceInitAllocateContext
    WdfCxDeviceInitGetTypedContextWorker
    WdfCxDeviceInitSetPowerPolicyEventCallbacks
    WdfDeviceSetDeviceInterfaceStateEx
}

#[cfg(test)]
mod tests {
    use super::{FUNCTIONS, NEWEST, exports, functions_of};

    #[test]
    fn indices_are_those_of_the_headers() {
        let index = |name| FUNCTIONS.iter().position(|known| *known == name);
        assert_eq!(u32::try_from(FUNCTIONS.len()).ok(), functions_of(NEWEST));
        assert_eq!(index("WdfControlDeviceInitAllocate"), Some(25));
        assert_eq!(index("WdfDriverCreate"), Some(116));
        assert_eq!(index("WdfObjectGetTypedContextWorker"), Some(202));
        assert_eq!(index("WdfRequestComplete"), Some(263));
        assert_eq!(index("WdfWorkItemFlush"), Some(382));
        assert_eq!(index("WdfRequestMarkCancelableEx"), Some(393));
        assert_eq!(index("WdfDeviceSetDeviceInterfaceStateEx"), Some(457));
    }

    #[test]
    fn every_simulated_function_has_a_slot() {
        for export in exports().filter(|export| export.module == "kmdf") {
            assert!(
                FUNCTIONS.contains(&export.name),
                "{} is in no slot",
                export.name
            );
            assert!(
                export.doc.contains("https://learn.microsoft.com/"),
                "{} has no page",
                export.name
            );
        }
    }

    #[test]
    fn only_released_versions_have_a_size() {
        assert_eq!(functions_of(9), Some(396));
        assert_eq!(functions_of(10), None);
        assert_eq!(functions_of(35), None);
    }
}
