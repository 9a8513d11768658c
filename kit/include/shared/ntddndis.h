/* NDIS: how ports and the virtual switch's ports and adapters are numbered. */
#pragma once

#include <ndis/types.h>

typedef ULONG NDIS_PORT_NUMBER, *PNDIS_PORT_NUMBER;
typedef UINT32 NDIS_SWITCH_PORT_ID, *PNDIS_SWITCH_PORT_ID;
typedef UINT16 NDIS_SWITCH_NIC_INDEX, *PNDIS_SWITCH_NIC_INDEX;
