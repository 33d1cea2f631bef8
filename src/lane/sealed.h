/*
 * sealed - memory made by another process: what is asked of it before any of it is mapped.
 *
 * Always true of memory that passed:
 *   S1  It is a memfd, or a file of tmpfs like one: no load from it waits for a disk, a server or a reservation of huge
 *       pages.
 *   S2  Its size is what was answered and can never change, so no load from it can fault (SIGBUS).
 *   S3  Its blocks are there: reading a hole would make the reader pay for the page.
 *   S4  Whatever else the seals asked for promise.
 */
#ifndef WH_LANE_SEALED_H
#define WH_LANE_SEALED_H

#include <stdint.h>

/*
 * Seals that say that nobody can ever write again: the kernel grants F_SEAL_WRITE only while no writable mapping that
 * is shared and no write under way exists.
 */
#define WH_SEALS_IMMUTABLE (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/*
 * Is `fd` such a memory, with all of `seals` (which include F_SEAL_SHRINK and F_SEAL_GROW)? 0 with its size in bytes,
 * never 0; -EPROTO; or what the system says. Reads none of it.
 */
int wh_sealed_check(int fd, int seals, uint64_t *ret_len);

#endif
