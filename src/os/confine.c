#include "os/confine.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define OUR_ARCH AUDIT_ARCH_RISCV64
#endif

static int failed(long r)
{
        return r < 0 ? wh_trace(-errno) : 0;
}

int wh_os_drop_privileges(void)
{
        int r = failed(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        if (r < 0)
                return r;
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        /* Whoever has the right to: also what a program of root's would get. No new privileges says the same. */
        for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
                prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
        prctl(PR_SET_SECUREBITS, SECURE_ALL_BITS | SECURE_ALL_LOCKS, 0, 0, 0);
        struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
        r = failed(syscall(SYS_capset, &h, none));
        if (r == -EPERM && syscall(SYS_capget, &h, none) == 0) { /* refused, where there is nothing to give up */
                r = 0;
                for (unsigned i = 0; i < _LINUX_CAPABILITY_U32S_3; i++)
                        r = none[i].effective | none[i].permitted | none[i].inheritable ? -EPERM : r;
        }
        return r;
}

/* ---- files ---- */

/* As linux/landlock.h has it, which older headers do not. */
struct ruleset {
        uint64_t handled_access_fs;
};
struct beneath {
        uint64_t allowed_access;
        int32_t parent_fd;
} __attribute__((packed));
enum { LANDLOCK_CREATE = 444, LANDLOCK_ADD = 445, LANDLOCK_RESTRICT = 446, ABI_ASKED = 1, PATH_BENEATH = 1 };
enum {
        FS_EXECUTE = 1 << 0,
        FS_WRITE_FILE = 1 << 1,
        FS_READ_FILE = 1 << 2,
        FS_READ_DIR = 1 << 3,
        FS_REMOVE_FILE = 1 << 5,
        FS_MAKE_REG = 1 << 8,
        FS_ALL_1 = (1 << 13) - 1, /* of the first version */
        FS_REFER = 1 << 13,       /* 2 */
        FS_TRUNCATE = 1 << 14,    /* 3 */
        FS_IOCTL_DEV = 1 << 15,   /* 5 */
};

static uint64_t handled(long abi)
{
        return FS_ALL_1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) | (abi >= 5 ? FS_IOCTL_DEV : 0);
}

static uint64_t access_of(unsigned may, bool is_dir)
{
        uint64_t a = 0;
        if (may & WH_PATH_READ)
                a |= FS_READ_FILE | (is_dir ? FS_READ_DIR : 0);
        if (may & WH_PATH_WRITE)
                a |= FS_WRITE_FILE | FS_TRUNCATE;
        if (may & WH_PATH_MAKE && is_dir)
                a |= FS_MAKE_REG | FS_REMOVE_FILE;
        return a;
}

int wh_os_allow_paths(const struct wh_path_rule *rules, size_t n)
{
        long abi = syscall(LANDLOCK_CREATE, NULL, 0, ABI_ASKED);
        if (abi < 1)
                return -EOPNOTSUPP;
        struct ruleset set = {.handled_access_fs = handled(abi)};
        int fd = (int)syscall(LANDLOCK_CREATE, &set, sizeof set, 0), r = 0;
        if (fd < 0)
                return failed(fd);
        for (size_t i = 0; i < n && r == 0; i++) {
                int at = open(rules[i].path, O_PATH | O_CLOEXEC);
                struct stat st;
                if (at < 0)
                        continue;
                struct beneath b = {.parent_fd = at};
                if (fstat(at, &st) == 0)
                        b.allowed_access = access_of(rules[i].may, S_ISDIR(st.st_mode)) & set.handled_access_fs;
                if (b.allowed_access)
                        r = failed(syscall(LANDLOCK_ADD, fd, PATH_BENEATH, &b, 0));
                close(at);
        }
        if (r == 0)
                r = failed(syscall(LANDLOCK_RESTRICT, fd, 0));
        close(fd);
        return r;
}

/* ---- system calls ---- */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
/* The lower half: of what is an int to the kernel, or a few bits of a word. */
#define LOAD_ARG(i) \
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(offsetof(struct seccomp_data, args) + 8 * (i) + LOW_HALF))
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
enum { LOW_HALF = 0 };
#else
enum { LOW_HALF = 4 };
#endif
enum { RULE_STEPS_MAX = 6, HEAD_STEPS = 8 };

int wh_os_allow_calls(const struct wh_call_rule *rules, size_t n, bool kill)
{
#ifdef OUR_ARCH
        struct sock_filter *f = calloc(n * RULE_STEPS_MAX + HEAD_STEPS, sizeof *f);
        unsigned k = 0;
        if (!f)
                return wh_trace(-ENOMEM);
        f[k++] = (struct sock_filter)LOAD(arch);
        f[k++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OUR_ARCH, 1, 0);
        f[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        f[k++] = (struct sock_filter)LOAD(nr);
        for (size_t i = 0; i < n; i++) {
                const struct wh_call_rule *r = &rules[i];
                if (!r->arg) {
                        f[k++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)r->nr, 0, 1);
                        f[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
                        continue;
                }
                f[k++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)r->nr, 0, 5);
                f[k++] = (struct sock_filter)LOAD_ARG(r->arg - 1);
                f[k++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, r->mask);
                f[k++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, r->value, 0, 1);
                f[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
                f[k++] = (struct sock_filter)LOAD(nr); /* another rule may allow it */
        }
        f[k++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K,
                                              kill ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | EPERM);
        struct sock_fprog prog = {.len = (unsigned short)k, .filter = f};
        int r = failed(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog));
        free(f);
        return r;
#else
        (void)rules, (void)n, (void)kill;
        return -EINVAL;
#endif
}
