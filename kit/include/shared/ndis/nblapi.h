/* NDIS: pools of net buffers, and moving the start of their data. */
#pragma once

#include <ndis/objectheader.h>
#include <ndis/nbl.h>

typedef struct _NET_BUFFER_LIST_POOL_PARAMETERS {
    NDIS_OBJECT_HEADER Header;
    UCHAR ProtocolId;
    BOOLEAN fAllocateNetBuffer;
    USHORT ContextSize;
    ULONG PoolTag;
    ULONG DataSize;
} NET_BUFFER_LIST_POOL_PARAMETERS, *PNET_BUFFER_LIST_POOL_PARAMETERS;

#define NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1 1

typedef struct _NET_BUFFER_POOL_PARAMETERS {
    NDIS_OBJECT_HEADER Header;
    ULONG PoolTag;
    ULONG DataSize;
} NET_BUFFER_POOL_PARAMETERS, *PNET_BUFFER_POOL_PARAMETERS;

#define NET_BUFFER_POOL_PARAMETERS_REVISION_1 1

typedef MDL *NET_BUFFER_ALLOCATE_MDL(ULONG *BufferSize);
typedef NET_BUFFER_ALLOCATE_MDL *NET_BUFFER_ALLOCATE_MDL_HANDLER;
typedef VOID NET_BUFFER_FREE_MDL(MDL *Mdl);
typedef NET_BUFFER_FREE_MDL *NET_BUFFER_FREE_MDL_HANDLER;

DECLSPEC_IMPORT NDIS_HANDLE NdisAllocateNetBufferListPool(
    NDIS_HANDLE NdisHandle, const NET_BUFFER_LIST_POOL_PARAMETERS *Parameters);
DECLSPEC_IMPORT VOID NdisFreeNetBufferListPool(NDIS_HANDLE PoolHandle);
DECLSPEC_IMPORT NDIS_HANDLE NdisAllocateNetBufferPool(
    NDIS_HANDLE NdisHandle, const NET_BUFFER_POOL_PARAMETERS *Parameters);
DECLSPEC_IMPORT VOID NdisFreeNetBufferPool(NDIS_HANDLE PoolHandle);
DECLSPEC_IMPORT NET_BUFFER_LIST *NdisAllocateNetBufferAndNetBufferList(
    NDIS_HANDLE PoolHandle, USHORT ContextSize, USHORT ContextBackFill, MDL *MdlChain,
    ULONG DataOffset, SIZE_T DataLength);
DECLSPEC_IMPORT VOID NdisFreeNetBufferList(NET_BUFFER_LIST *NetBufferList);
DECLSPEC_IMPORT PVOID NdisGetDataBuffer(
    NET_BUFFER *NetBuffer, ULONG BytesNeeded, PVOID Storage, ULONG AlignMultiple,
    ULONG AlignOffset);
DECLSPEC_IMPORT NDIS_STATUS NdisRetreatNetBufferDataStart(
    NET_BUFFER *NetBuffer, ULONG DataOffsetDelta, ULONG DataBackFill,
    NET_BUFFER_ALLOCATE_MDL *AllocateMdlHandler);
DECLSPEC_IMPORT VOID NdisAdvanceNetBufferDataStart(
    NET_BUFFER *NetBuffer, ULONG DataOffsetDelta, BOOLEAN FreeMdl,
    NET_BUFFER_FREE_MDL *FreeMdlHandler);
DECLSPEC_IMPORT NDIS_STATUS NdisRetreatNetBufferListDataStart(
    NET_BUFFER_LIST *NetBufferList, ULONG DataOffsetDelta, ULONG DataBackFill,
    NET_BUFFER_ALLOCATE_MDL *AllocateMdlHandler,
    NET_BUFFER_FREE_MDL *FreeMdlHandler);
DECLSPEC_IMPORT VOID NdisAdvanceNetBufferListDataStart(
    NET_BUFFER_LIST *NetBufferList, ULONG DataOffsetDelta, BOOLEAN FreeMdl,
    NET_BUFFER_FREE_MDL *FreeMdlHandler);
