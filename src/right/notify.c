#include "port/notice.h"
#include "right/held.h"
#include "task/why.h"

#include <errno.h>

/* Why no notice was asked for: because of `about`, or of where it shall go. */
static int ask_failed(wharf_task *t, int err, wharf_name about, wharf_name port)
{
        if (err == -EBUSY)
                return wh_fail(err, "this was asked for about %u already", about);
        if (err == -EBADF || err == -EPERM)
                return wh_fail_at(t, err, wharf_name_kind(t, port) == WHARF_KIND_PORT ? about : port);
        return wh_fail(err, NULL);
}

WHARF_API int wharf_notify(wharf_task *t, uint32_t what, wharf_name about, wharf_name port, uint64_t sync)
{
        int r = 0;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        if (port == WHARF_NONE && (r = wharf_task_notify(t, &port)) < 0)
                return r;
        switch (what) {
        case WHARF_NOTICE_NO_SENDERS:
                return ask_failed(t, wh_no_senders_ask(t, about, port, sync), about, port);
        case WHARF_NOTICE_DEAD_NAME:
        case WHARF_NOTICE_SEND_POSSIBLE:
        case WHARF_NOTICE_SENT_LATER:
                if (sync)
                        return wh_fail(-EINVAL, "sync is for WHARF_NOTICE_NO_SENDERS");
                r = wh_right_ask(t, what, about, port);
                return r == -EINVAL ? r : ask_failed(t, r, about, port);
        case WHARF_NOTICE_ONCE_UNUSED:
                return wh_fail(-EINVAL, "an unused send-once right is told to its own port, without being asked");
        default:
                return wh_fail(-EINVAL, "nothing can be told about %u", what);
        }
}

WHARF_API int wharf_watch(wharf_task *t, wharf_name right, wharf_name port)
{
        return wharf_notify(t, WHARF_NOTICE_DEAD_NAME, right, port, 0);
}

WHARF_API int wharf_notify_cancel(wharf_task *t, uint32_t what, wharf_name about)
{
        int r;
        struct wh_notice *n = NULL;
        switch (what) {
        case WHARF_NOTICE_DEAD_NAME:
        case WHARF_NOTICE_SEND_POSSIBLE:
        case WHARF_NOTICE_SENT_LATER:
                r = wh_right_unask(t, what, about, &n);
                break;
        case WHARF_NOTICE_NO_SENDERS:
                r = wh_no_senders_unask(t, about, &n);
                break;
        default:
                return wh_fail(-EINVAL, "nothing can be told about %u", what);
        }
        if (r < 0)
                return wh_fail_at(t, r, about);
        wh_notice_free(t, n);
        return wh_fail(n ? 0 : -ENOENT, "no such notice is asked for about %u, or it came already", about);
}
