/*
 * wharf/segment.h - shared memory of every kind behind one set of calls, and addresses that are checked.
 *
 * A segment has a name that says its kind, or none:
 *
 *      posix:OS            the object that plain programs open as shm_open("/OS") or shm_open("OS")
 *      sysv:0x4d2          the System V segment with that key (decimal works too): shmget(0x4d2, ...)
 *      sysv:PATH#ID        the same with the key ftok(PATH, ID), ID being a number from 1 to 255 or one character
 *      sysv:id=17          an existing System V segment by its identifier, key or not (IPC_PRIVATE)
 *      file:PATH           a memory-mapped file
 *      anon:LABEL          no name: a memfd; LABEL is only shown in /proc. Children inherit it, messages carry it
 *
 * Plain programs that know nothing of wharf share all of them: nothing is added to the contents.
 *
 * Life:    a named segment stays until it is removed, whoever dies; an anonymous one goes with its last user. None
 *          but a file survives a restart of the machine. A segment that is created appears complete, with its size and
 *          its mode, or not at all, even when its maker is killed (on file systems without O_TMPFILE, and for System V:
 *          the size and the mode are there at once, but blocks are reserved after it appeared).
 * Memory:  the blocks are reserved when a segment is created or grown, so a later touch cannot fail (SIGBUS), unless
 *          WHARF_SEGMENT_SPARSE was asked for. A request for more memory than is left is refused before any is
 *          reserved. What another task can still do to it: see wharf_segment_resize().
 * Errors:  0 or a count on success, a negative errno on failure. A failed call changes nothing: outputs are
 *          untouched, and what you passed in is still yours.
 * Threads: one wharf_segment may be used by many threads at once for wharf_segment_at(), wharf_segment_offset() and
 *          wharf_segment_stat(). During any other call no other thread may use it.
 * Fork:    a child goes on using the parent's segment, attached where it was.
 * No call here waits, except for the file system.
 */
#ifndef WHARF_SEGMENT_H
#define WHARF_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include <wharf/api.h>

WHARF_BEGIN

typedef struct wharf_segment wharf_segment; /* this process's handle; opaque, always handled by pointer */

enum wharf_segment_kind {
        WHARF_SEGMENT_POSIX = 1,
        WHARF_SEGMENT_SYSV,
        WHARF_SEGMENT_FILE,
        WHARF_SEGMENT_ANONYMOUS,
};

/* "posix", "sysv", "file", "anon"; NULL for anything else. */
WHARF_API const char *wharf_segment_kind_name(uint32_t kind);

/* Access, for opening and attaching. Writing includes reading. */
#define WHARF_SEGMENT_READ 1u
#define WHARF_SEGMENT_WRITE 2u

/* wharf_segment_opts.flags */
#define WHARF_SEGMENT_SPARSE 1u /* do not reserve the blocks: cheap, and a later touch may kill with SIGBUS */
/*
 * Anonymous: seal the size (F_SEAL_SHRINK and F_SEAL_GROW), so that whoever receives it can rely on it.
 * wharf_segment_from_fd(): refuse what is not sealed so.
 */
#define WHARF_SEGMENT_SEALED 2u

/* Clear it, set `size`, then what you care about. A zero field asks for the default. */
struct wharf_segment_opts {
        uint32_t size;  /* sizeof this struct; how it grows without breaking callers */
        uint32_t mode;  /* permission bits, taken exactly, whatever the umask; default 0600 */
        uint32_t flags; /* WHARF_SEGMENT_SPARSE, WHARF_SEGMENT_SEALED */
        uint32_t reserved;
};

/*
 * Make a segment of zeroes. It is not attached yet.
 *
 * @name   as above. Borrowed.
 * @bytes  at least 1. Mapping works in pages; the limit of wharf_segment_at() is this very number.
 * @opts   NULL for all defaults. Borrowed during the call.
 * @ret    open for writing. Owned by the caller; give it back with wharf_segment_close(), which removes nothing.
 *
 * Errors: -EINVAL        the name is malformed, or bytes, mode or flags cannot be
 *         -EEXIST        the name is taken
 *         -ENAMETOOLONG
 *         -ENOSPC        not enough room: on the file system, or of System V segments (kernel.shmmni, kernel.shmall)
 *         -ENOMEM        more than the memory that is left, on this machine or in a memory cgroup of this task, which
 *                        wharf_why() names; or more than kernel.shmmax
 *         -EFBIG         more than RLIMIT_FSIZE or the file system allows
 *         -EACCES, -ENOENT  of the directory of a file, or of ftok()'s path
 *         -EMFILE, -ENFILE
 */
WHARF_API int wharf_segment_create(const char *name, uint64_t bytes, const struct wharf_segment_opts *opts,
                                   wharf_segment **ret);

/*
 * Open a named segment that exists.
 *
 * @access  WHARF_SEGMENT_READ or WHARF_SEGMENT_WRITE: the most that can be attached later.
 * @ret     not attached. Owned by the caller; give it back with wharf_segment_close().
 *
 * Errors: -EINVAL  the name is malformed, or anonymous
 *         -ENOENT  there is none of that name
 *         -EACCES  its mode does not let this user
 *         -ENODEV  the name belongs to something that is no memory: a directory, a device
 *         -EMFILE, -ENFILE, -ENOMEM
 */
WHARF_API int wharf_segment_open(const char *name, uint32_t access, wharf_segment **ret);

/*
 * Make a segment from a descriptor: a memfd that came in a message, or anything else that can be mapped.
 *
 * @fd      Consumed on success.
 * @access  as above; not more than the descriptor was opened for.
 * @flags   WHARF_SEGMENT_SEALED when its sender is not trusted: it must be memory (no file of a file system that somebody
 *          serves, no huge pages), its size sealed, and its blocks reserved (what was never written is read once, to see
 *          that). They are there for good only where it is sealed against writing as well (F_SEAL_WRITE); otherwise
 *          whoever can write may punch holes later.
 *
 * Errors: -EINVAL  access or flags cannot be
 *         -EBADF   fd is no open descriptor
 *         -ENODEV  not a regular file
 *         -EACCES  the descriptor does not allow the access
 *         -EPROTO  WHARF_SEGMENT_SEALED was asked for, and it is not such memory
 *         -ENOMEM
 */
WHARF_API int wharf_segment_from_fd(int fd, uint32_t access, uint32_t flags, wharf_segment **ret);

/*
 * Returns the descriptor, to be sent in a message: its receiver can attach the segment with the access it was opened
 * for here. Borrowed: it is closed with the segment. It is close-on-exec; a child that runs another program needs a
 * dup() of it.
 * Errors: -EOPNOTSUPP: System V segments have none.
 */
WHARF_API int wharf_segment_fd(const wharf_segment *seg);

/*
 * Attach.
 *
 * @access  WHARF_SEGMENT_READ: writing there raises SIGSEGV. WHARF_SEGMENT_WRITE.
 * @at      NULL for any address: then the contents should hold offsets. Otherwise this very address, the same in every
 *          task, so that the contents can hold pointers. It must be a multiple of the page size, and is refused when
 *          anything is mapped there: an existing mapping is never replaced.
 *
 * Errors: -EINVAL      access or at cannot be
 *         -EALREADY    it is attached
 *         -EACCES      it was opened for less
 *         -EADDRINUSE  [at, at + size) is not free in this task
 *         -ENODATA     its size is 0: its maker has not given it one yet
 *         -EIDRM       it was removed meanwhile (System V)
 *         -ENOMEM, and -EPERM for addresses the kernel keeps for itself
 */
WHARF_API int wharf_segment_attach(wharf_segment *seg, uint32_t access, void *at);
/* Detach; it stays open. Errors: -EINVAL: it is not attached. */
WHARF_API int wharf_segment_detach(wharf_segment *seg);

/* ---- relocation and limit: the only way to follow an offset ---- */

/*
 * The address of [offset, offset + len_bytes): base + offset, after the check against the limit. NULL when any of it
 * lies outside, and when the segment is not attached. Safe for any values: another task may have chosen them.
 */
WHARF_API void *wharf_segment_at(const wharf_segment *seg, uint64_t offset, uint64_t len_bytes);
/* The offset of an address. Errors: -EFAULT: outside. */
WHARF_API int wharf_segment_offset(const wharf_segment *seg, const void *at, uint64_t *ret_offset);
/* The base, NULL when not attached, and the limit: bytes attached, or else the size when it was opened. */
WHARF_API void *wharf_segment_base(const wharf_segment *seg);
WHARF_API uint64_t wharf_segment_bytes(const wharf_segment *seg);

/* ---- size, permissions, removal ---- */

/*
 * Change the size. What is added is zeroes, with its blocks reserved. An attached segment stays where it is if the
 * addresses behind it are free; if not, it moves, except when it was attached at an address of the caller's choice.
 * Other tasks keep what they have attached until they call wharf_segment_refresh(). A task that still has more
 * attached than there is dies of SIGBUS when it touches the rest: shrink only what nobody else uses. Tasks must agree
 * on who resizes.
 *
 * Errors: -EOPNOTSUPP  System V segments never change
 *         -EPERM       the size is sealed
 *         -EACCES      opened for reading only
 *         -EADDRINUSE  attached at a chosen address, and what lies behind it is taken
 *         -EINVAL      0 bytes, or too many
 *         -ENOSPC, -EFBIG, -ENOMEM
 */
WHARF_API int wharf_segment_resize(wharf_segment *seg, uint64_t bytes);

/* Take over a size that another task has given it. Returns 1 when it had changed, else 0. Errors as for resizing. */
WHARF_API int wharf_segment_refresh(wharf_segment *seg);

/*
 * Make sure that the pages of [offset, offset + len_bytes) are there, so that writing to them cannot fail. A sparse
 * segment has pages that nobody has touched, and a task that maps it cannot know which: where there is no room for such
 * a page when it is touched, even by a read, the task dies of SIGBUS. Pages that are there already stay as they are.
 * The segment need not be attached, except for System V.
 *
 * Errors: -EINVAL      the range lies outside, or a System V segment is not attached
 *         -EACCES      opened, or attached, for reading only
 *         -ENOSPC      not enough room on its file system; nothing has changed
 *         -ENOMEM      more than the memory that is left; wharf_why() says where it ran out
 *         -EPERM       it is sealed against writing
 */
WHARF_API int wharf_segment_reserve(wharf_segment *seg, uint64_t offset, uint64_t len_bytes);

/* Write the contents of an attached file to the disk, and wait for it. Does nothing for the others. */
WHARF_API int wharf_segment_sync(wharf_segment *seg);

/* Change the mode; what is attached or open stays so. Errors: -EPERM: this user does not own it. -EINVAL. */
WHARF_API int wharf_segment_chmod(wharf_segment *seg, uint32_t mode);
/* Change the owner; UINT32_MAX leaves that one as it is. Errors: -EPERM. */
WHARF_API int wharf_segment_chown(wharf_segment *seg, uint32_t uid, uint32_t gid);

/*
 * Remove the name. Memory goes when the last task that has it attached or open is done with it.
 * Errors: -ENOENT, -EACCES or -EPERM: this user may not; -EINVAL: malformed or anonymous; -ENODEV: it is something
 * else, which is left alone.
 */
WHARF_API int wharf_segment_remove(const char *name);

/* Detach and free. NULL is allowed. Returns NULL so callers can write `s = wharf_segment_close(s)`. */
WHARF_API wharf_segment *wharf_segment_close(wharf_segment *seg);

/* ---- seeing it ---- */

/* wharf_segment_stat.flags */
#define WHARF_SEGMENT_STAT_REMOVED 1u /* has no name any more, or never had one; lives as long as its users */
#define WHARF_SEGMENT_STAT_SEALED 2u  /* its size can never change */

struct wharf_segment_stat {
        uint32_t kind; /* enum wharf_segment_kind */
        uint32_t mode; /* permission bits */
        uint32_t uid, gid;
        uint32_t flags;
        uint32_t creator_pid; /* System V; 0 when unknown */
        int32_t key, id;      /* System V; 0 and -1 for the others */
        uint64_t bytes;
        uint64_t allocated_bytes; /* reserved or touched; of System V segments the kernel tells only the size */
        uint64_t device, inode;   /* what tells segments apart; inode is the id of a System V segment */
        int64_t attached;         /* how often, as the kernel counts (System V); -1 where it does not count */
        int64_t changed_s;        /* seconds since 1970: contents of a file, attributes of a System V segment */
};
/* How a segment stands now. */
WHARF_API int wharf_segment_stat(const wharf_segment *seg, struct wharf_segment_stat *ret);

/*
 * Call `fn` for every POSIX and System V segment of this machine (files and anonymous ones have no list), with the
 * name that opens it. Stops when `fn` answers non-zero, and returns that. Semaphores that live beside the POSIX
 * segments are left out.
 */
WHARF_API int wharf_segment_list(int (*fn)(const char *name, const struct wharf_segment_stat *st, void *arg),
                                 void *arg);

struct wharf_segment_user {
        uint32_t pid;
        bool mapped;   /* attached now */
        bool writable; /* attached for writing */
        bool open;     /* holds a descriptor of it */
};

/*
 * Who uses which of `n` segments, from /proc: `fn` is called once for each pair of a task and the segment stats[i] that
 * it has attached or open. Stops when `fn` answers non-zero, and returns that.
 *
 * @ret_unseen  how many tasks could not be looked at: other users' tasks, unless root asks. May be NULL.
 */
WHARF_API int wharf_segment_users(const struct wharf_segment_stat *stats, uint32_t n,
                                  int (*fn)(uint32_t i, const struct wharf_segment_user *user, void *arg), void *arg,
                                  uint32_t *ret_unseen);

WHARF_END

#endif
