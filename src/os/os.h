/*
 * os - every system call, clock and random source that wharf uses, one function each.
 *
 * Why: what passes through one seam can be counted, made to fail, delayed, or used as the place to be killed at.
 * Nothing outside this folder makes a system call.
 *
 * Always true:
 *   O1  Every function asks wh_os_gate first. In production the gate is NULL and costs one predictable load.
 *   O2  Every function returns a negative errno on failure and never touches `errno` as a result.
 *   O3  Every descriptor made here is close-on-exec; every send carries MSG_NOSIGNAL.
 *   O4  No function restarts a wait after EINTR: callers know their deadlines, the seam does not.
 *   O5  No function is a cancellation point of pthreads: a thread that is cancelled leaves the library first.
 *   O6  A socket's end is reported only when nothing lies before it any more: what a peer sent before it closed is not
 *       skipped.
 *
 * Newer than Linux 5.15, which is promised; what is done without each is in docs/design/kernels.md:
 *      MFD_NOEXEC_SEAL       6.3   wh_os_memfd()
 *      SO_PEERPIDFD          6.5   link/direct.c, by way of wh_os_getsockopt()
 *      SCM_PIDFD             6.5   os/receive.c: closed where it comes
 *      numbers in pidfs      6.9   os/task.c
 * Whoever adds one adds it there, and to `newer` in proof/matrix/sandboxes.c.
 */
#ifndef WH_OS_OS_H
#define WH_OS_OS_H

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>

/* One name a call. The gate gets it; reports print it. */
/* clang-format off */
#define WH_OS_CALLS(X)                                                                                                 \
        /* memory.c */                                                                                                 \
        X(malloc) X(mmap) X(munmap) X(mprotect) X(madvise) X(mincore) X(mremap) X(msync) X(pagemap)                    \
        X(shmget) X(shmat) X(shmdt) X(shmctl)                                                                          \
        /* fd.c */                                                                                                     \
        X(close) X(dup) X(read) X(write) X(getfl)                                                                      \
        /* file.c */                                                                                                   \
        X(memfd_create) X(ftruncate) X(fallocate) X(seal) X(get_seals) X(fstat) X(fstatfs) X(cachestat)                \
        X(fchmod) X(fchown) X(flock) X(lock_byte) X(byte_locked)                                                       \
        /* path.c */                                                                                                   \
        X(open) X(unlink) X(mkdir) X(chmod) X(rename) X(stat) X(lstat) X(access) X(linkat) X(readdir)                  \
        X(readlink) X(inotify)                                                                                         \
        /* socket.c */                                                                                                 \
        X(socketpair) X(socket) X(bind) X(connect) X(listen) X(accept) X(sendmsg) X(send) X(recvmsg)                   \
        X(inq) X(getsockopt) X(setsockopt) X(shutdown)                                                                 \
        /* wait.c */                                                                                                   \
        X(poll) X(epoll_create) X(epoll_ctl) X(epoll_del) X(epoll_wait) X(eventfd) X(futex_wait)                       \
        X(futex_wake)                                                                                                  \
        /* process.c */                                                                                                \
        X(pidfd_open) X(pidfd_send_signal) X(kill) X(wait) X(getrlimit) X(process_vm_readv)                            \
        X(process_vm_writev) X(getrandom)                                                                              \
        /* start.c, spawn.c, left.c */                                                                                 \
        X(spawn) X(meminfo)
/* clang-format on */

enum wh_os_call {
#define WH_OS_ENUM(n) WH_OS_##n,
        WH_OS_CALLS(WH_OS_ENUM)
#undef WH_OS_ENUM
                WH_OS_CALL_COUNT
};
const char *wh_os_call_name(enum wh_os_call call);

/*
 * The gate, set by tests only, before any thread runs: 0 lets the call happen, a negative errno is returned in its
 * place. It may also never return, or kill the process.
 */
extern int (*wh_os_gate)(enum wh_os_call call);

static inline int wh_os_enter(enum wh_os_call call)
{
        int (*gate)(enum wh_os_call) = wh_os_gate;
        return __builtin_expect(!!gate, 0) ? gate(call) : 0;
}

/* ---- os.c ---- */
/* Is this kernel at least so new? Asked once, when the first task is opened: a sandbox may not let us ask later. */
bool wh_os_kernel_since(unsigned major, unsigned minor);

/* ---- memory.c ---- */
/* NULL when there is none; the gate can make it fail. Zeroed. Freed with free(). */
void *wh_os_calloc(size_t n, size_t size);
void *wh_os_malloc(size_t size);
/* For payloads that are given out: aligned to a cache line (WHARF_PAYLOAD_ALIGN). free() takes it. */
enum { WH_PAYLOAD_ALIGN = 64 };
void *wh_os_malloc_payload(size_t size);
void *wh_os_realloc(void *p, size_t size);
int wh_os_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off, void **ret);
int wh_os_munmap(void *p, size_t len);
int wh_os_mprotect(void *p, size_t len, int prot);
int wh_os_madvise(void *p, size_t len, int advice);
/* Which pages of a mapping are in memory: bit 0 of a byte of `ret` for each. */
int wh_os_mincore(void *p, size_t len, unsigned char *ret);
/* A mapping to read and write that no forked child has, not even one that another thread forks right now. */
int wh_os_mmap_unforked(size_t len, int flags, int fd, void **ret);
int wh_os_mremap(void *p, size_t old_len, size_t len, int flags, void **ret);
int wh_os_msync(void *p, size_t len);
/*
 * How much of a private mapping of a file are pages of this process's own, because it wrote to them: told by
 * /proc/self/pagemap, and a negative errno where that cannot be read.
 */
int wh_os_private_bytes(const void *p, size_t len, uint64_t *ret_bytes);

/* System V segments; `flags` of shmget(2) and shmat(2). */
struct shmid_ds;
int wh_os_shmget(int32_t key, size_t len, int flags);
int wh_os_shmat(int id, void *at, int flags, void **ret);
int wh_os_shmdt(void *p);
/* `cmd` of shmctl(2); the answer of the call, which some commands make an index or an identifier. */
int wh_os_shmctl(int id, int cmd, struct shmid_ds *ds);

/* ---- fd.c ---- */
int wh_os_close(int fd);      /* also forgets wh_os_fd_private(); -1 is allowed. What strangers sent: closer.h */
void wh_os_close_now(int fd); /* the same, of which no test is to know: for closer.c alone */
void wh_os_fd_shared(int fd); /* forgets wh_os_fd_private() */
static inline void wh_os_close_p(int *fd)
{
        wh_os_close(*fd);
}
/* A descriptor that closes itself when its scope ends: see base/cleanup.h. */
#define WH_AUTO_FD __attribute__((cleanup(wh_os_close_p)))
int wh_os_dup(int fd);                /* close-on-exec, the lowest free number */
int wh_os_dup_above(int fd, int min); /* ... from `min` on */
int wh_os_dup_onto(int fd, int to);   /* ... as `to`, which is closed first */
ssize_t wh_os_read(int fd, void *buf, size_t len);
ssize_t wh_os_read_at(int fd, void *buf, size_t len, off_t at);
ssize_t wh_os_write(int fd, const void *buf, size_t len);
/* For a descriptor that was inherited: it shall not be inherited further. -EBADF */
int wh_os_cloexec(int fd);
int wh_os_nonblock(int fd, bool on);
/* The access mode that `fd` was opened with: O_RDONLY, O_WRONLY or O_RDWR; O_PATH for a descriptor that has none. */
int wh_os_fd_access(int fd);
/*
 * Descriptors that must not survive fork(): a child that keeps a copy of a socket hides the death of its parent. What
 * is marked private is closed in the child, before fork() returns there. A no-op for numbers above the table.
 */
void wh_os_fd_private(int fd);

/* ---- file.c ---- */
/* A memfd, mode 0600, that may be sealed and never be executed. Returns the descriptor. */
int wh_os_memfd(const char *name);
int wh_os_ftruncate(int fd, off_t len);
/*
 * Also reserves the blocks, so that a later touch cannot fail. -EFBIG rather than SIGXFSZ where RLIMIT_FSIZE is less.
 */
int wh_os_fallocate(int fd, int mode, off_t off, off_t len);
int wh_os_seal(int fd, int seals);
/* The seals, or a negative errno: -EINVAL for what cannot have any. */
int wh_os_get_seals(int fd);
int wh_os_fstat(int fd, struct stat *ret);
/* The magic number of the file system that `fd` lives on. */
int wh_os_fstatfs(int fd, uint64_t *ret_magic);
/*
 * How many of the first `len` bytes of a file of tmpfs have a page, here or on a swap device. -EOPNOTSUPP where this cannot
 * be asked. It takes no lock of the file, unlike SEEK_HOLE: whoever made the file holds that for as long as a fallocate() takes, or,
 * before Linux 6.16, a write() of its own pages that come by FUSE.
 */
int wh_os_bytes_there(int fd, uint64_t len, uint64_t *ret);
bool wh_os_holes_asked(void);       /* can it be asked? */
enum { WH_OS_SYS_CACHESTAT = 451 }; /* on every machine; headers older than Linux 6.5 do not say */
/* To a file or memfd, at an offset; -EFBIG rather than SIGXFSZ where RLIMIT_FSIZE is less. */
ssize_t wh_os_write_at(int fd, const void *buf, size_t len, off_t at);
int wh_os_fchmod(int fd, mode_t mode);
int wh_os_fchown(int fd, uid_t uid, gid_t gid);
int wh_os_flock(int fd, int op);
/*
 * A lock on one byte of a file, there or not, for nobody but whoever has this very open file: a descriptor, its copies,
 * and what was mapped from it. It ends with the last of them. -EAGAIN when another open file has it.
 */
int wh_os_lock_byte(int fd, int64_t at);
/* 1 when another open file than this one has that byte locked, 0 when none, or a negative errno. */
int wh_os_byte_locked(int fd, int64_t at);

/* ---- path.c ---- */
int wh_os_open(const char *path, int flags, mode_t mode);
int wh_os_unlink(const char *path);
int wh_os_chmod(const char *path, mode_t mode);
int wh_os_mkdir(const char *path, mode_t mode);
/* The same below a directory that is open (O_PATH is enough): whatever its path leads to by now. */
int wh_os_open_at(int dir, const char *name, int flags, mode_t mode);
int wh_os_mkdir_at(int dir, const char *name, mode_t mode);
int wh_os_unlink_at(int dir, const char *name);
int wh_os_lstat_at(int dir, const char *name, struct stat *ret);
int wh_os_chmod_at(int dir, const char *name, mode_t mode); /* follows a link; for one's own directory */
int wh_os_rename(const char *from, const char *to);
int wh_os_lstat(const char *path, struct stat *ret); /* of the link itself, where it is one */
/* May this process, with its effective ids, execute `path`? 0 or a negative errno. */
int wh_os_can_execute(const char *path);
/* A descriptor that is readable when something happened that was asked for; non-blocking. See inotify(7). */
int wh_os_inotify(void);
int wh_os_inotify_add(int fd, const char *path, uint32_t mask);
/* Identity, kind, size, owner and times, as the kernel knows them without asking a server over the network. */
int wh_os_stat(const char *path, bool follow, struct stat *ret);
/* Give the file that `fd` has open a name that must be free. It may have had none: O_TMPFILE. Needs /proc. */
int wh_os_link_fd(int fd, const char *path);
/*
 * Call `fn` for each entry but "." and ".."; stops when it answers non-zero, and returns that. What appears or goes
 * meanwhile may be missed.
 */
int wh_os_readdir(const char *path, int (*fn)(const char *name, void *arg), void *arg);
/* Length of the target, which is not terminated by a 0. */
ssize_t wh_os_readlink(const char *path, char *buf, size_t cap);

/* ---- socket.c ---- */
/* A connected pair of SOCK_SEQPACKET sockets. Every use says MSG_DONTWAIT, so O_NONBLOCK does not matter. */
int wh_os_socketpair(int ret[2]);
int wh_os_socket_unix(int type);
int wh_os_bind_unix(int fd, const char *path);
int wh_os_connect_unix(int fd, const char *path);
int wh_os_listen(int fd, int backlog);
int wh_os_accept(int fd); /* non-blocking, close-on-exec */
/* `flags` beside MSG_DONTWAIT | MSG_NOSIGNAL, which are always there. */
ssize_t wh_os_sendmsg(int fd, const struct msghdr *m, int flags);
/* One byte, the cheapest datagram there is; flags as wh_os_sendmsg(). */
int wh_os_send_byte(int fd);
/* `flags` beside MSG_DONTWAIT | MSG_CMSG_CLOEXEC, which are always there. 0 is the end (O6), or an empty datagram. */
ssize_t wh_os_recvmsg(int fd, struct msghdr *m, int flags);
/* Bytes that wait on a Unix socket, over all datagrams. */
int wh_os_inq(int fd);
int wh_os_getsockopt(int fd, int level, int name, void *val, socklen_t *len);
int wh_os_setsockopt(int fd, int level, int name, const void *val, socklen_t len);
int wh_os_shutdown(int fd, int how);
/* What was sent on a Unix socket and not read yet: 0 when nothing, or when the kernel will not say a negative errno. */
int wh_os_unread(int fd);

/* ---- wait.c ---- */
#define WH_NEVER INT64_MAX
/* CLOCK_MONOTONIC, nanoseconds. Not gated: it cannot fail. */
int64_t wh_os_now_ns(void);
/* Processor time of this thread, in nanoseconds: a system call. */
int64_t wh_os_thread_ns(void);
/*
 * A cheap clock of unknown unit that only serves to notice that time passes (TSC; the monotonic clock elsewhere), and
 * how many of its ticks make about a microsecond.
 */
static inline uint64_t wh_os_ticks(void)
{
#if defined(__x86_64__)
        return __builtin_ia32_rdtsc();
#else
        return (uint64_t)wh_os_now_ns();
#endif
}
uint64_t wh_os_ticks_per_us(void);
/* Deadlines are CLOCK_MONOTONIC ns: WH_NEVER waits for ever, anything past returns at once. 0 on timeout. */
int wh_os_poll(struct pollfd *fds, unsigned n, int64_t deadline_ns);
int wh_os_epoll(void);
int wh_os_epoll_add(int ep, int fd, uint32_t events, uint64_t data);
int wh_os_epoll_mod(int ep, int fd, uint32_t events, uint64_t data);
int wh_os_epoll_del(int ep, int fd);
int wh_os_epoll_wait(int ep, struct epoll_event *ev, int n, int64_t deadline_ns);
int wh_os_eventfd(void); /* non-blocking, starts at 0 */
int wh_os_eventfd_set(int fd);
int wh_os_eventfd_clear(int fd);
/* 0 when woken (perhaps for nothing), -EAGAIN when *word was not `expect`, -ETIMEDOUT, -EINTR. */
int wh_os_futex_wait(_Atomic uint32_t *word, uint32_t expect, int64_t deadline_ns, bool shared);
int wh_os_futex_wake(_Atomic uint32_t *word, int n, bool shared); /* how many were woken */

/* ---- process.c ---- */
pid_t wh_os_getpid(void);
pid_t wh_os_gettid(void);
uid_t wh_os_getuid(void);
uid_t wh_os_geteuid(void);
gid_t wh_os_getgid(void);
int wh_os_pidfd_open(pid_t pid);
int wh_os_pidfd_kill(int pidfd, int sig);
int wh_os_kill(pid_t pid, int sig);
/* Has a signal stopped this process? Without /proc nobody knows: false. */
bool wh_os_is_stopped(pid_t pid);
/*
 * The program that this process runs, as an absolute path: what /proc says; without /proc what exec() was given, which
 * may be another file by now. -ENOENT where neither is there.
 */
int wh_os_self_exe(char *buf, size_t cap);
/* Soft limit; RLIM_INFINITY becomes UINT64_MAX. */
int wh_os_rlimit(int which, uint64_t *ret);
/* CPUs that are online, wherever this thread may run: those it talks to may run elsewhere. At least 1. */
int wh_os_cpus(void);
ssize_t wh_os_process_vm_readv(pid_t pid, const struct iovec *to, unsigned n_to, const struct iovec *from, unsigned n);
ssize_t wh_os_process_vm_writev(pid_t pid, const struct iovec *from, unsigned n_from, const struct iovec *to,
                                unsigned n);
int wh_os_getrandom(void *buf, size_t len);
/* Wait for the end of a child; *ret as of waitpid(2). */
int wh_os_wait(pid_t pid, int *ret);

/* ---- start.c ---- */
/*
 * Start argv[0] (found by PATH), detached in a session of its own, with `fds[i]` as descriptor 3 + i and nothing else
 * but the standard three (from /dev/null when `quiet`; standard error is `err_fd` unless that is -1). A grandchild, so
 * the caller never has to wait for it. The environment gains `env`, a NULL-terminated list of NAME=VALUE that may be
 * NULL.
 */
int wh_os_spawn_detached(char *const argv[], const int *fds, unsigned n_fds, char *const env[], bool quiet, int err_fd);
/*
 * Start argv[0], a path, as a child of this process: with `fds[i]` as descriptor 3 + i and nothing else but the
 * standard three, no signal blocked, and `env` as all of its environment, in which LISTEN_PID= becomes the child's
 * number. The way in which service managers start programs, sd_listen_fds(3). Its pid.
 */
pid_t wh_os_spawn_activated(char *const argv[], const int *fds, unsigned n_fds, char *const env[]);

#endif
