/*
 * page - one page that its maker writes and all others can only read: what a task or a port says about itself.
 */
#ifndef WH_TASK_PAGE_H
#define WH_TASK_PAGE_H

#include <stdint.h>

/*
 * What these pages have in common: a sealed memfd of one page that its maker writes and all others can only read; its
 * first two words are a magic and a version. Of somebody else's, both are checked before it is answered.
 * Errors: -EMFILE, -ENFILE, -ENOMEM; -EPROTO, -EPROTONOSUPPORT
 */
int wh_status_page_new(const char *what, int *ret_fd, void **ret);
int wh_status_page_open(int fd, uint64_t magic, uint64_t version, const void **ret);

#endif
