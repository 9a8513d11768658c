/*
 * BufferOverflowFastFailK.lib: what the compiler's stack cookies need. The loader replaces the
 * cookie's default value when it finds the image's load configuration; nothing in a Rust driver is
 * compiled with stack cookies.
 */
#include <ntdef.h>

#define FAST_FAIL_STACK_COOKIE_CHECK_FAILURE 2

ULONG_PTR __security_cookie = 0x00002B992DDFA232;

void __security_check_cookie(ULONG_PTR cookie)
{
    if (cookie == __security_cookie) {
        return;
    }
#if defined(_ARM64_)
    register ULONG code __asm__("w0") = FAST_FAIL_STACK_COOKIE_CHECK_FAILURE;
    __asm__ volatile("brk #0xF003" : : "r"(code));
#else
    __asm__ volatile("int $0x29" : : "c"(FAST_FAIL_STACK_COOKIE_CHECK_FAILURE));
#endif
}
