/*
 * domain_path - where the domain of this process is, and the system's: found once, from the environment (D4, D5, D8).
 */
#include "names/domain.h"

#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TMP_ATTEMPTS_MAX = 64 }; /* while somebody else makes directories in our place */

#define SYSTEM_DOMAIN "/run/wharf"

static char domain_path[PATH_MAX], system_path[PATH_MAX], domain_aside[PATH_MAX + 128];
static bool domain_chosen;

static void system_path_find(void)
{
        const char *own = secure_getenv("WHARF_SYSTEM_DOMAIN");
        snprintf(system_path, sizeof system_path, "%s", own && *own ? own : SYSTEM_DOMAIN);
}

const char *wh_domain_system(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, system_path_find);
        return system_path;
}

/* Is this a directory of this user alone? Says what it is instead, with no more than `len` bytes (D5). */
static bool is_runtime_dir(const char *dir, char *what, size_t len)
{
        struct stat st;
        int fd = dir[0] == '/' ? wh_os_open(dir, O_PATH | O_DIRECTORY, 0) : -EINVAL;
        int r = fd < 0 ? fd : wh_os_fstat(fd, &st);
        wh_os_close(fd);
        if (r == -EINVAL)
                snprintf(what, len, "is not an absolute path");
        else if (r < 0)
                snprintf(what, len, "cannot be opened: %s", strerrordesc_np(-r));
        else if (st.st_uid != wh_os_geteuid())
                snprintf(what, len, "belongs to user %u, not to user %u", (unsigned)st.st_uid,
                         (unsigned)wh_os_geteuid());
        else if (st.st_mode & 022)
                snprintf(what, len, "is open to others (mode %04o)", (unsigned)st.st_mode & 07777);
        else
                return true;
        return false;
}

enum { NUMBER_DIGITS = 9, NUMBER_MAX = 999999999 };

struct in_tmp {
        char prefix[40];
        uid_t uid;
        unsigned ours, last; /* 0: none */
};

static int look_in_tmp(const char *name, void *arg)
{
        struct in_tmp *in = arg;
        size_t len = strlen(in->prefix);
        char path[80], *end;
        struct stat st;
        if (strncmp(name, in->prefix, len) || name[len] < '1' || name[len] > '9' || strlen(name) > len + NUMBER_DIGITS)
                return 0;
        unsigned long n = strtoul(name + len, &end, 10);
        snprintf(path, sizeof path, "/tmp/%s", name);
        if (*end || wh_os_lstat(path, &st) < 0)
                return 0;
        if (n > in->last)
                in->last = (unsigned)n;
        if (st.st_uid == in->uid && S_ISDIR(st.st_mode) && (!in->ours || n < in->ours))
                in->ours = (unsigned)n;
        return 0;
}

/* Behind the last one; where somebody has taken that, any, for what has more digits is never looked at. */
static unsigned next_number(unsigned last)
{
        uint32_t any = 0;
        if (last < NUMBER_MAX)
                return last + 1;
        wh_os_getrandom(&any, sizeof any);
        return any % NUMBER_MAX + 1;
}

/*
 * D8. Two that come first at one moment see the same numbers, so only one of them makes the directory and the other one
 * finds it.
 */
static int tmp_path_find(void)
{
        struct in_tmp in = {.uid = wh_os_geteuid()};
        struct stat st;
        int n = snprintf(domain_path, sizeof domain_path, "/tmp/wharf-%u", (unsigned)in.uid);
        const bool there = wh_os_lstat(domain_path, &st) == 0;
        if (!there || (st.st_uid == in.uid && S_ISDIR(st.st_mode))) /* a link to a file of this user anybody can make */
                return n;
        snprintf(in.prefix, sizeof in.prefix, "wharf-%u.", (unsigned)in.uid);
        size_t len = strlen(domain_aside);
        if (st.st_uid != in.uid)
                snprintf(domain_aside + len, sizeof domain_aside - len, "%s%s belongs to user %u", len ? "; " : "",
                         domain_path, (unsigned)st.st_uid);
        else
                snprintf(domain_aside + len, sizeof domain_aside - len, "%s%s is no directory", len ? "; " : "",
                         domain_path);
        for (int i = 0; i < TMP_ATTEMPTS_MAX; i++) {
                in.ours = in.last = 0;
                wh_os_readdir("/tmp", look_in_tmp, &in);
                n = snprintf(domain_path, sizeof domain_path, "/tmp/%s%u", in.prefix,
                             in.ours ? in.ours : next_number(in.last));
                if (in.ours)
                        break;
                wh_os_mkdir(domain_path, 0700);
        }
        return n;
}

static void domain_path_find(void)
{
        const char *own = secure_getenv("WHARF_DOMAIN"), *run = secure_getenv("XDG_RUNTIME_DIR");
        char what[100], usual[40];
        int n;
        snprintf(usual, sizeof usual, "/run/user/%u", (unsigned)wh_os_geteuid());
        domain_chosen = own && *own;
        if (domain_chosen)
                n = snprintf(domain_path, sizeof domain_path, "%s", own);
        else if (run && *run && is_runtime_dir(run, what, sizeof what))
                n = snprintf(domain_path, sizeof domain_path, "%s/wharf", run);
        else {
                if (run && *run)
                        snprintf(domain_aside, sizeof domain_aside, "XDG_RUNTIME_DIR=%s %s", run, what);
                /* The one that it should name; for a user whom nobody logged in there is none. */
                if (is_runtime_dir(usual, what, sizeof what))
                        n = snprintf(domain_path, sizeof domain_path, "%s/wharf", usual);
                else
                        n = tmp_path_find();
        }
        if (n >= (int)sizeof domain_path)
                n = (int)sizeof domain_path - 1; /* cut, and so refused as too long for a socket */
        while (n > 1 && domain_path[n - 1] == '/')
                domain_path[--n] = 0;
}

/* Once: a process has one domain, whatever happens to its environment later. */
WHARF_API const char *wharf_domain_path(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, domain_path_find);
        return domain_path;
}

bool wh_domain_was_chosen(void)
{
        wharf_domain_path();
        return domain_chosen;
}

const char *wh_domain_aside(void)
{
        wharf_domain_path();
        return domain_aside;
}
