/*
 * sealed - memory made by another process: what is asked of it before any of it is mapped.
 *
 * Always true of memory that passed:
 *   S1  It is a memfd, or a file of tmpfs like one: no load from it waits for a disk, a server or a reservation of huge
 *       pages.
 *   S2  Its size is what was answered and can never change, so no load from it can fault (SIGBUS).
 *   S3  Its blocks are there: reading a hole would make the reader pay for the page, and get SIGBUS where it cannot.
 *       How many blocks it has says little, since some may lie behind its end; so it is asked for holes
 *       (wh_sealed_whole()). Memory that is sealed against writing can get none later. Behind its end there are no more
 *       than a huge page has there, so that it costs what its size says to be rid of it.
 *   S4  Whatever else is promised by the seals that were asked for.
 */
#ifndef WH_MEMORY_SEALED_H
#define WH_MEMORY_SEALED_H

#include <stdint.h>
#include <sys/stat.h>

/*
 * Seals that say that nobody can ever write again: the kernel grants F_SEAL_WRITE only while no writable mapping that
 * is shared and no write under way exists.
 */
#define WH_SEALS_IMMUTABLE (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
/* Those of a lane: of its `back`, and of what its sender alone goes on to write. */
#define WH_SEALS_LANE (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define WH_SEALS_OUT (WH_SEALS_LANE | F_SEAL_FUTURE_WRITE)

/*
 * Is `fd` such a memory, with all of `seals` (which include F_SEAL_SHRINK and F_SEAL_GROW)? 0 with its size in bytes,
 * never 0; -EPROTO; or what the system says. Reads none of it. It is asked for holes apart (wh_sealed_whole()), since
 * that takes time with the size, 25 us for each MiB, which the caller may want to see first.
 */
int wh_sealed_size(int fd, int seals, uint64_t *ret_len);
/* The same for memory that others may open as well, of whatever mode. */
int wh_sealed_file(int fd, int seals, struct stat *ret);
/*
 * Seals for memory that this process has made, and that nobody else has yet. The kernel refuses them while it has a page in hand
 * itself, to move or to age it: then they are asked for again. -ENOMEM: it had one each time
 */
int wh_sealed_make(int fd, int seals);
/* Has it no hole? 0; -EPROTO: it has; -EOPNOTSUPP: it cannot be asked here, and wh_sealed_touch() finds out. */
int wh_sealed_whole(int fd, uint64_t len);
/*
 * Read all of its mapping, so that the pages are in it. 0; -EPROTO: it had a hole, of which no more than a few pages
 * were filled on our account; or what the system says.
 */
int wh_sealed_touch(int fd, void *map, uint64_t len);

#endif
