/*
 * rows - what the files of the environments share: each makes one kind of them, and rows.c has the table.
 */
#ifndef MATRIX_ROWS_H
#define MATRIX_ROWS_H

#include "party.h"

#include <stdbool.h>

enum { NOBODY = 65534, SOMEBODY = 1234 };

/* MATRIX_NOT_HERE, with why: what was tried, and errno. */
int row_not_here(const char *what);

/* ---- bounds.c ---- */
int row_nobody(struct party *p);
int row_somebody(struct party *p);
int row_umask_all(struct party *p);
int row_umask_none(struct party *p);
int row_umask_all_nobody(struct party *p);
int row_no_capabilities(struct party *p);
int row_no_new_privileges(struct party *p);
int row_not_dumpable(struct party *p);
int row_files_64(struct party *p);
int row_files_1024(struct party *p);
int row_files_many(struct party *p);
int row_address_space(struct party *p);
int row_locked_0(struct party *p);
int row_locked_all(struct party *p);
int row_file_size_0(struct party *p);

/* ---- sandboxes.c ---- */
int row_enter(int namespaces, const char *what);
/* Writes `text` to the file `path`; errno says why not. */
bool row_put(const char *path, const char *text);
int row_pid_namespace(struct party *p);
int row_user_namespace(struct party *p);
int row_user_namespace_mapped(struct party *p);
int row_no_proc_no_shm(struct party *p);
int row_other_namespaces(struct party *p);
int row_memfd_noexec(struct party *p);
int row_chrooted(struct party *p);
int row_nowhere(struct party *p);
int row_sandboxed(struct party *p);
int row_no_memfds(struct party *p);
int row_old_calls_only(struct party *p);
int row_as_linux_5_15(struct party *p);
int row_landlocked(struct party *p);

/* ---- clocks.c ---- */
int row_later_clock(struct party *p);
int row_earlier_clock(struct party *p);
int row_wall_clock(struct party *p);

#endif
