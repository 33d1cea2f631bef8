/*
 * notify - messages between a server and who holds its descriptors: a text, in the words of sd_notify(3), and descriptors.
 */
#ifndef WH_WHARFD_NOTIFY_H
#define WH_WHARFD_NOTIFY_H

#include "wharfd/given.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { WH_NOTIFY_FDS = 32 }; /* that one message may bring */

/* Without waiting. 0 or a negative errno. */
int wh_notify_try(int fd, const char *text, const int *fds, unsigned n);
/* The same; one that does not read is waited for, a while. -ETIMEDOUT */
int wh_notify_send(int fd, const char *text, const int *fds, unsigned n);
/*
 * One message, without waiting: its length, with a 0 behind it, or a negative errno. At most `max` descriptors, which the
 * caller owns; *ret_cut: it had more of them, or more text, than there was room for.
 */
ssize_t wh_notify_recv(int fd, char *text, size_t cap, int *fds, unsigned max, unsigned *ret_n, bool *ret_cut);
/* "READY=1" and the like. Failing is harmless. */
void wh_notify(int fd, const char *text);
/* A descriptor to be held under this name. */
int wh_notify_keep(int fd, const char *name, int what);

#endif
