/* NDIS: basic types. */
#pragma once

#include <ntdef.h>

typedef PVOID NDIS_HANDLE, *PNDIS_HANDLE;
typedef int NDIS_STATUS, *PNDIS_STATUS;
