/*
 * inherited - finding what this process was given at its start (S1).
 */
#include "pattern/spawn.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/lock.h"
#include "os/os.h"
#include "message/items.h"
#include "task/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct inherited {
        unsigned n;
        char *name[WHARF_ITEMS_MAX]; /* NULL: taken */
        struct wharf_item item[WHARF_ITEMS_MAX];
        char names[NAMES_MAX];
};

static struct wh_lock process_lock; /* `taken` and the inherited of every task of this process */
static bool taken;                  /* S1 */
static struct wh_link *half_taken;  /* ... of which there was too little room for the rest */

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
        int r = wh_carrier_unpack(t, sock, &m, &half_taken);
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
