/*
 * What -fsanitize=thread calls. gcc and clang emit these names; nothing here is the sanitizer's, only its interface.
 *
 * Every atomic operation is done sequentially consistent: the engines that run on the machine itself look for what a
 * death, a lie or a refusal breaks. What a weaker order breaks is the explorer's business (hook_memory).
 */
#include "hook.h"

#define SITE __builtin_return_address(0)

const bool hook_sees_atomics = true;

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc)
{
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

#define PLAIN_ACCESS(name, kind, n)                      \
        void __tsan_##name(void *p);                     \
        void __tsan_##name(void *p)                      \
        {                                                \
                hook_access(kind, p, n, false, 0, SITE); \
        }
#define PLAIN(n)                                               \
        PLAIN_ACCESS(read##n, HOOK_LOAD, n)                    \
        PLAIN_ACCESS(write##n, HOOK_STORE, n)                  \
        PLAIN_ACCESS(unaligned_read##n, HOOK_LOAD, n)          \
        PLAIN_ACCESS(unaligned_write##n, HOOK_STORE, n)        \
        PLAIN_ACCESS(volatile_read##n, HOOK_LOAD, n)           \
        PLAIN_ACCESS(volatile_write##n, HOOK_STORE, n)         \
        PLAIN_ACCESS(unaligned_volatile_read##n, HOOK_LOAD, n) \
        PLAIN_ACCESS(unaligned_volatile_write##n, HOOK_STORE, n)
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(void *p, size_t n);
void __tsan_read_range(void *p, size_t n)
{
        hook_access(HOOK_LOAD, p, n, false, 0, SITE);
}

void __tsan_write_range(void *p, size_t n);
void __tsan_write_range(void *p, size_t n)
{
        hook_access(HOOK_STORE, p, n, false, 0, SITE);
}

/* The compiler's copies when it names them itself (clang 15 and later). */
void *hook_memcpy(void *to, const void *from, size_t n);
void *hook_memmove(void *to, const void *from, size_t n);
void *hook_memset(void *to, int byte, size_t n);
void *__tsan_memcpy(void *to, const void *from, size_t n);
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
        return hook_memcpy(to, from, n);
}

void *__tsan_memmove(void *to, const void *from, size_t n);
void *__tsan_memmove(void *to, const void *from, size_t n)
{
        return hook_memmove(to, from, n);
}

void *__tsan_memset(void *to, int byte, size_t n);
void *__tsan_memset(void *to, int byte, size_t n)
{
        return hook_memset(to, byte, n);
}

#define RMW(bits, name, op, builtin)                                                                          \
        u##bits __tsan_atomic##bits##_##name(volatile u##bits *p, u##bits v, int order);                      \
        u##bits __tsan_atomic##bits##_##name(volatile u##bits *p, u##bits v, int order)                       \
        {                                                                                                     \
                if (hook_modelled(p))                                                                         \
                        return (u##bits)hook_memory->rmw((void *)(uintptr_t)p, bits / 8, op, v, order, SITE); \
                hook_access(HOOK_RMW, p, bits / 8, true, order, SITE);                                        \
                return builtin(p, v, __ATOMIC_SEQ_CST);                                                       \
        }
#define CAS(bits, name)                                                                                               \
        int __tsan_atomic##bits##_compare_exchange_##name(volatile u##bits *p, u##bits *expect, u##bits v, int order, \
                                                          int order_failed);                                          \
        int __tsan_atomic##bits##_compare_exchange_##name(volatile u##bits *p, u##bits *expect, u##bits v, int order, \
                                                          int order_failed)                                           \
        {                                                                                                             \
                if (hook_modelled(p)) {                                                                               \
                        u64 e = *expect;                                                                              \
                        bool swapped =                                                                                \
                                hook_memory->cas((void *)(uintptr_t)p, bits / 8, &e, v, order, order_failed, SITE);   \
                        *expect = (u##bits)e;                                                                         \
                        return swapped;                                                                               \
                }                                                                                                     \
                hook_access(HOOK_RMW, p, bits / 8, true, order, SITE);                                                \
                return __atomic_compare_exchange_n(p, expect, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);              \
        }
#define ATOMIC(bits)                                                                                                  \
        u##bits __tsan_atomic##bits##_load(const volatile u##bits *p, int order);                                     \
        u##bits __tsan_atomic##bits##_load(const volatile u##bits *p, int order)                                      \
        {                                                                                                             \
                if (hook_modelled(p))                                                                                 \
                        return (u##bits)hook_memory->load((void *)(uintptr_t)p, bits / 8, order, SITE);               \
                hook_access(HOOK_LOAD, p, bits / 8, true, order, SITE);                                               \
                return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                          \
        }                                                                                                             \
        void __tsan_atomic##bits##_store(volatile u##bits *p, u##bits v, int order);                                  \
        void __tsan_atomic##bits##_store(volatile u##bits *p, u##bits v, int order)                                   \
        {                                                                                                             \
                if (hook_modelled(p)) {                                                                               \
                        hook_memory->store((void *)(uintptr_t)p, bits / 8, v, order, SITE);                           \
                        return;                                                                                       \
                }                                                                                                     \
                hook_access(HOOK_STORE, p, bits / 8, true, order, SITE);                                              \
                __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                             \
        }                                                                                                             \
        RMW(bits, exchange, HOOK_OP_XCHG, __atomic_exchange_n)                                                        \
        RMW(bits, fetch_add, HOOK_OP_ADD, __atomic_fetch_add)                                                         \
        RMW(bits, fetch_sub, HOOK_OP_SUB, __atomic_fetch_sub)                                                         \
        RMW(bits, fetch_and, HOOK_OP_AND, __atomic_fetch_and)                                                         \
        RMW(bits, fetch_or, HOOK_OP_OR, __atomic_fetch_or)                                                            \
        RMW(bits, fetch_xor, HOOK_OP_XOR, __atomic_fetch_xor)                                                         \
        RMW(bits, fetch_nand, HOOK_OP_NAND, __atomic_fetch_nand)                                                      \
        CAS(bits, strong)                                                                                             \
        CAS(bits, weak)                                                                                               \
        u##bits __tsan_atomic##bits##_compare_exchange_val(volatile u##bits *p, u##bits expect, u##bits v, int order, \
                                                           int order_failed);                                         \
        u##bits __tsan_atomic##bits##_compare_exchange_val(volatile u##bits *p, u##bits expect, u##bits v, int order, \
                                                           int order_failed)                                          \
        {                                                                                                             \
                __tsan_atomic##bits##_compare_exchange_strong(p, &expect, v, order, order_failed);                    \
                return expect;                                                                                        \
        }
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
        if (hook_memory) {
                hook_memory->fence(order, SITE);
                return;
        }
        hook_access(HOOK_FENCE, NULL, 0, true, order, SITE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
