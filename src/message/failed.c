/*
 * Why a message could not be sent, in words: which limit of the receiver's it was, or by what the queue is full.
 *
 * Always true: the words tell of what the link knows. Where that is nothing, the errno speaks for itself.
 */
#include "message/send.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>

/* What a refusal by the receiver was about, as far as the errno alone does not say. */
static const char *refused_about(const struct wh_link *l, int err)
{
        switch (l->in.refusal) {
        case WH_REFUSAL_INTRODUCED:
                return "whoever gave this right away may introduce no more (introduced_max of the port)";
        case WH_REFUSAL_LINKS:
                return "links of one user: this one has its share of the port's (links_max)";
        case WH_REFUSAL_TASK_LINKS:
                return "links of one user: this one has its share of half the receiver's descriptors (RLIMIT_NOFILE)";
        case WH_REFUSAL_RIGHTS:
                return "unread rights of one user: this one has its share of the receiver's descriptors";
        case WH_REFUSAL_ANSWERS:
                return "calls of this sender that nobody has answered (link_answers_max of the port)";
        case WH_REFUSAL_TASK_ANSWERS:
                return "calls of one user that nobody has answered: this one has its share (answers_max of the task)";
        case WH_REFUSAL_BYTES:
                return "memory mapped for one user: this one has its share (mapped_bytes_max of the port)";
        default:
                return err == -EDQUOT    ? "memory mapped for this sender (link_mapped_bytes_max of the port)"
                       : err == -EMLINK  ? "the port has as many links as it takes (links_max)"
                       : err == -ENOBUFS ? "the port has mapped as much as it may (mapped_bytes_max)"
                                         : NULL;
        }
}

/* By what the queue is full, if it can be said. */
static bool full_failed(struct wh_link *l, int err)
{
        const char *full = err == -EAGAIN ? "the queue is full" : "the queue stayed full until the deadline";
        switch (wh_link_full_by(l)) {
        case WHARF_FULL_RECORDS:
                if (l->hello.capacity_records >= WHARF_UNBOUNDED)
                        return false;
                wh_fail(err, "%s: %u messages are unread (capacity_records)", full, l->hello.capacity_records);
                return true;
        case WHARF_FULL_BYTES:
                wh_fail(err, "%s: with these %" PRIu64 " bytes more than %" PRIu64 " were unread (capacity_bytes)",
                        full, l->out.short_bytes, l->hello.capacity_bytes);
                return true;
        case WHARF_FULL_MEMORY:
                wh_fail(err, "%s: no memory for another message (link_mapped_bytes_max, or the system)", full);
                return true;
        }
        return false;
}

void wh_link_failed(struct wh_link *l, int err)
{
        if ((err == -EAGAIN || err == -ETIMEDOUT) && full_failed(l, err))
                return;
        const bool refused = err == l->out.over && (l->in.refusal || l->in.refused_max);
        const char *about = refused || err == -EDQUOT ? refused_about(l, err) : NULL;
        const bool meets = l->hello.capacity_records == WHARF_RENDEZVOUS;
        if (about && refused && l->in.refused_max)
                wh_fail(err, "%s: %" PRIu64, about, l->in.refused_max);
        else if (about)
                wh_fail_plain(err, about);
        else if (err == -EAGAIN)
                wh_fail_plain(err, meets ? "no receiver is there to take it, and the deadline is 0"
                                         : "the queue is full, and the deadline is 0");
        else if (err == -ETIMEDOUT)
                wh_fail_plain(err, meets ? "no receiver took it until the deadline"
                                         : "the queue stayed full until the deadline");
        else if (err == -EMSGSIZE && err == l->over)
                wh_fail(err, "a reply was larger than this task takes: at most %" PRIu64 " bytes (reply_bytes_max)",
                        l->task->reply_bytes_max);
        else if (err == -EMSGSIZE)
                wh_fail(err, "larger than the port takes: at most %" PRIu64 " bytes (payload_bytes_max)",
                        l->hello.payload_bytes_max);
        else if (err == -EPERM)
                wh_fail_plain(err, "a send-once right takes one message, and no calls");
        else if (err == -EBUSY)
                wh_fail_plain(err, "a message is left on this right already, and has not gone into the queue yet");
        else if (err == -ECANCELED)
                wh_fail_plain(err, "the right was dropped meanwhile, or the request was dropped without a reply");
        else
                wh_fail(err, NULL);
}
