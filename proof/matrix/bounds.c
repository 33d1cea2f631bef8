/*
 * bounds - environments of another user, or with small limits.
 */
#include "rows.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int become(unsigned uid)
{
        if (getuid() != 0) {
                errno = EPERM;
                return row_not_here("setresuid");
        }
        MATRIX_EQ(setgroups(0, NULL), 0);
        MATRIX_EQ(setresgid(uid, uid, uid), 0);
        MATRIX_EQ(setresuid(uid, uid, uid), 0);
        return 0;
}

int row_nobody(struct party *p)
{
        return become(NOBODY);
}

int row_somebody(struct party *p)
{
        return become(SOMEBODY);
}

int row_umask_all(struct party *p)
{
        umask(0777);
        return 0;
}

int row_umask_none(struct party *p)
{
        umask(0);
        return 0;
}

/* As an ordinary user, who may not do what the mode forbids it. */
int row_umask_all_nobody(struct party *p)
{
        umask(0777);
        return become(NOBODY);
}

int row_no_capabilities(struct party *p)
{
        struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {{0}};
        if (syscall(SYS_capset, &head, none) < 0)
                return row_not_here("capset");
        return 0;
}

int row_no_new_privileges(struct party *p)
{
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        return 0;
}

int row_not_dumpable(struct party *p)
{
        MATRIX_EQ(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), 0);
        return 0;
}

static int limit(int what, rlim_t to)
{
        struct rlimit l = {to, to};
        MATRIX_EQ(setrlimit(what, &l), 0);
        return 0;
}

int row_files_64(struct party *p)
{
        return limit(RLIMIT_NOFILE, 64);
}

int row_files_1024(struct party *p)
{
        return limit(RLIMIT_NOFILE, 1024);
}

/* A program with so many files open that the library's have numbers which select() cannot take. */
int row_files_many(struct party *p)
{
        limit(RLIMIT_NOFILE, 4096);
        for (int fd = 0; fd >= 0 && fd < 1100;)
                fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return 0;
}

int row_address_space(struct party *p)
{
        unsigned long pages = 0;
        FILE *f = fopen("/proc/self/statm", "re");
        MATRIX_CHECK(f && fscanf(f, "%lu", &pages) == 1);
        fclose(f);
        return limit(RLIMIT_AS, pages * 4096 + (24u << 20));
}

int row_locked_0(struct party *p)
{
        return limit(RLIMIT_MEMLOCK, 0);
}

int row_locked_all(struct party *p)
{
        if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                return row_not_here("mlockall");
        return 0;
}

int row_file_size_0(struct party *p)
{
        return limit(RLIMIT_FSIZE, 0);
}
