/* KMDF 1.31, as far as a control device's driver uses it. */
#pragma once

/* The symbol carries the version, so that objects built for another one don't link. */
#define WdfFunctions WdfFunctions_01031

typedef VOID (*WDFFUNC)(VOID);
extern const WDFFUNC *WdfFunctions;
extern WDFFUNC WdfDriverMiniportUnloadOverride;

#include "wdftypes.h"
#include "wdfglobals.h"
#include "wdffuncenum.h"
#include "wdfobject.h"
#include "wdfsync.h"
#include "wdfdriver.h"
#include "wdfmemory.h"
#include "wdffileobject.h"
#include "wdfdevice.h"
#include "wdfcollection.h"
#include "wdfdpc.h"
#include "wdftimer.h"
#include "wdfworkitem.h"
#include "wdfrequest.h"
#include "wdfio.h"
#include "wdfcontrol.h"
#include "wdfstring.h"
#include "wdfregistry.h"
#include "wdfinline.h"
