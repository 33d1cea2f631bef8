/*
 * record - writes what a program asks of malloc() into a trace that `wharf heap replay` reads (tools/trace/trace.h).
 *
 *      WHARF_RECORD=/tmp/trace.%p LD_PRELOAD=libwharf-record.so PROGRAM ...
 *
 * "%p" becomes the number of the process. An existing file is left alone and its process not recorded, so that without
 * "%p" the first of several programs is the one recorded. A child that only forked is not recorded. A program that
 * ends with _exit() or by a signal loses the last requests.
 *
 * It takes the place of the C library's functions and calls those under their other names (glibc's __libc_...), so it
 * needs no start-up of its own and never asks for memory itself: its table lives in pages of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

/* Declared here because no header is meant to be included by those who define them. */
EXPORT void *malloc(size_t bytes);
EXPORT void *calloc(size_t n, size_t bytes);
EXPORT void *realloc(void *p, size_t bytes);
EXPORT void free(void *p);
EXPORT void *memalign(size_t align, size_t bytes);
EXPORT void *aligned_alloc(size_t align, size_t bytes);
EXPORT int posix_memalign(void **ret, size_t align, size_t bytes);
EXPORT void *valloc(size_t bytes);

/* All of it guarded by `lock`. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int fd = -1;
static bool tried; /* to open the file */
static uint8_t out[1 << 16];
static size_t out_len;

/* Address to block number: open addressing, a power of two of slots; a block that went leaves its key as `GONE`. */
struct slot {
        uintptr_t key;
        uint32_t block;
};
#define GONE ((uintptr_t)1)
static struct slot *slots;
static size_t n_slots, n_filled;
static uint32_t *freed; /* numbers to be used again, last freed on top; as many as n_slots */
static uint32_t n_freed, n_blocks;

static void stop(void)
{
        if (fd >= 0)
                close(fd);
        fd = -1;
}

static void flush(void)
{
        for (size_t done = 0; done < out_len && fd >= 0;) {
                ssize_t n = write(fd, out + done, out_len - done);
                if (n > 0)
                        done += (size_t)n;
                else if (errno != EINTR)
                        stop();
        }
        out_len = 0;
}

static void put_number(uint64_t v)
{
        if (out_len + 10 > sizeof out)
                flush();
        for (; v > 127; v >>= 7)
                out[out_len++] = (uint8_t)(v | 128);
        out[out_len++] = (uint8_t)v;
}

static void *pages(size_t bytes)
{
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : p;
}

static struct slot *slot_of(uintptr_t key)
{
        size_t i = (key >> 4) * 0x9e3779b97f4a7c15u >> 20;
        for (;; i++) {
                struct slot *s = &slots[i & (n_slots - 1)];
                if (!s->key || s->key == key)
                        return s;
        }
}

static bool grow(void)
{
        struct slot *old = slots;
        uint32_t *old_freed = freed;
        size_t old_n = n_slots, live = n_blocks - n_freed;
        size_t n = !n_slots ? 1 << 14 : live * 4 > n_slots ? n_slots * 2 : n_slots; /* the same: it was full of GONE */
        struct slot *fresh = pages(n * sizeof *fresh);
        uint32_t *fresh_freed = pages(n * sizeof *fresh_freed);
        if (!fresh || !fresh_freed)
                return false;
        slots = fresh;
        n_slots = n;
        n_filled = 0;
        for (size_t i = 0; i < old_n; i++)
                if (old[i].key > GONE) {
                        *slot_of(old[i].key) = old[i];
                        n_filled++;
                }
        if (old) {
                memcpy(fresh_freed, old_freed, n_freed * sizeof *freed);
                munmap(old, old_n * sizeof *old);
                munmap(old_freed, old_n * sizeof *old_freed);
        }
        freed = fresh_freed;
        return true;
}

static void in_child(void)
{
        stop();
        out_len = 0;
        pthread_mutex_init(&lock, NULL);
}

static void before_fork(void)
{
        pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
        pthread_mutex_unlock(&lock);
}

/* The file, at the first request. The lock is held; what is called here must not allocate. */
static void open_file(void)
{
        tried = true;
        const char *want = getenv("WHARF_RECORD");
        char path[4096];
        size_t n = 0;
        if (!want)
                return;
        for (; *want && n < sizeof path - 16; want++)
                if (want[0] == '%' && want[1] == 'p') {
                        char digits[16];
                        unsigned d = 0;
                        for (unsigned pid = (unsigned)getpid(); pid; pid /= 10)
                                digits[d++] = (char)('0' + pid % 10);
                        while (d)
                                path[n++] = digits[--d];
                        want++;
                } else {
                        path[n++] = *want;
                }
        path[n] = 0;
        int f = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (f < 0)
                return;
        /* Out of the way of programs that close or name the low numbers. */
        fd = fcntl(f, F_DUPFD_CLOEXEC, 200);
        if (fd < 0)
                fd = f;
        else
                close(f);
        if (!grow())
                stop();
        memcpy(out, "whtrace1", out_len = 8);
}

__attribute__((constructor)) static void begin(void)
{
        pthread_atfork(before_fork, after_fork, in_child);
}

__attribute__((destructor)) static void end(void)
{
        pthread_mutex_lock(&lock);
        flush();
        stop();
        pthread_mutex_unlock(&lock);
}

static bool recording(void)
{
        if (!tried)
                open_file();
        return fd >= 0;
}

/* The lock is held by the callers of these three. */
static void note_alloc(void *p, size_t bytes)
{
        if (n_filled * 2 >= n_slots && !grow()) {
                stop();
                return;
        }
        struct slot *s = slot_of((uintptr_t)p);
        n_filled += !s->key;
        *s = (struct slot){(uintptr_t)p, n_freed ? freed[--n_freed] : n_blocks++};
        put_number((uint64_t)bytes * 4);
}

static void note_free(void *p)
{
        struct slot *s = slot_of((uintptr_t)p);
        if (!s->key)
                return; /* from before we recorded */
        s->key = GONE;
        freed[n_freed++] = s->block;
        put_number((uint64_t)s->block * 4 + 1);
}

static void note_resize(void *p, void *q, size_t bytes)
{
        struct slot *s = slot_of((uintptr_t)p);
        if (!s->key) {
                note_alloc(q, bytes);
                return;
        }
        uint32_t block = s->block;
        put_number((uint64_t)block * 4 + 2);
        put_number(bytes);
        s->key = GONE;
        if (n_filled * 2 >= n_slots && !grow()) {
                stop();
                return;
        }
        s = slot_of((uintptr_t)q);
        n_filled += !s->key;
        *s = (struct slot){(uintptr_t)q, block};
}

static void *noted(void *p, size_t bytes)
{
        if (p) {
                int saved = errno;
                pthread_mutex_lock(&lock);
                if (recording())
                        note_alloc(p, bytes);
                pthread_mutex_unlock(&lock);
                errno = saved;
        }
        return p;
}

void *malloc(size_t bytes)
{
        return noted(__libc_malloc(bytes), bytes);
}

void *calloc(size_t n, size_t bytes)
{
        return noted(__libc_calloc(n, bytes), n * bytes);
}

void *memalign(size_t align, size_t bytes)
{
        return noted(__libc_memalign(align, bytes), bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
        return noted(__libc_memalign(align, bytes), bytes);
}

void *valloc(size_t bytes)
{
        return noted(__libc_memalign(4096, bytes), bytes);
}

int posix_memalign(void **ret, size_t align, size_t bytes)
{
        if (align % sizeof(void *) || !align || align & (align - 1))
                return EINVAL;
        int saved = errno;
        void *p = noted(__libc_memalign(align, bytes), bytes);
        errno = saved;
        if (!p)
                return ENOMEM;
        *ret = p;
        return 0;
}

void free(void *p)
{
        if (!p)
                return;
        int saved = errno;
        pthread_mutex_lock(&lock); /* until it is free: before that, nobody else can be given this address */
        if (recording())
                note_free(p);
        __libc_free(p);
        pthread_mutex_unlock(&lock);
        errno = saved;
}

void *realloc(void *p, size_t bytes)
{
        if (!p)
                return malloc(bytes);
        if (!bytes) {
                free(p);
                return NULL;
        }
        pthread_mutex_lock(&lock);
        void *q = __libc_realloc(p, bytes);
        int saved = errno;
        if (q && recording())
                note_resize(p, q, bytes);
        pthread_mutex_unlock(&lock);
        errno = saved;
        return q;
}
