/*
 * payload - memory out of line: sealed memfds in which the bytes of one message travel.
 *
 * Always true: a descriptor leaves this process only when nobody can write to its memory any more (WH_SEALS_IMMUTABLE).
 */
#ifndef WH_LINK_PAYLOAD_H
#define WH_LINK_PAYLOAD_H

#include <stdint.h>

/* A memfd of no size, which is close-on-exec and closed on fork; and `len` bytes for it, where there are so many. */
int wh_payload_fd(const char *name);
int wh_payload_reserve(int fd, uint64_t len);
/* `len` bytes of `data` as a new sealed memory. */
int wh_payload_of(const void *data, uint64_t len, int *ret);
/* Map a sealed memory that was checked, as this process's own view of it. */
int wh_payload_map(int fd, uint64_t len, void **ret);

#endif
