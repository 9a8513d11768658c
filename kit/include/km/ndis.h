/* NDIS, as far as callout drivers meet it: net buffers. */
#pragma once

#include <ntddk.h>
#include <ndis/version.h>
#include <ntddndis.h>

/* The real header asks for them unless told otherwise. */
#ifndef NDIS_INCLUDE_LEGACY_NAMES
#define NDIS_INCLUDE_LEGACY_NAMES 1
#endif

#include <ndis/types.h>
#include <ndis/objectheader.h>
#include <ndis/nblinfo.h>
#include <ndis/nbl.h>
#include <ndis/nblapi.h>
