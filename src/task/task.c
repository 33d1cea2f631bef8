#include "task/task.h"

#include "base/opts.h"
#include "base/trace.h"
#include "os/os.h"
#include "task/ids.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
        SCRATCH_KEPT = 4,         /* more threads than that seldom read frames at one moment */
        FLYING_LEAST = 8,         /* rights at once to whoever has none on their way, however many others have */
        ONCE_BYTES_MAX = 1 << 30, /* in memories that send-once rights have taken, and that are unread */
        ANSWERS_MAX = 65536,      /* calls received and not answered: the default */
};
#define REPLY_BYTES_MAX ((uint64_t)1 << 30)  /* of one reply: the default, as that of a port for a message, */
#define REPLY_BYTES_MOST ((uint64_t)1 << 40) /* and the most */

struct wh_scratch {
        struct wh_scratch *next;
};

void *wh_task_scratch_take(wharf_task *t)
{
        wh_lock(&t->lock);
        struct wh_scratch *s = t->scratch;
        if (s) {
                t->scratch = s->next;
                t->n_scratch--;
        }
        wh_unlock(&t->lock);
        return s ? (void *)s : wh_os_malloc(WH_SCRATCH_BYTES);
}

void wh_task_scratch_give(wharf_task *t, void *scratch)
{
        struct wh_scratch *s = scratch;
        wh_lock(&t->lock);
        bool keep = t->n_scratch < SCRATCH_KEPT;
        if (keep) {
                s->next = t->scratch;
                t->scratch = s;
                t->n_scratch++;
        }
        wh_unlock(&t->lock);
        if (!keep)
                free(s);
}

/* Two descriptors that are always readable: P4. */
static int wake_new(int ret[2])
{
        int fd = wh_os_eventfd();
        if (fd < 0)
                return wh_trace(fd);
        int r = wh_os_eventfd_set(fd), other = -1;
        if (r == 0)
                r = other = wh_os_dup(fd);
        if (r < 0) {
                wh_os_close(fd);
                return wh_trace(r);
        }
        wh_os_fd_private(fd);
        wh_os_fd_private(other);
        ret[0] = fd;
        ret[1] = other;
        return 0;
}

WHARF_API int wharf_task_open(const struct wharf_task_opts *opts, wharf_task **ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct wharf_task_opts o = {.size = sizeof o};
        if (opts && !wh_opts_take(&o, sizeof o, sizeof o.size, opts, opts->size))
                return wh_fail(-EINVAL, "wharf_task_opts.size is %u, expected %zu, or more that is 0", opts->size,
                               sizeof o);
        if (o.reply_bytes_max > REPLY_BYTES_MOST)
                return wh_fail(-EINVAL, "wharf_task_opts.reply_bytes_max is %" PRIu64 ", at most 1 TiB",
                               o.reply_bytes_max);

        wharf_task *t = wh_os_calloc(1, sizeof *t);
        if (!t)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        void *page, *scratch = wh_os_malloc(WH_SCRATCH_BYTES);
        int r = scratch ? wh_os_mmap(NULL, WH_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &page)
                        : -ENOMEM;
        if (r == 0) {
                r = wh_os_madvise(page, WH_PAGE, MADV_WIPEONFORK);
                if (r == 0)
                        r = wake_new(t->wake);
                if (r < 0)
                        wh_os_munmap(page, WH_PAGE);
        }
        if (r < 0) {
                free(scratch);
                free(t);
                return wh_fail(wh_trace(r), NULL);
        }
        wh_task_scratch_give(t, scratch);
        atomic_store_explicit((_Atomic uint32_t *)page, 1, memory_order_relaxed);
        t->ours = page;
        wh_list_init(&t->ids);
        wh_list_init(&t->waiting);
        wh_list_init(&t->lingering);
        wh_list_init(&t->gone);
        wh_ids_look();
        (void)wh_os_kernel_since(0, 0); /* while it may be asked */
        t->pid = wh_os_getpid();
        t->accounts.self = wh_os_geteuid();
        if (!wh_id_known(t->accounts.self))
                t->accounts.self = WH_QUOTA_SELF; /* nobody that comes is known to be the same */
        t->accounts.least[WH_SHARE_TASK_LINKS] = 1;
        t->accounts.least[WH_SHARE_RIGHTS] = WH_FDS_MAX;
        t->accounts.least[WH_SHARE_FLYING] = FLYING_LEAST;
        t->accounts.max[WH_SHARE_REPLIES] = ONCE_BYTES_MAX;
        t->accounts.max[WH_SHARE_ANSWERS] = o.answers_max ? o.answers_max : ANSWERS_MAX;
        t->reply_bytes_max = o.reply_bytes_max ? o.reply_bytes_max : REPLY_BYTES_MAX;
        (void)wh_task_limits(t); /* nobody waits for more yet */
        t->cpus = wh_os_cpus();
        t->ticks_per_us = wh_os_ticks_per_us();
        t->spin_us_max = o.spin_us_max ? o.spin_us_max : 50;
        if (o.spin_us_max == WHARF_NO_SPIN || (t->cpus == 1 && o.spin_us_max != WHARF_SPIN))
                t->spin_us_max = 0; /* on one core the other side runs only while we sleep */
        *ret = t;
        return 0;
}

bool wh_task_limits(wharf_task *t)
{
        uint64_t n;
        if (wh_os_rlimit(RLIMIT_NOFILE, &n) < 0)
                n = 1024;
        n = n < 1u << 30 ? n : 1u << 30;
        const bool more = wh_accounts_limit(&t->accounts, WH_SHARE_TASK_LINKS, n / 2);
        wh_accounts_limit(&t->accounts, WH_SHARE_RIGHTS, n / 4 > WH_FDS_MAX ? n / 4 : WH_FDS_MAX);
        wh_accounts_limit(&t->accounts, WH_SHARE_LANES, n / 4);
        wh_accounts_limit(&t->accounts, WH_SHARE_FLYING, n / 8 > WH_FDS_MAX ? n / 8 : WH_FDS_MAX);
        return more;
}

void wh_task_free(wharf_task *t)
{
        wh_table_done(&t->names);
        wh_table_done(&t->links);
        for (unsigned k = 0; k < WH_KINDS; k++)
                for (struct wh_object *o = t->pool[k], *next; o; o = next) {
                        next = o->next_free;
                        free(o);
                }
        for (struct wh_scratch *s = t->scratch, *next; s; s = next) {
                next = s->next;
                free(s);
        }
        wh_accounts_done(&t->accounts);
        wh_waits_done(&t->waits, wh_task_ours(t));
        wh_os_munmap((void *)(uintptr_t)t->ours, WH_PAGE);
        free(t);
}

void *wh_task_take(wharf_task *t, uint8_t kind, size_t size, size_t keep)
{
        wh_lock(&t->lock);
        struct wh_object *o = t->pool[kind];
        if (o)
                t->pool[kind] = o->next_free;
        wh_unlock(&t->lock);
        if (o) {
                memset((char *)o + keep, 0, size - keep);
        } else if (!(o = wh_os_calloc(1, size))) {
                return NULL;
        }
        o->kind = kind;
        return o;
}

void wh_task_give(wharf_task *t, struct wh_object *o)
{
        wh_lock(&t->lock);
        o->next_free = t->pool[o->kind];
        t->pool[o->kind] = o;
        wh_unlock(&t->lock);
}

void *wh_task_service(wharf_task *t)
{
        wh_lock(&t->lock);
        void *p = t->service;
        wh_unlock(&t->lock);
        return p;
}

void wh_task_service_set(wharf_task *t, void *p, void (*free_fn)(void *))
{
        wh_lock(&t->lock);
        t->service = p;
        t->service_free = free_fn;
        wh_unlock(&t->lock);
}

WHARF_API int64_t wharf_now_ns(void)
{
        return wh_os_now_ns();
}

WHARF_API int64_t wharf_in_ms(int64_t ms)
{
        int64_t now = wh_os_now_ns(), at;
        if (__builtin_mul_overflow(ms, 1000000, &at) || __builtin_add_overflow(at, now, &at))
                return ms < 0 ? INT64_MIN : WHARF_FOREVER;
        return at ? at : -1; /* 0 is no point in time */
}

WHARF_API const char *wharf_version(void)
{
        return WHARF_VERSION;
}
