/*
 * closer - descriptors that a stranger sent are closed where nobody waits for it.
 *
 * Why: close(2) is where the kernel catches up. The last close of a TCP socket with SO_LINGER sleeps until its bytes
 * are out, or as long as its maker likes; that of a Unix socket closes what lies unread in it, in the same call; and
 * any close of a file of FUSE or NFS asks a server. Under the lock of an inbox, or in a call with a deadline, such a
 * close would stop everybody. Whether a descriptor is of that kind cannot be found out without asking its maker, so
 * only those that are known not to be are closed at once:
 *
 *   C1  A close that is known not to sleep is made at once: of memory of moderate size, and of an end of a Unix pair in
 *       which nothing lies any more and that has no name in a file system. The last descriptor into a file system that
 *       was unmounted already (of a file, a named pipe, a socket that has its name there) takes all of that file system
 *       along, of any size: so nothing that may have come from one is closed at once.
 *   C2  Everything else is closed by a thread of its own, which is made when there is something to close, has every
 *       signal blocked, and is gone soon after. One that sleeps keeps none of the others: up to CLOSERS_MAX more are
 *       made.
 *   C3  A descriptor that waits for its thread is still this process's. The threads are not in a forked child, and it
 *       closes nothing of what waited: by the time that it could, the number may be something else's. So fork() gives
 *       them a moment first; what is still there is open in the child until it executes another program.
 *   C4  Where no thread can be made (a sandbox) it is closed on the spot.
 *   C5  How long a close takes is its maker's doing, too: it looks through all locks that processes have in the file
 *       (fcntl(F_SETLK)), which a stranger can make by the hundred thousand and nobody can count. So what is closed at
 *       once takes a tenth of the time at most, 5 ms in 50: beyond that C2 has the rest.
 */
#ifndef WH_OS_CLOSER_H
#define WH_OS_CLOSER_H

#include <stdbool.h>
#include <stdint.h>

/* Of memory so much is closed at once: freeing it takes a tenth of a millisecond, and a message brings 64. */
enum { WH_OS_AT_ONCE_BYTES = 1 << 20 };

/* Close what a stranger sent, or what may be one's last copy of it. Never waits (but C4). Negative: nothing. */
void wh_os_close_theirs(int fd);

/*
 * The same where the caller's user knows the number: it is free when this returns, so that whoever puts something else
 * there (dup2()) keeps it. What sleeps at any close, as a file of FUSE may, has us wait.
 */
void wh_os_close_given(int fd);

/*
 * The same for our end of a pair. WH_END_OURS: nobody else is to use this end any more, so it is shut down first and
 * emptied: nothing can come between the look at it and its close. Otherwise it was given to another process, and is
 * looked at; then it takes both that process's close and the other end's writing between the two to have us sleep.
 * WH_END_ACCEPTED: it came from a listening socket of our own, so its name is ours.
 */
enum wh_end { WH_END_SHARED = 0, WH_END_OURS = 1, WH_END_ACCEPTED = 2 };
void wh_os_close_end(int sock, enum wh_end how);

/* Another descriptor for what `kept` is, if the kernel says so: then this is not its last one. */
void wh_os_close_copy(int fd, int kept);

/* Do some wait for their thread? */
bool wh_os_closer_behind(void);
/*
 * Waits until none does and none is being closed, for `most_ns` at most: what had no room may have it then. So that
 * nobody can hold us up by what is never closed, a tenth of the time is waited at most: false where it was not, and
 * where there was nothing to wait for.
 */
bool wh_os_closer_catch_up(long long most_ns);

/* Changes with each descriptor that such a thread begins to close. */
uint32_t wh_os_closer_taken(void);

/* Until all that waits is closed, or the deadline passes (false). For tests, and for who counts descriptors. */
bool wh_os_closer_rest(long long deadline_ns);

#endif
