/*
 * status - a page that a port's owner writes and others may read: what `wharf ls` shows.
 *
 * Why: the numbers of a port live in its owner's private memory. The page is a sealed memfd (written by the owner,
 * read-only to all others, like a lane's `out`) that goes to wharfd with the registration, so listing needs nobody's
 * cooperation and disturbs nobody.
 */
#ifndef WH_PORT_STATUS_H
#define WH_PORT_STATUS_H

#include "base/bits.h"
#include "wharf/port.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#define WH_STATUS_MAGIC 0x7375746174737277u
#ifndef WH_STATUS_VERSION /* proof/matrix/later.h */
#define WH_STATUS_VERSION 1u
#endif

/* Each word is stored relaxed by the owner alone; a reader gets moments that need not agree with one another. */
struct wh_port_status {
        uint64_t magic;
        uint64_t version;
        uint64_t port_id;
        _Atomic uint64_t senders;
        _Atomic uint64_t receivers_waiting;
        _Atomic uint64_t queued_messages;
        _Atomic uint64_t received_messages;
        _Atomic uint64_t received_bytes;
        uint8_t pad[WH_PAGE - 64];
};
static_assert(sizeof(struct wh_port_status) == WH_PAGE, "one page");

/*
 * The descriptor of the port's page, made on first use; owned by the port.
 * Errors: -EBADF, -EPERM, -EMFILE, -ENOMEM, -ESTALE
 */
int wh_port_status_fd(wharf_task *task, wharf_name port, int *ret);
/* Map somebody else's page for reading, or refuse it (-EPROTO, -EPROTONOSUPPORT). Unmap with wh_port_status_close(). */
int wh_port_status_open(int fd, const struct wh_port_status **ret);
void wh_port_status_close(const struct wh_port_status *page);

#endif
