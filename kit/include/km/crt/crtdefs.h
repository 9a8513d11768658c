/* The C runtime's types. */
#pragma once

typedef unsigned __int64 size_t;
typedef unsigned short wchar_t;
