/* IP helper: address prefixes. */
#pragma once

#include <ws2ipdef.h>
#include <ifdef.h>
#include <nldef.h>

typedef struct _IP_ADDRESS_PREFIX {
    SOCKADDR_INET Prefix;
    UINT8 PrefixLength;
} IP_ADDRESS_PREFIX, *PIP_ADDRESS_PREFIX;
