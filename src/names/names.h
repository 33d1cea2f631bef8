/*
 * names - what other files of the library need of the client's side of wharfd, beside wharf/names.h.
 */
#ifndef WH_NAMES_NAMES_H
#define WH_NAMES_NAMES_H

#include "names/proto.h"
#include "wharf/names.h"

/* As wharf_names_list(), which gives it no deadline: 0. -ETIMEDOUT */
int wh_names_list_until(wharf_task *task, int64_t deadline_ns, struct wharf_named **ret, size_t *ret_n);
/* How the wharfd of the task's own domain is; it is started where there is none. Errors: those of wharf_names_list() */
int wh_names_state(wharf_task *task, struct wh_names_state *ret);

#endif
