/*
 * hook - every access to shared memory and every system call of the code under proof, as a numbered step.
 *
 * Why: what one process can see of another is shared bytes and kernel objects. So the only places where it matters that
 * a process is killed, that a peer lies or that a call fails are those between two shared accesses or system calls; and
 * these can be counted, and visited one by one.
 *
 * The code under proof is compiled with -fsanitize=thread, which puts a call before every load and store and in the
 * place of every atomic operation and fence, and is linked with this runtime instead of the sanitizer's. A second
 * build, with -fsanitize=address,undefined, uses the sanitizer's own calls in the same way (asan.c).
 *
 * Always true:
 *   H1  Nothing is a step unless the process is armed (hook_arm()). Not armed, the code behaves as in production.
 *   H2  An access is a step if and only if it touches a registered range. Ranges are learned from the calls that make
 *       memory shared (mmap with MAP_SHARED, mremap, shmat); a test may add some of its own, and leave some out.
 *   H3  The handler runs before the access, in the thread that makes it, and is not entered again by what it does.
 *   H4  A copy to or from shared memory is cut into at most HOOK_COPY_PIECES pieces, each a step of its own.
 * Not here: what to do at a step. That is the engines' (../engine).
 *
 * One thread: a party is a process. Code that starts threads is armed in the thread that calls hook_arm() only.
 */
#ifndef PROOF_RUNTIME_HOOK_H
#define PROOF_RUNTIME_HOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct msghdr;

enum {
        HOOK_RANGES = 256,
        HOOK_COPY_PIECES = 8,
};

enum hook_kind {
        HOOK_LOAD,
        HOOK_STORE,
        HOOK_RMW, /* an exchange, a fetch and add, a compare-and-swap: a load and a store at once */
        HOOK_FENCE,
        HOOK_CALL,     /* a system call, or an allocation */
        HOOK_RECEIVED, /* right after a datagram came: `addr` is private memory, with bytes that a peer chose */
};

struct hook_step {
        enum hook_kind kind;
        bool atomic;
        int order; /* the memory order of an atomic operation or fence, as __ATOMIC_RELAXED and its friends say it */
        int call;  /* enum wh_os_call, when kind is HOOK_CALL */
        void *addr;
        size_t len;
        struct hook_range *range; /* NULL but for loads and stores */
        uint64_t number;          /* counts from 0 since hook_arm() */
        void *site;               /* where in the code */
        struct msghdr *msg;       /* HOOK_RECEIVED, of the first piece of a datagram: all that came with it, */
        ssize_t *received;        /* and how many bytes; the handler may change both */
        bool peeked;              /* it stays where it is, and comes again */
};

/* A stretch of shared memory. `dev` and `ino` name the file behind it; both are 0 for anonymous memory. */
struct hook_range {
        uint8_t *at;
        size_t len;
        uint64_t dev, ino;
        int64_t off;
        bool writable;
        bool not_inherited; /* MADV_DONTFORK */
        bool guarded;       /* between two pages that cannot be touched */
        bool immutable;     /* by its seals: whoever made it cannot write there any more */
};

/* Answers 0, or for a HOOK_CALL the negative errno to return in its place. It may never return. */
typedef int hook_handler(const struct hook_step *step);

/* From here on steps are counted from 0 and told to `handler`. */
void hook_arm(hook_handler *handler);
/* Back to normal. Returns how many steps there were. */
uint64_t hook_disarm(void);
uint64_t hook_steps(void);

/* ---- ranges ---- */
void hook_share(void *at, size_t len);
void hook_unshare(const void *at, size_t len);
/* Every range now. They are in no particular order; the array is the runtime's own. */
const struct hook_range *hook_ranges(unsigned *ret_n);
struct hook_range *hook_range_of(const void *at);
/* The same byte in a mapping that can be written, or NULL: how a liar reaches what its victim maps read-only. */
void *hook_writable(void *at);

/* ---- what else a proof wants to know or bend ---- */
/* Ignore MADV_DONTFORK: a victim that is forked from a warmed parent keeps what the library would take away. */
extern bool hook_keep_on_fork;
/* What getpid() answers the code under proof, when not 0: a forked victim that passes for its parent. */
extern pid_t hook_pid;
/* When not 0, randomness is a stream that begins here, so that a case makes the same bytes whenever it runs. */
extern uint64_t hook_random_seed;
/* Fill new allocations (but calloc) with this byte, when not 0. */
extern uint8_t hook_fill_allocations;
/* Looked at for every sendmsg(), when set: the bytes that leave the process. */
extern void (*hook_on_send)(const void *bytes, size_t len);
/* Allocations minus releases since the process began, as far as the code under proof made them. */
int64_t hook_live_allocations(void);

/* Does this build know which accesses are atomic? */
extern const bool hook_sees_atomics;

/* ---- for tsan.c, asan.c and the explorer ---- */
extern bool hook_armed_;
void hook_access_(enum hook_kind kind, void *addr, size_t len, bool atomic, int order, void *site);

static inline void hook_access(enum hook_kind kind, const volatile void *addr, size_t len, bool atomic, int order,
                               void *site)
{
        if (__builtin_expect(hook_armed_, 0))
                hook_access_(kind, (void *)(uintptr_t)addr, len, atomic, order, site);
}

/*
 * The memory of the explorer: when set, atomic operations on registered ranges are done by it rather than by the
 * machine, so that a load may return an older value. `len` is 1, 2, 4 or 8. rmw() answers the old value; `op` is one of
 * HOOK_OP_*. For compare-and-swap, *expect is compared and receives the old value; the answer is whether it swapped.
 */
enum hook_op { HOOK_OP_XCHG, HOOK_OP_ADD, HOOK_OP_SUB, HOOK_OP_AND, HOOK_OP_OR, HOOK_OP_XOR, HOOK_OP_NAND };
struct hook_memory {
        uint64_t (*load)(void *addr, unsigned len, int order, void *site);
        void (*store)(void *addr, unsigned len, uint64_t v, int order, void *site);
        uint64_t (*rmw)(void *addr, unsigned len, enum hook_op op, uint64_t v, int order, void *site);
        bool (*cas)(void *addr, unsigned len, uint64_t *expect, uint64_t v, int order, int order_failed, void *site);
        void (*fence)(int order, void *site);
};
extern const struct hook_memory *hook_memory;
/*
 * When set, no call that waits for descriptors sleeps in the kernel: it looks, and asks this what to do where nothing
 * is ready. True: look again; false: a signal came. The other is told that something was ready.
 */
extern bool (*hook_on_wait)(void);
extern void (*hook_on_ready)(void);
static inline bool hook_modelled(const volatile void *addr)
{
        return __builtin_expect(hook_memory != NULL, 0) && hook_range_of((const void *)(uintptr_t)addr) != NULL;
}

#endif
