/* The C runtime's memory functions, which the kernel exports. */
#pragma once

#include <crtdefs.h>

int __cdecl memcmp(const void *_Buf1, const void *_Buf2, size_t _Size);
void *__cdecl memcpy(void *_Dst, const void *_Src, size_t _Size);
void *__cdecl memmove(void *_Dst, const void *_Src, size_t _Size);
void *__cdecl memset(void *_Dst, int _Val, size_t _Size);
