/* The control device of a driver that has no hardware, with one queue for its requests. */
#pragma once

#include <ntifs.h>
#include <wdf.h>

static NTSTATUS MakeControlDevice(
    WDFDRIVER Driver, PCUNICODE_STRING Name, PCUNICODE_STRING Link,
    PFN_WDF_IO_QUEUE_IO_DEVICE_CONTROL Control, WDFDEVICE *Device)
{
    /* System and administrators. */
    static const UNICODE_STRING security = RTL_CONSTANT_STRING(L"D:P(A;;GA;;;SY)(A;;GA;;;BA)");
    WDF_IO_QUEUE_CONFIG config;
    WDFQUEUE queue;
    NTSTATUS status;
    PWDFDEVICE_INIT init = WdfControlDeviceInitAllocate(Driver, &security);

    if (init == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    WdfDeviceInitSetDeviceType(init, FILE_DEVICE_NETWORK);
    WdfDeviceInitSetCharacteristics(init, FILE_DEVICE_SECURE_OPEN, FALSE);
    status = WdfDeviceInitAssignName(init, Name);
    if (NT_SUCCESS(status)) {
        status = WdfDeviceCreate(&init, WDF_NO_OBJECT_ATTRIBUTES, Device);
    }
    if (!NT_SUCCESS(status)) {
        WdfDeviceInitFree(init);
        return status;
    }
    status = WdfDeviceCreateSymbolicLink(*Device, Link);
    if (NT_SUCCESS(status)) {
        WDF_IO_QUEUE_CONFIG_INIT_DEFAULT_QUEUE(&config, WdfIoQueueDispatchParallel);
        config.EvtIoDeviceControl = Control;
        status = WdfIoQueueCreate(*Device, &config, WDF_NO_OBJECT_ATTRIBUTES, &queue);
    }
    if (!NT_SUCCESS(status)) {
        WdfObjectDelete(*Device);
        *Device = NULL;
    }
    return status;
}

static NTSTATUS MakeDriver(
    PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath, PFN_WDF_DRIVER_UNLOAD Unload,
    ULONG Tag, WDFDRIVER *Driver)
{
    WDF_DRIVER_CONFIG config;

    WDF_DRIVER_CONFIG_INIT(&config, WDF_NO_EVENT_CALLBACK);
    config.DriverInitFlags = WdfDriverInitNonPnpDriver;
    config.EvtDriverUnload = Unload;
    config.DriverPoolTag = Tag;
    return WdfDriverCreate(DriverObject, RegistryPath, WDF_NO_OBJECT_ATTRIBUTES, &config, Driver);
}
