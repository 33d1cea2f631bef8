/*
 * direct - payloads read from where they lie in the sender's address space, while the sender waits. Only when asked
 * for.
 *
 * The sender offers a record that says where its payload lies, as any message of a port of capacity zero is offered
 * (ring.R7), and sleeps. The receiver reads it with process_vm_readv(), makes sure of whom it has read from, and only then
 * claims it; or it refuses, with an errno that says why.
 *
 * Always true:
 *   V1  TAKEN and WITHDRAWN exclude each other, and an old offer is never taken for a new one (R7).
 *   V2  The receiver copies first and claims afterwards. What it read from a buffer that its sender had taken back
 *       already is dropped, and nobody ever sees it.
 *   V3  The receiver names the process by the kernel's word for who made the link, never by the sender's; only when
 *       that process has its own user; and believes what it read only if that very process was alive after the reading, and
 *       held the link. So a number that passed to another process is harmless.
 *   V4  A sender names addresses of its own memory, and of no other. What it names costs the receiver no more than a
 *       message of that length.
 *   V5  Only offers that were TAKEN count as messages (K1). After REFUSED the sender sends in another way.
 *   V6  Nothing is read from a sender, and nothing written to a caller, but where the port's owner has said that it may be
 *       (WHARF_PORT_DIRECT): the kernel may have to wait for the other side's pages, and so would whoever receives.
 *
 * The other way round, a reply is written into the caller's address space with process_vm_writev(). A write cannot be
 * dropped like what was read, so it goes into memory that the library owns and its user does not know yet: the caller
 * maps a window and says in a record (WINDOW) before its request where that is; the server's reply is a record (DIRECT)
 * that says that it lies there.
 *
 *   D1  A server writes only into the process that the kernel names as the maker of the link and that is of its own
 *       user (V3), seen alive right before. The address is the caller's word, and means memory of the caller's.
 *   D2  The record is published after the last byte. A server that dies before has sent nothing, and the window is
 *       dropped with the call.
 *   D3  What the record says is compared with the window that was announced for that call; nothing else of it is used.
 *   D4  The window of a call that was given up stays reserved, without memory and without access, until the server has
 *       answered or is gone: a late write meets EFAULT, and never what would have been mapped there since. Where
 *       neither will be known, since the right was dropped, those addresses stay reserved for good. They cost no
 *       memory.
 */
#ifndef WH_LINK_DIRECT_H
#define WH_LINK_DIRECT_H

#include "link/link.h"

struct wh_window;

/* ---- the caller ---- */

/* Memory for a reply of up to `len` bytes: what was given back last, or new. -ENOMEM */
int wh_window_take(struct wh_link *l, uint64_t len, struct wh_window **ret);
/* What a reply lay in is given back. One is kept for the next call: its pages are there already. */
void wh_window_give(struct wh_link *l, void *map, uint64_t map_len);
/* A call is over: `settled` if nobody will write there any more, else it is put aside (D4). NULL is allowed. */
void wh_window_done(struct wh_link *l, struct wh_window *w, bool settled);
/* An answer to the call, which was given up: nothing is written any more. */
void wh_window_settle(struct wh_link *l, uint32_t call);
/* The link goes. */
void wh_windows_done(struct wh_link *l);
/* Why a reply was not written directly, for wharf_why(). */
const char *wh_window_why(int err);

/* ---- the server ---- */

/* The reply, into the caller's memory: 0, or why not. The link is locked. */
int wh_direct_write(struct wh_link *l, uint64_t at, const void *from, uint64_t len);

/* ---- reading: the sender ---- */

/* Why `o` cannot go directly over `l`: one of the errnos of wh_direct_why(), or 0. The link is locked. */
int wh_direct_obstacle(const struct wh_link *l, const struct wh_outgoing *o, int64_t deadline_ns);
/* The same in words, for wharf_why(). */
const char *wh_direct_why(int err);

/* At the receiver: read `len` bytes from the process at the other end. -EFAULT, or an errno of wh_direct_why(). */
int wh_direct_read(struct wh_link *l, uint64_t at, void *to, uint64_t len);

#endif
