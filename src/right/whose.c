/*
 * Who is the owner of the port that a right leads to, and do two rights lead to the same port? The owners are asked, each over
 * its own link, and the kernel says which process answered (WHO). An id alone proves nothing: every holder of a right knows it, and can serve a port that claims it, or
 * move one with that id to where the true one is. So which of its ports it is the process that answers says in a number of
 * its own, which no port brings along.
 */
#include "right/held.h"
#include "right/right.h"
#include "task/ids.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/os.h"
#include "wharf/port.h"

#include <errno.h>

static const char not_answered[] = "an owner has not answered yet: it must receive to do so",
                  nobody_known[] = "the kernel does not say here which process owns a port";

struct answer {
        uint64_t port_id, port;
        struct wh_cred owner;
};

/* Ask, unless a question is on its way and the caller does not wait. The link is locked. */
static int ask(struct wh_link *l, int64_t deadline_ns)
{
        const wharf_name name = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        const int on = 1;
        if (l->once)
                return -EPERM;
        if (deadline_ns == 0 && l->in.whose.pending)
                return 0;
        for (;;) {
                struct wh_room seen = wh_room_now(l);
                l->out.sock_full = false;
                int r = l->out.over ? l->out.over : l->over;
                if (r == 0)
                        r = wh_link_rebind(l); /* so that its introducer, or the former owner, cannot answer */
                if (r == 0 && l->provisional)
                        r = l->in.leader ? -EAGAIN : wh_trace(-EMFILE);
                if (r == 0 && l->borrowed)
                        r = -EOPNOTSUPP;
                if (r == 0)
                        r = wh_os_setsockopt(l->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
                if (r == 0) {
                        struct wh_frame f = {.type = WH_FRAME_WHO, .seq = l->in.whose.asked + 1};
                        r = wh_link_frame(l, &f, NULL, 0, NULL, false);
                }
                if (r == 0) {
                        l->in.whose.asked++;
                        l->in.whose.pending = true;
                        l->in.whose.answered = false;
                        return 0;
                }
                if (r == -EAGAIN)
                        r = wh_holder_wait(l, deadline_ns, &seen);
                if (r == 0 && atomic_load_explicit(&l->o.name, memory_order_relaxed) != name)
                        r = -ECANCELED;
                if (r < 0)
                        return r;
        }
}

static int await(struct wh_link *l, int64_t deadline_ns)
{
        const wharf_name name = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        for (bool late = false;;) {
                struct wh_room seen = wh_room_now(l);
                if (!l->in.leader) {
                        l->in.sock_ready = true;
                        wh_link_read(l, WH_UNTIL_ANSWERED, 0);
                }
                int r = l->out.over ? l->out.over : l->over;
                if (l->in.whose.answered || r < 0)
                        return l->in.whose.answered ? 0 : r;
                if (late)
                        return deadline_ns ? -ETIMEDOUT : -EAGAIN;
                r = wh_holder_wait(l, deadline_ns, &seen);
                if (atomic_load_explicit(&l->o.name, memory_order_relaxed) != name)
                        return -ECANCELED;
                if (r == -ETIMEDOUT || r == -EAGAIN)
                        late = true; /* what came in the last moment counts */
                else if (r < 0)
                        return r;
        }
}

/* One step for one of the two rights, with its link locked meanwhile. */
static int step(wharf_task *t, wharf_name right, int (*fn)(struct wh_link *l, int64_t deadline_ns), int64_t deadline_ns,
                struct answer *ret)
{
        int r;
        struct wh_link *l = wh_holder_lock(t, right, &r);
        if (!l)
                return r;
        l->in.budget = WH_BUDGET;
        r = fn(l, deadline_ns);
        if (r == 0 && ret)
                *ret = (struct answer){l->hello.port_id, l->in.whose.port, l->cred};
        wh_holder_unlock(l);
        return r;
}

/*
 * Still alive, and nothing has come that says that the port has moved: then the process that answered has been the owner all the
 * time. -ESTALE: it is to be asked again.
 */
static int alive(struct wh_link *l, int64_t deadline_ns)
{
        if (!l->in.leader) {
                l->in.sock_ready = true;
                wh_link_read(l, WH_UNTIL_EMPTY, 0);
        }
        wh_link_probe(l, true);
        l->in.whose.pending = false;
        const int r = l->out.over ? l->out.over : l->over;
        return r == 0 && !l->in.whose.answered ? -ESTALE : r;
}

/* Asks each of them until both have answered and are alive. 0, or as wharf_right_same(). */
static int ask_all(wharf_task *t, const wharf_name *right, unsigned n, int64_t deadline_ns, struct answer *ret)
{
        int r;
        do {
                r = 0;
                for (unsigned i = 0; r == 0 && i < n; i++)
                        r = step(t, right[i], ask, deadline_ns, NULL);
                for (unsigned i = 0; r == 0 && i < n; i++)
                        r = step(t, right[i], await, deadline_ns, &ret[i]);
                for (unsigned i = 0; r == 0 && i < n; i++)
                        r = step(t, right[i], alive, 0, NULL);
        } while (r == -ESTALE && wh_task_ours(t) && (deadline_ns == WH_NEVER || wh_os_now_ns() < deadline_ns));
        if (r != -ESTALE || !wh_task_ours(t))
                return r;
        return deadline_ns ? -ETIMEDOUT : -EAGAIN; /* however fast it moves, and answers */
}

WHARF_API int wharf_right_owner(wharf_task *t, wharf_name right, int64_t deadline_ns, struct wharf_owner *ret)
{
        struct answer x = {0};
        if (!ret)
                return wh_fail_null("ret");
        int r = ask_all(t, &right, 1, deadline_ns, &x);
        if (r == -EAGAIN || r == -ETIMEDOUT)
                return wh_fail_plain(r, not_answered);
        if (r < 0)
                return wh_fail_at(t, r, right);
        if (!x.owner.known || x.owner.pid == 0)
                return wh_fail_plain(-EOPNOTSUPP, nobody_known);
        *ret = (struct wharf_owner){.pid = x.owner.pid,
                                    .uid = wh_id_known(x.owner.uid) ? x.owner.uid : (uid_t)-1,
                                    .gid = wh_id_known(x.owner.gid) ? x.owner.gid : (gid_t)-1};
        return 0;
}

WHARF_API int wharf_right_same(wharf_task *t, wharf_name a, wharf_name b, int64_t deadline_ns)
{
        struct answer x[2] = {0};
        const wharf_name right[] = {a, b};
        int r = ask_all(t, right, a == b ? 1 : 2, deadline_ns, x);
        if (a == b)
                x[1] = x[0];
        if (r == -EAGAIN || r == -ETIMEDOUT)
                return wh_fail_plain(r, not_answered);
        if (r < 0)
                return wh_fail_at(t, r, wharf_name_kind(t, a) == WHARF_KIND_SEND ? b : a);
        if (x[0].port_id != x[1].port_id || x[0].port != x[1].port)
                return 0;
        if (!x[0].owner.known || !x[1].owner.known || x[0].owner.pid == 0 || x[1].owner.pid == 0)
                return wh_fail_plain(-EOPNOTSUPP, nobody_known);
        return x[0].owner.pid == x[1].owner.pid;
}
