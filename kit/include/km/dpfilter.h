/* The components of the debugger's message filter. */
#pragma once

typedef enum _DPFLTR_TYPE {
    DPFLTR_IHVDRIVER_ID = 77,
    DPFLTR_IHVNETWORK_ID = 80
} DPFLTR_TYPE;
