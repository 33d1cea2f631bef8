/*
 * again - a test program that starts itself again: ROLE(name) { ... } is what it does then instead of running tests,
 * and role("name") the argv that makes it so.
 */
#ifndef TEST_AGAIN_H
#define TEST_AGAIN_H

#include "hub.h"

#include <wharf/spawn.h>

#include <sys/auxv.h>

/* This program, for exec(). Without /proc, by the name that it was started with itself. */
#define SELF_EXE self_exe()
static inline char *self_exe(void)
{
        static char path[4096] = "/proc/self/exe";
        const char *given = (const char *)getauxval(AT_EXECFN); // NOLINT(performance-no-int-to-ptr)
        if (access("/proc/self/exe", F_OK) < 0 && given && !realpath(given, path))
                path[0] = 0;
        return path;
}

struct role {
        const char *name;
        int (*run)(int argc, char **argv);
        struct role *next;
};
static struct role *roles;

#define ROLE(id)                                                            \
        static int role_##id(int argc, char **argv);                        \
        __attribute__((constructor(200))) static void role_add_##id(void)   \
        {                                                                   \
                static struct role r = {.name = "@" #id, .run = role_##id}; \
                r.next = roles;                                             \
                roles = &r;                                                 \
        }                                                                   \
        static int role_##id(int argc, char **argv)

__attribute__((constructor(300))) static void role_play(int argc, char **argv)
{
        for (struct role *r = roles; r && argc > 1; r = r->next)
                if (!strcmp(argv[1], r->name))
                        _exit(r->run(argc - 1, argv + 1));
}

/* In a role: a failed check is the exit status. */
#define MUST(cond)                                                                                   \
        do {                                                                                         \
                if (!(cond)) {                                                                       \
                        fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #cond, wharf_why()); \
                        _exit(1);                                                                    \
                }                                                                                    \
        } while (0)

#define ARGV(...) ((char *[]){SELF_EXE, __VA_ARGS__, NULL})
#define WORD(text) ((char[]){text})
#define SPAWN_OPTS(...) (&(struct wharf_spawn_opts){.size = sizeof(struct wharf_spawn_opts), __VA_ARGS__})
#define CHILD ((struct wharf_child){.size = sizeof(struct wharf_child)})
#define GIVE(n, k, v) ((struct wharf_given){.name = (n), .item = {.kind = (k), .name = (v)}})
#define GIVE_FD(n, k, v) ((struct wharf_given){.name = (n), .item = {.kind = (k), .fd = (v)}})

static inline int child_status(struct wharf_child *c)
{
        int status = -1000;
        CHECK_EQ(wharf_child_wait(c, WHARF_FOREVER, &status), 0);
        CHECK_EQ(c->pidfd, -1);
        return status;
}

#endif
