/*
 * graph - who waits for whom, put together from what each task says of itself.
 *
 * Who can end a wait: for room and for replies, the owner of the port; for messages, whoever holds a right to send. The
 * receiver knows the processes of links that have been used, since the kernel named them; of an unused right only its
 * holder knows, and says so on its own page. Where the two together do not account for every link, or anyone may
 * connect, the wait is marked: somebody else may end it. wharfd holds a right to every named port and never sends.
 */
#ifndef WH_NAMES_GRAPH_H
#define WH_NAMES_GRAPH_H

#include "names/proto.h"

/* `tasks` begin with wharfd. *ret is sorted by pid; free() it. -ENOMEM, -EPROTO */
int wh_graph(struct wh_names_task *tasks, size_t n_tasks, const struct wharf_named *named, size_t n_named,
             struct wharf_wait **ret, size_t *ret_n);

#endif
