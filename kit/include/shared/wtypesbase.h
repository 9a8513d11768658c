/* Win32's names of basic types. */
#pragma once

#include <ntdef.h>

#define CALLBACK __stdcall

typedef int BOOL;
typedef int INT;
typedef unsigned int UINT;
typedef unsigned long DWORD;
