/*
 * call - how the files of this folder make a system call: by the gate (O1), with a negative errno (O2), and for what makes a
 * descriptor once more when there was none left.
 */
#ifndef WH_OS_CALL_H
#define WH_OS_CALL_H

#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * O5: what glibc makes a cancellation point is called without glibc. A thread that is cancelled in the middle of a send
 * would otherwise end there, with a lock held; and switching cancellation off and on costs as much as a small call.
 */
#define RAW(name, ...) syscall(SYS_##name, __VA_ARGS__)
#if defined(__SANITIZE_THREAD__) && !defined(RAW_SENDMSG)
/* The thread sanitizer remembers who made a descriptor; it must be told where one ends and the next begins. */
void __sanitizer_syscall_pre_impl_close(long fd);
#define CLOSING(fd) __sanitizer_syscall_pre_impl_close(fd)
#else
#define CLOSING(fd) (void)(fd)
#endif
#ifndef RAW_SENDMSG /* the proofs put themselves in between */
#define RAW_SENDMSG(...) RAW(sendmsg, __VA_ARGS__)
#define RAW_RECVMSG(...) RAW(recvmsg, __VA_ARGS__)
#define RAW_GETRANDOM(...) RAW(getrandom, __VA_ARGS__)
#define RAW_PPOLL(...) RAW(ppoll, __VA_ARGS__)
#define RAW_EPOLL_WAIT(...) RAW(epoll_pwait, __VA_ARGS__)
#endif

/* Ask the gate, make the call, turn -1 into a negative errno, and leave the caller's errno as it was. */
#define OS_CALL(name, expr)                          \
        ({                                           \
                long r_ = wh_os_enter(WH_OS_##name); \
                if (r_ == 0) {                       \
                        int saved_ = errno;          \
                        r_ = (long)(expr);           \
                        if (r_ == -1)                \
                                r_ = -errno;         \
                        errno = saved_;              \
                }                                    \
                r_;                                  \
        })

enum { ROOM_SOON_NS = 5000000 };

/* One that makes a descriptor. Those that wait for their thread (closer.h) are as good as closed. */
#define OS_FD(name, expr)                                                  \
        ({                                                                 \
                long fd_ = OS_CALL(name, expr);                            \
                if (fd_ == -EMFILE && wh_os_closer_catch_up(ROOM_SOON_NS)) \
                        fd_ = OS_CALL(name, expr);                         \
                fd_;                                                       \
        })

#endif
