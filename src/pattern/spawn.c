/*
 * Starting programs with an initial set of rights (wharf/spawn.h).
 *
 * What is given travels as the items of one message (message/carrier.h), whose payload is their names, each ended by a 0.
 * The variable WHARF_RIGHTS says PID:FD:INODE: for which process (0: for whoever asks first), on which descriptor, and
 * which socket that is, so that a descriptor of that number which is something else by now is not taken for it.
 *
 * Always true:
 *   S1  A process takes its carrier at most once: the first task that asks holds everything, and the socket is closed.
 *   S2  What was given is moved only when the program runs (exec has happened); until then it can be taken back.
 */
#include "wharf/spawn.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "os/spawn.h"
#include "message/carrier.h"
#include "message/items.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VARIABLE "WHARF_RIGHTS"

enum {
        ID_PLAIN = 0, /* the id of the message: what its last item is */
        ID_TALK = 1,  /* the owner's end of a link for the port WHARF_SELF */
        NAMES_MAX = WHARF_ITEMS_MAX * (WHARF_GIVEN_NAME_MAX + 1),
};
static_assert((int)NAMES_MAX <= (int)WH_COLD_MAX, "the names are one frame");

/* ---- giving ---- */

static int opts_check(const struct wharf_spawn_opts *o, unsigned flags)
{
        if (!o)
                return wh_fail_null("opts");
        if (o->size != sizeof *o)
                return wh_fail(-EINVAL, "wharf_spawn_opts.size is %u, expected %zu", o->size, sizeof *o);
        if (o->flags & ~flags || o->reserved)
                return wh_fail(-EINVAL, "wharf_spawn_opts.flags is %#x", o->flags);
        if (!o->argv || !o->argv[0])
                return wh_fail(-EINVAL, "wharf_spawn_opts.argv has no program");
        unsigned max = WHARF_ITEMS_MAX - !!(o->flags & WHARF_SPAWN_TALK);
        if (o->n_given > max)
                return wh_fail(-EINVAL, "%u rights are given, at most %u", o->n_given, max);
        if (!o->given && o->n_given)
                return wh_fail_nowhere("wharf_spawn_opts.given", o->n_given);
        for (unsigned i = 0; i < o->n_given; i++) {
                size_t n = o->given[i].name ? strnlen(o->given[i].name, WHARF_GIVEN_NAME_MAX + 1) : 0;
                if (n == 0 || n > WHARF_GIVEN_NAME_MAX)
                        return wh_fail(-EINVAL, "given[%u].name has %zu bytes, 1 to %d are allowed", i, n,
                                       WHARF_GIVEN_NAME_MAX);
                for (unsigned k = 0; k < i; k++)
                        if (!strcmp(o->given[i].name, o->given[k].name))
                                return wh_fail(-EINVAL, "'%s' is given twice", o->given[i].name);
        }
        return 0;
}

/* The message: items as given, and their names. */
struct bundle {
        struct wharf_msg m;
        struct wharf_item items[WHARF_ITEMS_MAX];
        char names[NAMES_MAX];
};

static void bundle_add(struct bundle *b, const char *name, struct wharf_item item)
{
        size_t n = strlen(name) + 1;
        memcpy(b->names + b->m.len_bytes, name, n);
        b->m.len_bytes += n;
        b->items[b->m.n_items++] = item;
}

/* Not on the stack, which may be small. free() it. */
static struct bundle *bundle_new(const struct wharf_spawn_opts *o)
{
        struct bundle *b = wh_os_malloc(sizeof *b);
        if (!b)
                return NULL;
        b->m = (struct wharf_msg){.size = sizeof b->m, .id = ID_PLAIN, .data = b->names, .items = b->items};
        for (unsigned i = 0; i < o->n_given; i++)
                bundle_add(b, o->given[i].name, o->given[i].item);
        return b;
}

/* The environment with our variable and no older one; free() it. *ret_digits is where its process is to be written. */
static char **environment(char *const *envp, int sock, char **ret_digits)
{
        struct stat st;
        if (wh_os_fstat(sock, &st) < 0)
                return NULL;
        size_t n = 0, text = sizeof VARIABLE + 64;
        while (envp && envp[n])
                n++;
        char **all = wh_os_calloc(1, (n + 2) * sizeof *all + text);
        if (!all)
                return NULL;
        char *ours = (char *)(all + n + 2);
        size_t k = 0;
        for (size_t i = 0; i < n; i++)
                if (strncmp(envp[i], VARIABLE "=", sizeof VARIABLE))
                        all[k++] = envp[i];
        all[k++] = ours;
        snprintf(ours, text, VARIABLE "=%0*d:%d:%" PRIu64, WH_PID_DIGITS, 0, sock, (uint64_t)st.st_ino);
        *ret_digits = ours + sizeof VARIABLE;
        return all;
}

/* Packs, and makes what the seam below wants to know. */
static int program_prepare(wharf_task *t, const struct wharf_spawn_opts *o, const struct bundle *b, int64_t deadline_ns,
                           struct wh_carrier *c, struct wh_os_program *ret, char ***ret_env)
{
        int r = wh_carrier_pack(t, &b->m, deadline_ns, c);
        if (r < 0)
                return r;
        char *digits;
        char **env = environment(o->envp ? o->envp : environ, c->sock, &digits);
        if (!env) {
                wh_carrier_done(t, &b->m, c, false);
                return wh_fail(wh_trace(-ENOMEM), NULL);
        }
        *ret = (struct wh_os_program){
                .argv = o->argv,
                .envp = env,
                .cwd = o->cwd,
                .stdio = o->stdio,
                .keep = c->sock,
                .pid_digits = o->flags & WHARF_SPAWN_WRAPPED ? NULL : digits,
                .prepare = o->prepare,
                .prepare_arg = o->prepare_arg,
        };
        *ret_env = env;
        return 0;
}

WHARF_API int wharf_spawn(wharf_task *t, const struct wharf_spawn_opts *o, int64_t deadline_ns, struct wharf_child *ret)
{
        int r = opts_check(o, WHARF_SPAWN_TALK | WHARF_SPAWN_WRAPPED);
        if (r < 0)
                return r;
        if (!ret)
                return wh_fail_null("ret");
        if (ret->size != sizeof *ret)
                return wh_fail(-EINVAL, "wharf_child.size is %u, expected %zu", ret->size, sizeof *ret);
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_carrier c;
        struct wh_os_program p;
        char **env;
        wharf_name right = WHARF_NONE;
        int owner = -1;
        struct bundle *b = bundle_new(o);
        if (!b)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        if (o->flags & WHARF_SPAWN_TALK) {
                r = wh_carrier_link(t, &owner, &right);
                if (r < 0) {
                        free(b);
                        return r;
                }
                b->m.id = ID_TALK;
                bundle_add(b, WHARF_SELF, (struct wharf_item){.kind = WHARF_COPY_FD, .fd = owner});
        }
        r = program_prepare(t, o, b, deadline_ns, &c, &p, &env);
        if (r == 0) {
                const char *where;
                pid_t pid;
                int pidfd;
                r = wh_os_spawn(&p, &pid, &pidfd, &where);
                wh_carrier_done(t, &b->m, &c, r == 0); /* S2 */
                free(env);
                if (r == 0)
                        *ret = (struct wharf_child){sizeof *ret, pid, pidfd, right};
                wh_fail(r, r < 0 ? "%s: %s: %s" : NULL, o->argv[0], where, strerrordesc_np(-r));
        }
        if (r < 0 && right) {
                char why[256]; /* dropping is not what failed */
                snprintf(why, sizeof why, "%s", wharf_why());
                wharf_drop(t, right);
                wh_set_why("%s", why);
        }
        wh_os_close_end(owner, WH_END_SHARED); /* the child has it, and may be gone by now */
        free(b);
        return r;
}

WHARF_API int wharf_exec(wharf_task *t, const struct wharf_spawn_opts *o, int64_t deadline_ns)
{
        int r = opts_check(o, WHARF_SPAWN_WRAPPED);
        if (r < 0)
                return r;
        if (o->cwd || o->stdio || o->prepare)
                return wh_fail(-EINVAL, "cwd, stdio and prepare are for wharf_spawn()");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_carrier c;
        struct wh_os_program p;
        char **env;
        struct bundle *b = bundle_new(o);
        if (!b)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        r = program_prepare(t, o, b, deadline_ns, &c, &p, &env);
        if (r < 0) {
                free(b);
                return r;
        }
        for (unsigned i = 0; i < o->n_given && r == 0; i++)
                if (c.items.via[i] >= 0) /* its caller must be told by somebody who stays */
                        r = wh_fail(-EINVAL, "'%s' answers a call of a port that ends here", o->given[i].name);
        if (r < 0) {
                wh_carrier_done(t, &b->m, &c, false);
                free(env);
                free(b);
                return r;
        }
        r = wh_os_exec(&p); /* what was moved goes with everything else that is close-on-exec */
        wh_carrier_done(t, &b->m, &c, false);
        free(env);
        free(b);
        return wh_fail(r, "%s: %s", o->argv[0], strerrordesc_np(-r));
}

/* ---- the child, seen from here ---- */

WHARF_API int wharf_child_wait(struct wharf_child *c, int64_t deadline_ns, int *ret_status)
{
        if (!c)
                return wh_fail_null("child");
        if (!ret_status)
                return wh_fail_null("ret_status");
        if (c->size != sizeof *c)
                return wh_fail(-EINVAL, "wharf_child.size is %u, expected %zu", c->size, sizeof *c);
        if (c->pidfd < 0)
                return wh_fail_plain(-EBADF, "this child was waited for already");
        int r, status;
        while ((r = wh_os_reap(c->pidfd, &status)) == -EAGAIN) {
                if (deadline_ns == 0)
                        return wh_fail_plain(-EAGAIN, "the child has not ended, and the deadline is 0");
                if (deadline_ns != WHARF_FOREVER && wh_os_now_ns() >= deadline_ns)
                        return wh_fail_plain(-ETIMEDOUT, "the child did not end until the deadline");
                struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
                wh_os_poll(&p, 1, deadline_ns);
        }
        if (r == -EINTR)
                r = -EAGAIN;
        if (r < 0)
                return wh_fail(r, r == -ECHILD ? "somebody else took its status, or SIGCHLD is ignored" : NULL);
        wh_os_close(c->pidfd);
        c->pidfd = -1;
        *ret_status = status;
        return wh_fail(0, NULL);
}

WHARF_API int wharf_child_kill(const struct wharf_child *c, int signal)
{
        if (!c)
                return wh_fail_null("child");
        if (c->size != sizeof *c)
                return wh_fail(-EINVAL, "wharf_child.size is %u, expected %zu", c->size, sizeof *c);
        int r = c->pidfd < 0 ? -EBADF : wh_os_pidfd_kill(c->pidfd, signal);
        return r == -EBADF   ? wh_fail_plain(r, "this child was waited for already")
               : r == -ESRCH ? wh_fail_plain(r, "the child has ended")
                             : wh_fail(r, "signal %d: %s", signal, strerrordesc_np(-r));
}

/* ---- finding what was given ---- */

struct inherited {
        unsigned n;
        char *name[WHARF_ITEMS_MAX]; /* NULL: taken */
        struct wharf_item item[WHARF_ITEMS_MAX];
        char names[NAMES_MAX];
};

static struct wh_lock process_lock; /* `taken` and the inherited of every task of this process */
static bool taken;                  /* S1 */

static void inherited_free(void *p)
{
        struct inherited *in = p;
        /* Rights are names of the task, which drops them. A forked child has copies of the descriptors. */
        for (unsigned i = 0; i < in->n; i++)
                if (in->name[i] && in->item[i].kind == WHARF_GOT_FD)
                        wh_os_close_theirs(in->item[i].fd);
        free(in);
}

static bool number(const char **at, char end, uint64_t max, uint64_t *ret)
{
        uint64_t v = 0;
        const char *p = *at;
        for (; *p >= '0' && *p <= '9'; p++) {
                if (v > max / 10)
                        return false;
                v = v * 10 + (uint64_t)(*p - '0');
        }
        if (p == *at || *p != end || v > max)
                return false;
        *at = p + 1;
        *ret = v;
        return true;
}

/* The socket that the environment names; -ENOENT where there is no such thing. */
static int carrier_find(void)
{
        const char *at = secure_getenv(VARIABLE);
        uint64_t pid, fd, inode;
        struct stat st;
        if (!at)
                return wh_fail(-ENOENT, "this process was given no rights: $" VARIABLE " is not set");
        if (!number(&at, ':', INT32_MAX, &pid) || !number(&at, ':', INT32_MAX, &fd) ||
            !number(&at, 0, UINT64_MAX, &inode))
                return wh_fail(-EPROTO, "$" VARIABLE " is not of the form PROCESS:DESCRIPTOR:INODE");
        if (pid && (pid_t)pid != wh_os_getpid())
                return wh_fail(-EACCES, "$" VARIABLE " is for process %d, not for %d that inherited it", (int)pid,
                               (int)wh_os_getpid());
        if (wh_os_fstat((int)fd, &st) < 0 || st.st_ino != inode || wh_frame_check_socket((int)fd) < 0)
                return wh_fail(-EACCES, "descriptor %d is not the one that $" VARIABLE " means: it was taken already",
                               (int)fd);
        return (int)fd;
}

/* Everything checked, as if a stranger had sent it: the bytes do say what a parent may have got wrong. */
static int inherited_check(struct inherited *in, struct wharf_msg *m)
{
        char *at = in->names, *end = in->names + m->len_bytes;
        for (unsigned i = 0; i < m->n_items; i++) {
                size_t n = strnlen(at, (size_t)(end - at));
                if (n == 0 || n > WHARF_GIVEN_NAME_MAX || at + n == end)
                        return -EPROTO;
                in->name[i] = at;
                at += n + 1;
        }
        if (at != end || m->id > ID_TALK)
                return -EPROTO;
        if (m->id == ID_TALK && (m->n_items == 0 || in->item[m->n_items - 1].kind != WHARF_GOT_FD))
                return -EPROTO;
        in->n = m->n_items;
        return 0;
}

static int inherited_take(wharf_task *t, struct inherited **ret)
{
        int sock = carrier_find();
        if (sock < 0)
                return sock;
        struct inherited *in = wh_os_calloc(1, sizeof *in);
        if (!in)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        struct wharf_msg m = {.size = sizeof m,
                              .data = in->names,
                              .cap_bytes = sizeof in->names,
                              .items = in->item,
                              .cap_items = WHARF_ITEMS_MAX};
        int r = wh_carrier_unpack(t, sock, &m);
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM) {
                free(in);
                return wh_fail(r, NULL);
        }
        if (r == -ENODATA)
                r = wh_fail(-EACCES, "what was given was taken already, by another process");
        else if (r == 0 && (r = inherited_check(in, &m)) < 0)
                wh_items_drop(t, in->item, m.n_items);
        if (r == 0 && m.id == ID_TALK) {
                struct wharf_item *self = &in->item[in->n - 1];
                wharf_name port;
                r = wh_carrier_port(t, self->fd, &port);
                if (r == 0)
                        *self = (struct wharf_item){.kind = WHARF_GOT_RECEIVE, .name = port};
                else
                        inherited_free(in), in = NULL;
        }
        taken = true;
        wh_os_close_given(sock); /* its number is in the variable, and more may lie in it than was asked for */
        if (r < 0) {
                free(in);
                return r == -EACCES ? r : wh_fail(r == -EOVERFLOW ? -EPROTO : r, NULL);
        }
        *ret = in;
        return 0;
}

/* What this task was given; locked. *ret is NULL where there is nothing. */
static int inherited_lock(wharf_task *t, struct inherited **ret)
{
        *ret = NULL;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        wh_lock(&process_lock);
        int r = 0;
        if ((*ret = t->inherited))
                return 0;
        if (taken)
                r = wh_fail(-EBUSY, "another task of this process has taken what it was given");
        else if ((r = inherited_take(t, ret)) == 0) {
                t->inherited = *ret;
                t->inherited_free = inherited_free;
        }
        if (r < 0)
                wh_unlock(&process_lock);
        return r;
}

WHARF_API int wharf_inherited(wharf_task *t, const char *name, struct wharf_item *ret)
{
        if (!name)
                return wh_fail_null("name");
        if (!ret)
                return wh_fail_null("ret");
        struct inherited *in;
        int r = inherited_lock(t, &in);
        if (r < 0)
                return r;
        r = -ENOENT;
        for (unsigned i = 0; i < in->n && r < 0; i++)
                if (in->name[i] && !strcmp(in->name[i], name)) {
                        in->name[i] = NULL;
                        *ret = in->item[i];
                        r = 0;
                }
        wh_unlock(&process_lock);
        return wh_fail(r, r < 0 ? "nothing was given as '%s', or it was taken" : NULL, name);
}

WHARF_API int wharf_inherited_list(wharf_task *t, char ***ret, size_t *ret_n)
{
        if (!ret || !ret_n)
                return wh_fail_null(ret ? "ret_n" : "ret");
        struct inherited *in;
        int r = inherited_lock(t, &in);
        if (r == -ENOENT) {
                char **none = wh_os_calloc(1, sizeof *none);
                if (!none)
                        return wh_fail(wh_trace(-ENOMEM), NULL);
                *ret = none;
                *ret_n = 0;
                return wh_fail(0, NULL);
        }
        if (r < 0)
                return r;
        size_t bytes = sizeof(char *), n = 0;
        for (unsigned i = 0; i < in->n; i++)
                bytes += in->name[i] ? sizeof(char *) + strlen(in->name[i]) + 1 : 0;
        char **list = wh_os_malloc(bytes);
        if (list) {
                for (unsigned i = 0; i < in->n; i++)
                        n += in->name[i] != NULL;
                char *text = (char *)(list + n + 1);
                n = 0;
                for (unsigned i = 0; i < in->n; i++)
                        if (in->name[i]) {
                                list[n++] = strcpy(text, in->name[i]);
                                text += strlen(text) + 1;
                        }
                list[n] = NULL;
                *ret = list;
                *ret_n = n;
        }
        wh_unlock(&process_lock);
        return wh_fail(list ? 0 : wh_trace(-ENOMEM), NULL);
}
