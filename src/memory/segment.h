/*
 * segment - what the files of wharf/segment.h share: the handle, and names taken apart.
 */
#ifndef WH_MEMORY_SEGMENT_H
#define WH_MEMORY_SEGMENT_H

#include <limits.h>
#include <sys/stat.h>
#include <wharf/segment.h>

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

void wh_segment_stat_fill(uint32_t kind, const struct stat *st, struct wharf_segment_stat *ret);

struct shmid_ds;
void wh_segment_stat_sysv(int id, const struct shmid_ds *ds, struct wharf_segment_stat *ret);

#endif
