/*
 * fail - the world refuses: system call or allocation number n fails, for every n and every plausible errno, once
 * (`once:N:ERRNO`) and from n on (`from:N:ERRNO`), until nothing is left to refuse.
 *
 * EINTR asks for another try and may get one, so that comes four times, not for ever.
 *
 * After a refusal the call answers either success, if it found another way, or a clear error: the one injected, or one
 * that the operation names. Then nothing has changed: the same descriptors and shared memory, no allocation more, the
 * operation's own check; and the same call succeeds as soon as the world relents.
 */
#include "case.h"

#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ERRNOS_MAX = 6, ERRNO_MAX = 256 };

/*
 * What each call is known to fail with on a healthy machine. None: it cannot fail there. munmap(), madvise() and
 * shmctl(), by which a segment's maker removes it, are left out: refusing them only shows that a destructor cannot
 * answer.
 */
static const int plausible[WH_OS_CALL_COUNT][ERRNOS_MAX] = {
        [WH_OS_socketpair] = {EMFILE, ENFILE, ENOMEM},
        [WH_OS_socket] = {EMFILE, ENOBUFS, EACCES},
        [WH_OS_bind] = {EADDRINUSE, EACCES, ENOENT, EROFS},
        [WH_OS_listen] = {EADDRINUSE},
        [WH_OS_accept] = {EAGAIN, EMFILE, ECONNABORTED, EINTR},
        [WH_OS_connect] = {ECONNREFUSED, EAGAIN, EACCES, ENOENT},
        [WH_OS_sendmsg] = {EAGAIN, EPIPE, ENOBUFS, EINTR, ETOOMANYREFS},
        /* Never waiting, so never interrupted; that nothing is there, or nobody, it says itself when it is so. */
        [WH_OS_recvmsg] = {ENOMEM, ENOBUFS},
        [WH_OS_setsockopt] = {ENOMEM},
        [WH_OS_poll] = {EINTR, ENOMEM},
        [WH_OS_epoll_create] = {EMFILE, ENOMEM},
        [WH_OS_epoll_ctl] = {ENOSPC, ENOMEM},
        [WH_OS_epoll_wait] = {EINTR},
        [WH_OS_eventfd] = {EMFILE, ENFILE},
        [WH_OS_read] = {EINTR, EAGAIN, EIO},
        [WH_OS_write] = {EINTR, EAGAIN, ENOSPC},
        [WH_OS_memfd_create] = {EMFILE, ENOMEM, EPERM},
        [WH_OS_ftruncate] = {ENOMEM, EFBIG},
        [WH_OS_fallocate] = {ENOSPC, EINTR, ENOMEM},
        [WH_OS_seal] = {EBUSY, EPERM},
        [WH_OS_get_seals] = {EINVAL},
        [WH_OS_fstat] = {EOVERFLOW},
        [WH_OS_fstatfs] = {ENOSYS},
        [WH_OS_cachestat] = {EPERM, ENOSYS},
        [WH_OS_fchmod] = {EPERM},
        [WH_OS_fchown] = {EPERM},
        [WH_OS_mmap] = {ENOMEM, EPERM, EAGAIN},
        [WH_OS_mprotect] = {ENOMEM, EACCES},
        [WH_OS_mremap] = {ENOMEM, EAGAIN},
        [WH_OS_dup] = {EMFILE},
        [WH_OS_open] = {EMFILE, EACCES, ENOENT},
        [WH_OS_mkdir] = {EACCES, ENOSPC},
        [WH_OS_rename] = {EACCES, ENOSPC},
        [WH_OS_flock] = {EINTR, EAGAIN, ENOLCK},
        [WH_OS_pidfd_open] = {EMFILE, ESRCH, ENOSYS},
        [WH_OS_pidfd_send_signal] = {ESRCH, EPERM},
        [WH_OS_kill] = {ESRCH, EPERM},
        [WH_OS_futex_wait] = {EINTR, EAGAIN},
        [WH_OS_getrandom] = {EINTR},
        [WH_OS_malloc] = {ENOMEM},
        [WH_OS_process_vm_readv] = {EPERM, ESRCH, EFAULT},
        [WH_OS_process_vm_writev] = {EPERM, ESRCH, EFAULT},
        [WH_OS_spawn] = {EAGAIN, ENOMEM},
        [WH_OS_getrlimit] = {EPERM},
        [WH_OS_shmget] = {ENOSPC, ENOMEM, EACCES},
        [WH_OS_shmat] = {ENOMEM, EACCES},
        [WH_OS_readdir] = {ENOMEM},
        [WH_OS_readlink] = {EACCES},
};

struct plan {
        uint64_t n;
        int err;
        bool from_n_on;
};
#define NEVER UINT64_MAX

static struct {
        struct proof *p;
        const struct plan *plan;
        uint64_t calls;
        bool told[ERRNO_MAX]; /* which errnos were injected in this case */
} armed;

static int on_step(const struct hook_step *s)
{
        if (s->kind != HOOK_CALL)
                return 0;
        struct proof *p = armed.p;
        if (p->op->believes && (s->call == WH_OS_get_seals || s->call == WH_OS_fstat || s->call == WH_OS_fstatfs))
                return 0;
        uint64_t n = armed.calls++;
        if (armed.plan->n == NEVER) {
                if (p->report_->n_trace < PROOF_TRACE)
                        p->report_->trace[p->report_->n_trace++] = (struct proof_traced){
                                .kind = HOOK_CALL, .call = (uint16_t)s->call, .site = (uint64_t)(uintptr_t)s->site};
                return 0;
        }
        if (n < armed.plan->n || (n > armed.plan->n && !armed.plan->from_n_on))
                return 0;
        int err = 0;
        /* The same errno where it is plausible: with several processes, call n may be another one in this case. From n
         * on else the first that is. */
        const int *list = plausible[s->call];
        if (n > armed.plan->n)
                err = list[0];
        for (unsigned i = 0; i < ERRNOS_MAX; i++)
                if (list[i] == armed.plan->err)
                        err = list[i];
        if (err == EINTR && n > armed.plan->n + 3)
                err = 0;
        if (p->op->peers_live && (err == EPIPE || (err == EAGAIN && s->call == WH_OS_accept)))
                err = 0;
        /* Nor can a pair that was just made be full, but by whoever made it. */
        if (p->op->believes && ((s->call == WH_OS_mmap && err == EPERM) || (s->call == WH_OS_sendmsg && err == EAGAIN)))
                err = 0;
        if (!err)
                return 0;
        p->injected = err;
        armed.told[err] = true;
        if (s->call == WH_OS_mmap && err == EAGAIN)
                armed.told[ENOMEM] = true; /* which is how the library says it */
        if (n == armed.plan->n)
                p->report_->refused = (uint16_t)s->call;
        p->report_->injected = true;
        return -err;
}

static bool named(const struct proof_op *op, int r)
{
        for (const int *e = op->errors; e && *e; e++)
                if (*e == r)
                        return true;
        return false;
}

static void fail_case(struct proof *p, const void *arg)
{
        const struct plan *plan = arg;
        const struct proof_op *op = p->op;
        if (op->setup)
                op->setup(p);
        if (op->start)
                op->start(p);
        struct proof_world before, after;
        proof_world_look(&before);
        int64_t live = hook_live_allocations();
        armed.p = p;
        armed.plan = plan;
        hook_arm(on_step);
        p->result = op->victim(p);
        hook_disarm();
        p->report_->steps = armed.calls;
        if (p->result < 0) {
                if (!p->injected)
                        proof_fail(p, op->name, 0, "answers %s although nothing was refused",
                                   strerrorname_np(-p->result));
                if ((-p->result >= ERRNO_MAX || !armed.told[-p->result]) && !named(op, p->result))
                        proof_fail(p, op->name, 0, "answers %s when told %s", strerrorname_np(-p->result),
                                   strerrorname_np(p->injected));
                proof_world_look(&after);
                if (op->progress) /* one descriptor may have taken the place of another; but none is there more */
                        after.fds_hash = before.fds_hash;
                if ((op->progress && after.fds < before.fds) ||
                    (after.fds > before.fds && after.fds - before.fds <= op->keeps_fds))
                        after.fds = before.fds;
                if (after.shared_bytes > before.shared_bytes &&
                    after.shared_bytes - before.shared_bytes <= op->keeps_bytes)
                        after.shared_bytes = before.shared_bytes;
                if (op->unshares && after.shared_bytes < before.shared_bytes)
                        after.shared_bytes = before.shared_bytes;
                const char *left = proof_world_differs(&before, &after);
                if (left)
                        proof_fail(p, op->name, 0, "a call that failed: %s", left);
                if (op->unchanged)
                        op->unchanged(p);
                /* It may have kept an allocation to use it next time; so next time it must not need another. */
                if (hook_live_allocations() != live) {
                        live = hook_live_allocations();
                        armed.calls = 0;
                        hook_arm(on_step);
                        p->result = op->victim(p);
                        hook_disarm();
                        if (p->result < 0 && hook_live_allocations() > live && !op->progress)
                                proof_fail(p, op->name, 0, "every call that fails keeps %lld allocations",
                                           (long long)(hook_live_allocations() - live));
                }
        }
        if (p->result < 0) {
                p->injected = 0;
                p->result = op->victim(p);
                if (p->result < 0 && !(op->progress && named(op, p->result)))
                        proof_fail(p, op->name, 0, "answers %s when tried again and nothing is refused",
                                   strerrorname_np(-p->result));
        }
        if (op->audit)
                op->audit(p);
        if (op->teardown)
                op->teardown(p);
}

static bool refuse(const struct proof_args *args, const struct proof_op *op, const struct plan *plan,
                   struct proof_figures *sum)
{
        char name[64] = "none";
        if (plan->n != NEVER)
                snprintf(name, sizeof name, "%s:%" PRIu64 ":%d", plan->from_n_on ? "from" : "once", plan->n, plan->err);
        bool ok = proof_case(args, "fail", op, name, fail_case, plan, sum);
        sum->values += proof_reported()->injected;
        if (args->verbose)
                printf("%s %s: %s %s\n", op->name, name, wh_os_call_name(proof_reported()->refused),
                       ok ? "passed" : "FAILED");
        return ok;
}

void proof_fail_calls(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum)
{
        sum->operations++;
        struct plan plan = {.n = NEVER};
        if (args->only_case && strcmp(args->only_case, "none")) {
                plan.from_n_on = !strncmp(args->only_case, "from:", 5);
                if (sscanf(args->only_case + 5, "%" SCNu64 ":%d", &plan.n, &plan.err) == 2)
                        refuse(args, op, &plan, sum);
                return;
        }
        if (!refuse(args, op, &plan, sum))
                return;
        uint32_t n = proof_reported()->n_trace;
        struct proof_traced *t = calloc(n + 1, sizeof *t);
        memcpy(t, proof_reported()->trace, n * sizeof *t);
        const uint64_t cap = !args->quick ? 4000 : hook_sees_atomics ? 60 : 30; /* calls visited */
        for (uint32_t i = 0; i < n && !args->only_case; i++) {
                if (!proof_sampled(i, n, cap, args->seed))
                        continue;
                bool any = false;
                for (unsigned e = 0; e < ERRNOS_MAX && plausible[t[i].call][e]; e++)
                        for (int from = 0; from < (op->once ? 1 : 2); from++) {
                                refuse(args, op, &(struct plan){i, plausible[t[i].call][e], from}, sum);
                                any |= proof_reported()->injected;
                        }
                sum->states += any;
        }
        free(t);
}
