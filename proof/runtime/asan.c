/*
 * The same hooks in a build with the address and undefined-behaviour sanitizers. gcc can be told to check every access
 * by a call (asan-instrumentation-with-call-threshold=0); ours is found first, makes the step, and hands on to the
 * sanitizer's. An atomic operation is checked before it is done, so what a handler overwrites is what it sees; but
 * which accesses are atomic, and of what order, cannot be told here, nor fences. Those belong to the other build.
 */
#include "hook.h"

#include <dlfcn.h>

#define SITE __builtin_return_address(0)

const bool hook_sees_atomics = false;

#define ACCESS(name, kind, n)                                                  \
        void __asan_##name(uintptr_t p);                                       \
        void __asan_##name(uintptr_t p)                                        \
        {                                                                      \
                static void (*theirs)(uintptr_t);                              \
                if (!theirs)                                                   \
                        *(void **)&theirs = dlsym(RTLD_NEXT, "__asan_" #name); \
                hook_access(kind, (void *)p, n, false, 0, SITE);               \
                theirs(p);                                                     \
        }
#define BOTH(n)                       \
        ACCESS(load##n, HOOK_LOAD, n) \
        ACCESS(store##n, HOOK_STORE, n)
BOTH(1)
BOTH(2)
BOTH(4)
BOTH(8)
BOTH(16)

#define RANGE(name, kind)                                                      \
        void __asan_##name(uintptr_t p, size_t n);                             \
        void __asan_##name(uintptr_t p, size_t n)                              \
        {                                                                      \
                static void (*theirs)(uintptr_t, size_t);                      \
                if (!theirs)                                                   \
                        *(void **)&theirs = dlsym(RTLD_NEXT, "__asan_" #name); \
                hook_access(kind, (void *)p, n, false, 0, SITE);               \
                theirs(p, n);                                                  \
        }
RANGE(loadN, HOOK_LOAD)
RANGE(storeN, HOOK_STORE)

/* What the victims need of the sanitizer: no leak hunt at every exit, and an exit status that tells it from ours. */
/* Exported, so that the sanitizer in its shared library finds them. */
__attribute__((visibility("default"))) const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
        return "detect_leaks=0:exitcode=66:allocator_may_return_null=1:handle_segv=0:handle_sigbus=0:handle_abort=0:"
               "print_legend=0";
}

__attribute__((visibility("default"))) const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
        return "halt_on_error=1:exitcode=66:print_stacktrace=0";
}
