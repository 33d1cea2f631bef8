/*
 * spawn - starting a program, or becoming one, with rights.
 */
#include "pattern/spawn.h"

#include "base/trace.h"
#include "base/why.h"
#include "os/closer.h"
#include "os/os.h"
#include "os/spawn.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
