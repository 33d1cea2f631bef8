/*
 * confine - what a process gives up for good: privileges, files, system calls. What this kernel does not offer is
 * left out.
 *
 * Always true:
 *   C1  Nothing here can be undone, by this process or by what it executes.
 *   C2  A system call that is not allowed is refused with EPERM, so that a C library that tries a new one goes on
 *       without, or kills, for tests. One of another architecture's always kills.
 */
#ifndef WH_OS_CONFINE_H
#define WH_OS_CONFINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No capability now or ever, and no set-user-ID program changes that. 0 or a negative errno. */
int wh_os_drop_privileges(void);

enum {
        WH_PATH_READ = 1,
        WH_PATH_WRITE = 2, /* of files that are there */
        WH_PATH_MAKE = 4,  /* make and remove files */
};
struct wh_path_rule {
        const char *path; /* and what is below it; one that is not there is left out */
        unsigned may;     /* WH_PATH_* */
};
/* From now on no other file than these. -EOPNOTSUPP: this kernel has no Landlock. After wh_os_drop_privileges(). */
int wh_os_allow_paths(const struct wh_path_rule *rules, size_t n);

/*
 * A system call that is allowed. With `arg` not 0, only where argument `arg` - 1 has, of the bits of `mask`, `value`.
 */
struct wh_call_rule {
        int nr;
        const char *name;
        unsigned arg;
        uint32_t mask, value;
};
/* From now on no other system calls than these. -EINVAL: this kernel has no seccomp. After wh_os_drop_privileges(). */
int wh_os_allow_calls(const struct wh_call_rule *rules, size_t n, bool kill);

#endif
