/*
 * WdfDriverEntry.lib: the image's entry point. It binds the image to the framework, gives the
 * framework's function table to the driver, calls DriverEntry, and unbinds when the driver unloads
 * or fails to start.
 */
#include <ntddk.h>
#include <wdf.h>

/* How WdfLdr learns what the driver was built for, and where it stores what it found. */

typedef struct _WDF_VERSION {
    ULONG Major;
    ULONG Minor;
    ULONG Build;
} WDF_VERSION;

typedef struct _WDF_BIND_INFO2 {
    ULONG Size;
    PCWSTR Component;
    WDF_VERSION Version;
    ULONG FuncCount;
    const WDFFUNC **FuncTable;
    PVOID Module;
    ULONG *MinimumVersionRequired;
    BOOLEAN *ClientVersionHigherThanFramework;
    ULONG *FuncCountPtr;
    ULONG *StructCountPtr;
    WDF_STRUCT_INFO *StructTable;
} WDF_BIND_INFO2;

/* Drivers for 1.23 and before say less. */
#define FIRST_MINOR_WITH_BIND_INFO2 25

typedef struct _WDF_BIND_INFO {
    ULONG Size;
    PCWSTR Component;
    WDF_VERSION Version;
    ULONG FuncCount;
    const WDFFUNC **FuncTable;
    PVOID Module;
} WDF_BIND_INFO;

_Static_assert(sizeof(WDF_BIND_INFO2) == 0x58, "WdfLdr knows the structure's version by its size");
_Static_assert(sizeof(WDF_BIND_INFO) == 0x30, "WdfLdr knows the structure's version by its size");

#if KMDF_VERSION_MINOR >= FIRST_MINOR_WITH_BIND_INFO2
typedef WDF_BIND_INFO2 BIND_INFO;
#else
typedef WDF_BIND_INFO BIND_INFO;
#endif

/* The framework copies as many functions into the driver; a driver with more gets the table's address. */
#define MOST_COPIED_FUNCTIONS 438

NTSTATUS WdfVersionBind(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath,
                        BIND_INFO *BindInfo, PWDF_DRIVER_GLOBALS *ComponentGlobals);
NTSTATUS WdfVersionUnbind(PUNICODE_STRING RegistryPath, BIND_INFO *BindInfo,
                          PWDF_DRIVER_GLOBALS ComponentGlobals);

DRIVER_INITIALIZE DriverEntry;

/* What the driver's bindings refer to. */

#if KMDF_VERSION_MINOR == 9
WDFFUNC WdfFunctions[WdfFunctionTableNumEntries];
_Static_assert(WdfFunctionTableNumEntries <= MOST_COPIED_FUNCTIONS, "there is room for them");
#else
const WDFFUNC *WdfFunctions;
_Static_assert(WdfFunctionTableNumEntries > MOST_COPIED_FUNCTIONS, "not copied");
#endif
PWDF_DRIVER_GLOBALS WdfDriverGlobals;
BOOLEAN WdfClientVersionHigherThanFramework;
WDF_STRUCT_INFO WdfStructures;
WDFFUNC WdfDriverMiniportUnloadOverride;

/*
 * WdfLdr lowers both only where the framework is older than the driver. Elsewhere they are never
 * written, and the bindings check each call's index against WdfFunctionCount.
 */
#define STRUCTURE_COUNT 81 /* of KMDF 1.31 */
ULONG WdfFunctionCount = WdfFunctionTableNumEntries;
ULONG WdfStructureCount = STRUCTURE_COUNT;

static BIND_INFO BindInfo = {
    .Size = sizeof(BIND_INFO),
    .Component = L"KmdfLibrary",
    .Version = {KMDF_VERSION_MAJOR, KMDF_VERSION_MINOR, 0},
    .FuncCount = WdfFunctionTableNumEntries,
    .FuncTable = (const WDFFUNC **)&WdfFunctions,
#if KMDF_VERSION_MINOR >= FIRST_MINOR_WITH_BIND_INFO2
    .MinimumVersionRequired = &WdfMinimumVersionRequired,
    .ClientVersionHigherThanFramework = &WdfClientVersionHigherThanFramework,
    .FuncCountPtr = &WdfFunctionCount,
    .StructCountPtr = &WdfStructureCount,
    .StructTable = &WdfStructures,
#endif
};

/* The caller's path is gone by the time that unbinding needs it. */
static WCHAR RegistryPathBuffer[260];
static UNICODE_STRING RegistryPathCopy = {0, sizeof(RegistryPathBuffer), RegistryPathBuffer};

static PDRIVER_UNLOAD FrameworkUnload;

/* The framework must be left last: its own unload routine, and with it the driver's, runs first. */
static VOID NTAPI UnloadThenUnbind(PDRIVER_OBJECT DriverObject)
{
    if (FrameworkUnload != NULL) {
        FrameworkUnload(DriverObject);
    }
    WdfVersionUnbind(&RegistryPathCopy, &BindInfo, WdfDriverGlobals);
}

NTSTATUS NTAPI FxDriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    NTSTATUS status;

    if (DriverObject == NULL) {
        return DriverEntry(DriverObject, RegistryPath); /* loaded as a library: nothing to bind */
    }

    RtlCopyUnicodeString(&RegistryPathCopy, RegistryPath);
    status = WdfVersionBind(DriverObject, &RegistryPathCopy, &BindInfo, &WdfDriverGlobals);
    if (status < 0) {
        return status;
    }

    status = DriverEntry(DriverObject, RegistryPath);
    if (status < 0) {
        WdfVersionUnbind(&RegistryPathCopy, &BindInfo, WdfDriverGlobals);
        return status;
    }

    if (WdfDriverGlobals->DisplaceDriverUnload) {
        FrameworkUnload = DriverObject->DriverUnload;
        DriverObject->DriverUnload = UnloadThenUnbind;
    }
    return status;
}
