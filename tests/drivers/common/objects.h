/* A callout driver's objects in the filter engine: a provider, a sublayer, and a callout with a filter a layer. */
#pragma once

#include <ntifs.h>
#include <fwpsk.h>
#include <fwpmk.h>

typedef struct _LAYER_OBJECTS {
    const GUID *Layer;
    const GUID *Callout;
    FWP_ACTION_TYPE Action;
} LAYER_OBJECTS;

typedef struct _PRODUCT {
    const GUID *Provider;
    const GUID *SubLayer;
    UINT16 Weight;
    PWSTR Name;
    const LAYER_OBJECTS *Layers;
    ULONG LayerCount;
} PRODUCT;

static NTSTATUS AddLayer(HANDLE Engine, const PRODUCT *Product, const LAYER_OBJECTS *Layer)
{
    FWPM_CALLOUT0 callout = {0};
    FWPM_FILTER0 filter = {0};
    NTSTATUS status;

    callout.calloutKey = *Layer->Callout;
    callout.displayData.name = Product->Name;
    callout.providerKey = (GUID *)Product->Provider;
    callout.applicableLayer = *Layer->Layer;
    status = FwpmCalloutAdd0(Engine, &callout, NULL, NULL);
    if (!NT_SUCCESS(status)) {
        return status;
    }

    filter.displayData.name = Product->Name;
    filter.providerKey = (GUID *)Product->Provider;
    filter.layerKey = *Layer->Layer;
    filter.subLayerKey = *Product->SubLayer;
    filter.weight.type = FWP_EMPTY;
    filter.action.type = Layer->Action;
    filter.action.calloutKey = *Layer->Callout;
    return FwpmFilterAdd0(Engine, &filter, NULL, NULL);
}

static NTSTATUS AddAll(HANDLE Engine, const PRODUCT *Product)
{
    FWPM_PROVIDER0 provider = {0};
    FWPM_SUBLAYER0 subLayer = {0};
    NTSTATUS status;
    ULONG i;

    provider.providerKey = *Product->Provider;
    provider.displayData.name = Product->Name;
    status = FwpmProviderAdd0(Engine, &provider, NULL);
    if (!NT_SUCCESS(status)) {
        return status;
    }

    subLayer.subLayerKey = *Product->SubLayer;
    subLayer.displayData.name = Product->Name;
    subLayer.providerKey = (GUID *)Product->Provider;
    subLayer.weight = Product->Weight;
    status = FwpmSubLayerAdd0(Engine, &subLayer, NULL);

    for (i = 0; NT_SUCCESS(status) && i < Product->LayerCount; i++) {
        status = AddLayer(Engine, Product, &Product->Layers[i]);
    }
    return status;
}

/* All or nothing. The objects go when the session is closed. */
static NTSTATUS OpenProduct(const PRODUCT *Product, HANDLE *Engine)
{
    FWPM_SESSION0 session = {0};
    NTSTATUS status;

    session.displayData.name = Product->Name;
    session.flags = FWPM_SESSION_FLAG_DYNAMIC;
    status = FwpmEngineOpen0(NULL, RPC_C_AUTHN_WINNT, NULL, &session, Engine);
    if (!NT_SUCCESS(status)) {
        *Engine = NULL;
        return status;
    }

    status = FwpmTransactionBegin0(*Engine, 0);
    if (NT_SUCCESS(status)) {
        status = AddAll(*Engine, Product);
        if (NT_SUCCESS(status)) {
            status = FwpmTransactionCommit0(*Engine);
        } else {
            FwpmTransactionAbort0(*Engine);
        }
    }
    if (!NT_SUCCESS(status)) {
        FwpmEngineClose0(*Engine);
        *Engine = NULL;
    }
    return status;
}
