/* KMDF 1.15. Whatever does not differ from 1.31 is taken from there. The framework gives the address of its table. */
#pragma once

#define WdfFunctions WdfFunctions_01015

typedef VOID (*WDFFUNC)(VOID);
extern const WDFFUNC *WdfFunctions;
extern WDFFUNC WdfDriverMiniportUnloadOverride;

#include "../1.31/wdftypes.h"
#include "../1.31/wdfglobals.h"
#include "../1.31/wdffuncenum.h"
#include "../1.31/wdfobject.h"
#include "../1.31/wdfsync.h"
#include "../1.31/wdfdriver.h"
#include "../1.31/wdfmemory.h"
#include "../1.31/wdffileobject.h"
#include "../1.31/wdfdevice.h"
#include "../1.31/wdfworkitem.h"
#include "../1.31/wdfrequest.h"
#include "../1.31/wdfio.h"
#include "../1.31/wdfcontrol.h"
#include "../1.31/wdfinline.h"
