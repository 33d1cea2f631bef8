/*
 * segment - shared memory of four kinds behind one handle.
 *
 * Why: POSIX objects, files and memfds are descriptors and differ only in how one comes by them; System V segments
 * are identifiers. After opening, all that differs is how they are mapped, which is the only thing that the functions
 * below tell apart.
 *
 * Always true:
 *   G1  base is NULL or the start of a shared mapping of exactly round_up(limit) bytes.
 *   G2  A segment gets its name last: what can be opened by name is complete. Where the kernel cannot do that, a
 *       failure or an error removes the name again.
 *   G3  Nothing that was mapped before is ever replaced: MAP_FIXED_NOREPLACE, and shmat() without SHM_REMAP.
 *   G4  No call follows an offset: wharf_segment_at() compares it with the limit, which lives in private memory.
 */
#ifndef WH_MEMORY_SEGMENT_H
#define WH_MEMORY_SEGMENT_H

#include "base/bits.h"
#include "base/cleanup.h"
#include "wharf/segment.h"

#include <limits.h>
#include <sys/stat.h>

#define WH_POSIX_DIR "/dev/shm"

struct wharf_segment {
        uint32_t kind;   /* enum wharf_segment_kind */
        uint32_t access; /* the most that can be attached */
        uint32_t flags;  /* WHARF_SEGMENT_SPARSE, for growing */
        int fd;          /* -1 for System V */
        int id;          /* System V; else -1 */
        void *base;      /* NULL when not attached */
        uint64_t limit;  /* bytes; while attached, what is mapped (in whole pages) */
        int prot;        /* PROT_*, of the mapping */
        bool chosen;     /* attached at an address of the caller's choice: never moves */
};

#define WH_SEGMENT_BYTES_MAX ((uint64_t)INT64_MAX - WH_PAGE)

/* NULL: no memory. */
wharf_segment *wh_segment_new(uint32_t kind);
WH_AUTO_DEFINE(segment, wharf_segment, (void)wharf_segment_close);

static inline bool wh_segment_writes(uint32_t access)
{
        return access & WHARF_SEGMENT_WRITE;
}

/* What a mapping of so many bytes takes. */
static inline uint64_t wh_segment_pages(uint64_t bytes)
{
        return wh_round_up(bytes, WH_PAGE);
}

/* Map [from, to) of the descriptor, at `at` or anywhere. */
int wh_segment_map(const wharf_segment *seg, int prot, void *at, uint64_t from, uint64_t to, void **ret);

/* ---- segment_blocks.c ---- */

/* How large it is now. -EIDRM */
int wh_segment_size(const wharf_segment *seg, uint64_t *ret);
/*
 * Reserving memory without asking how much there is makes the kernel kill other processes, or this one, before we hear
 * of it: a memfd's file system has no limit. -ENOMEM when it cannot be.
 */
int wh_segment_check_memory(uint64_t bytes);
/*
 * From `old` to more `bytes`, in one change of the size, after all blocks are there. On failure the file is as it was.
 */
int wh_segment_grow(int fd, uint64_t old, uint64_t bytes, bool sparse);
/* Have every page of a writable mapping made now, so that none is missing later. */
int wh_segment_populate(void *p, uint64_t bytes);

/* ---- segment_name.c ---- */

struct wh_segment_name {
        uint32_t kind;
        bool has_id;      /* sysv:id= */
        int32_t key, id;  /* System V; one of the two */
        const char *path; /* POSIX and file: where it is. Anonymous: the label. Of the name that was taken apart, or: */
        char posix[sizeof WH_POSIX_DIR "/" + NAME_MAX];
};

/* `name` is borrowed for as long as `ret`. -EINVAL, -ENAMETOOLONG, -ENOMEM, and for sysv:PATH#ID what stat(2) answers
 * for the path. */
int wh_segment_name(const char *name, struct wh_segment_name *ret);

/* ---- segment_stat.c ---- */

void wh_segment_stat_fill(uint32_t kind, const struct stat *st, struct wharf_segment_stat *ret);

struct shmid_ds;
void wh_segment_stat_sysv(int id, const struct shmid_ds *ds, struct wharf_segment_stat *ret);

#endif
