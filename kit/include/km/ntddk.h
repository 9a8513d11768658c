/* The kernel's interface for drivers that need more than wdm.h. */
#pragma once

#include <wdm.h>

NTKERNELAPI HANDLE PsGetProcessId(PEPROCESS Process);
NTKERNELAPI HANDLE PsGetCurrentProcessId(VOID);
NTKERNELAPI NTSTATUS ExUuidCreate(GUID *Uuid);
