/* NDIS: which version's declarations are wanted. */
#pragma once

#if defined(NDIS650)
#define NDIS_SUPPORT_NDIS650 1
#endif
#if defined(NDIS630) || NDIS_SUPPORT_NDIS650
#define NDIS_SUPPORT_NDIS630 1
#endif
#if defined(NDIS620) || NDIS_SUPPORT_NDIS630
#define NDIS_SUPPORT_NDIS620 1
#endif
#if defined(NDIS61) || NDIS_SUPPORT_NDIS620
#define NDIS_SUPPORT_NDIS61 1
#endif
