/*
 * hooked - included by force, before everything else, into every source that is compiled for the proofs.
 *
 * The compiler's thread sanitizer turns loads, stores, atomics and fences into calls. It does not see what libc does on
 * our behalf: the copying functions, and the calls that make memory shared or private. Those go through the runtime by
 * name. The system headers come first, so that only our own calls are renamed.
 */
#ifndef PROOF_RUNTIME_HOOKED_H
#define PROOF_RUNTIME_HOOKED_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

void *hook_memcpy(void *to, const void *from, size_t n);
void *hook_memmove(void *to, const void *from, size_t n);
void *hook_memset(void *to, int byte, size_t n);
int hook_memcmp(const void *a, const void *b, size_t n);
void *hook_malloc(size_t size);
void *hook_calloc(size_t n, size_t size);
void *hook_realloc(void *p, size_t size);
void hook_free(void *p);
void *hook_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
int hook_munmap(void *p, size_t len);
int hook_madvise(void *p, size_t len, int advice);
void *hook_mremap(void *p, size_t old_len, size_t len, int flags);
void *hook_shmat(int id, const void *at, int flags);
int hook_shmdt(const void *p);
pid_t hook_getpid(void);
uint64_t hook_ticks(void);
ssize_t hook_getrandom(void *to, size_t n, unsigned flags);
ssize_t hook_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t hook_sendmsg(int fd, const struct msghdr *m, int flags);
struct pollfd;
struct epoll_event;
struct timespec;
long hook_ppoll(struct pollfd *fds, unsigned n, const struct timespec *left, const void *mask, size_t mask_len);
long hook_epoll_wait(int ep, struct epoll_event *ev, int n, int ms, const void *mask, size_t mask_len);

#ifndef HOOK_KEEP_NAMES
#define memcpy(...) hook_memcpy(__VA_ARGS__)
#define memmove(...) hook_memmove(__VA_ARGS__)
#define memset(...) hook_memset(__VA_ARGS__)
#define memcmp(...) hook_memcmp(__VA_ARGS__)
#define __builtin_memcpy(...) hook_memcpy(__VA_ARGS__)
#define __builtin_memmove(...) hook_memmove(__VA_ARGS__)
#define __builtin_memset(...) hook_memset(__VA_ARGS__)
#define malloc(...) hook_malloc(__VA_ARGS__)
#define calloc(...) hook_calloc(__VA_ARGS__)
#define realloc(...) hook_realloc(__VA_ARGS__)
#define mmap(...) hook_mmap(__VA_ARGS__)
#define munmap(...) hook_munmap(__VA_ARGS__)
#define madvise(...) hook_madvise(__VA_ARGS__)
#define mremap(...) hook_mremap(__VA_ARGS__)
#define shmat(...) hook_shmat(__VA_ARGS__)
#define shmdt(...) hook_shmdt(__VA_ARGS__)
#define getpid() hook_getpid()
#define __builtin_ia32_rdtsc() hook_ticks()
#define RAW_GETRANDOM(...) hook_getrandom(__VA_ARGS__)
#define RAW_RECVMSG(...) hook_recvmsg(__VA_ARGS__)
#define RAW_SENDMSG(...) hook_sendmsg(__VA_ARGS__)
#define RAW_PPOLL(...) hook_ppoll(__VA_ARGS__)
#define RAW_EPOLL_WAIT(...) hook_epoll_wait(__VA_ARGS__)
/* Without arguments: free is also passed as a function. */
#define free hook_free
#endif

#endif
