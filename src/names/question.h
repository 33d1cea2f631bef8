/*
 * question - one question to the wharfd at the other end of a connection, and its answer.
 *
 * Always true:
 *   Q1  Where the caller gave no deadline, a wharfd that is there has the time of one answer, and one that has not
 *       begun to serve has all of the call. A stopped one is not waited for.
 */
#ifndef WH_NAMES_QUESTION_H
#define WH_NAMES_QUESTION_H

#include "names/session.h"

#define ASK_ITEMS_MAX 2 /* beside the page of the task: `sender_ids` has room for one more, or is NULL */
/* A question that was sent, and its answer that has not come yet. */
struct asked {
        struct wh_names_request req;
        uint32_t call;
};

int wh_ask_begin(struct session *s, struct conn *c, const struct wh_names_request *question, struct wharf_item *items,
                 uint64_t *sender_ids, uint32_t n_items, const struct when *w, struct asked *ret);
/*
 * The answer. Errors of the link, or -EPROTO; wharfd's own answer in *ret_answer. Only the answer 0 leaves an allocated
 * reply to be released, and items to be dropped.
 */
int wh_ask_end(struct session *s, struct domain *d, struct conn *c, const struct asked *a, struct wharf_msg *reply,
               const struct when *w, int *ret_answer);
/* One question, one answer. */
int wh_ask(struct session *s, struct domain *d, struct conn *c, const struct wh_names_request *question,
           struct wharf_msg *reply, const struct when *w, int *ret_answer);

/* Did the wharfd that we talked to go away, so that the question goes to the next one? */
bool wh_wharfd_gone(int r);
/*
 * Is wharfd short of something, or has this user too many descriptors on their way (RLIMIT_NOFILE), whosever? What this
 * process itself has not got is no such thing: nobody but its caller can change that.
 */
bool wh_short_of(int r);

#endif
