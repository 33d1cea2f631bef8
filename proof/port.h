/*
 * port - what the three proofs of src/link, src/port, src/right and src/message share: tasks of their own in processes of their own, that find each other by
 * a listening socket.
 */
#ifndef PROOF_PORT_H
#define PROOF_PORT_H

#include "engine/proof.h"
#include "link/link.h"
#include "right/right.h"
#include "port/port.h"
#include "wharf/wharf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct port_state {
        int listener;
        int poll_fd;
        char path[64];
        wharf_task *task;
        wharf_name port, right, other;
};

enum {
        PORT_MESSAGE_MAX = 8192,
        PORT_CLEAN = 0x7e, /* first byte of the messages that show that all is well afterwards */
        PORT_N_CLEAN = 10,
};

/* Words of the ledger. */
enum { WORD_CLEAN = 0, WORD_OVER = 1, WORD_UNREAD = 2, WORD_GO = 3 };

/* Message n: cold at first, then in the ring, now and then in a section. */
static inline uint32_t port_message(uint64_t n, uint8_t *ret)
{
        uint32_t len = n % 7 == 6 ? 5000 : 8 + (uint32_t)(n * 13 % 90);
        for (uint32_t i = 0; i < len; i++)
                ret[i] = (uint8_t)((n + i) % 100);
        return len;
}

static inline void port_setup(struct proof *p)
{
        struct port_state *s = p->state;
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(s->path, sizeof s->path, "/tmp/wharf-proof.%d", (int)getpid());
        strcpy(sa.sun_path, s->path);
        s->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        unlink(s->path);
        PROOF_EQ(p, bind(s->listener, (struct sockaddr *)&sa, sizeof sa), 0);
        PROOF_EQ(p, listen(s->listener, 16), 0);
}

/* Only the owner of the port may keep the listener: its death must close it. */
static inline void port_let_go(struct proof *p)
{
        struct port_state *s = p->state;
        close(s->listener);
        s->listener = -1;
}

static inline void port_teardown(struct proof *p)
{
        struct port_state *s = p->state;
        s->task = wharf_task_close(s->task);
        if (s->listener >= 0)
                close(s->listener);
        if (s->path[0])
                unlink(s->path);
}

/* `capacity_records` 0: the default. */
static inline void port_own_of(struct proof *p, uint32_t capacity_records)
{
        struct port_state *s = p->state;
        PROOF_EQ(p, wharf_task_open(NULL, &s->task), 0);
        struct wharf_port_opts o = {
                .size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT, .capacity_records = capacity_records};
        PROOF_EQ(p, wharf_port_new(s->task, &o, &s->port), 0);
        PROOF_EQ(p, wharf_port_listen(s->task, s->port, s->listener), 0);
}

static inline void port_own(struct proof *p)
{
        port_own_of(p, 0);
}

/* False: the owner is dead already, before anybody was connected. */
static inline bool port_try_connect(struct proof *p)
{
        struct port_state *s = p->state;
        port_let_go(p);
        PROOF_EQ(p, wharf_task_open(NULL, &s->task), 0);
        int r = wharf_right_connect(s->task, s->path, &s->right);
        PROOF_CHECK(p, r == 0 || r == -ECONNREFUSED || r == -EPIPE);
        return r == 0;
}

static inline void port_connect(struct proof *p)
{
        PROOF_CHECK(p, port_try_connect(p));
}

/* A message of the ledger that was given back, or that nobody took: nobody means it any more. */
static inline void port_unsend(struct proof *p)
{
        atomic_fetch_sub(&p->ledger->intent, 1);
}

/* The next message of the ledger, so large that few fill a ring; `flags` as wharf_sendmsg() has them. */
static inline int port_send_large(struct proof *p, uint32_t flags, int64_t deadline_ns)
{
        struct port_state *s = p->state;
        uint8_t bytes[1990];
        memset(bytes, (int)(atomic_load(&p->ledger->intent) % 100), sizeof bytes);
        proof_ledger_intent(p, bytes, sizeof bytes);
        struct wharf_msg m = {
                .size = sizeof m, .how = WHARF_HOW_INLINE, .flags = flags, .data = bytes, .len_bytes = sizeof bytes};
        int r = wharf_sendmsg(s->task, s->right, &m, deadline_ns);
        if (r >= 0)
                proof_ledger_sent(p);
        return r;
}

/* Sends the next message of the ledger. */
static inline int port_send(struct proof *p, int64_t deadline_ns)
{
        struct port_state *s = p->state;
        uint8_t bytes[PORT_MESSAGE_MAX];
        uint32_t len = port_message(atomic_load(&p->ledger->intent), bytes);
        proof_ledger_intent(p, bytes, len);
        int r = wharf_send(s->task, s->right, bytes, len, deadline_ns);
        if (r == 0)
                proof_ledger_sent(p);
        return r;
}

/* ---- capacity zero with both ends in one thread: an offer stands until the other end was asked ---- */

/* A port that takes offers, and a right that knows it. */
static inline void port_own_offers(struct proof *p)
{
        struct port_state *s = p->state;
        struct wharf_port_opts o = {
                .size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT, .capacity_records = WHARF_RENDEZVOUS};
        PROOF_EQ(p, wharf_port_new(s->task, &o, &s->port), 0);
        PROOF_EQ(p, wharf_right_new(s->task, s->port, &s->right), 0);
        PROOF_EQ(p, wharf_recv(s->task, s->port, (uint8_t[1]){0}, 1, NULL, 0), -EAGAIN); /* which greets */
}

/* -EAGAIN: the offer stands; otherwise as wharf_send() answers. Called again with the same `o`: how does it stand? */
static inline int port_offer(struct proof *p, wharf_name right, struct wh_outgoing *o)
{
        struct port_state *s = p->state;
        int r;
        struct wh_link *l = wh_holder_lock(s->task, right, &r);
        if (!l)
                return r;
        r = wh_link_try_send(l, o);
        wh_unlock(&l->o.lock);
        return r;
}

static inline int port_withdraw(struct proof *p, wharf_name right, struct wh_outgoing *o)
{
        struct port_state *s = p->state;
        int r;
        struct wh_link *l = wh_holder_lock(s->task, right, &r);
        if (!l)
                return r;
        r = l->out.offer && o->started ? wh_link_withdraw(l, o, -EAGAIN) : -EAGAIN;
        wh_unlock(&l->o.lock);
        return r;
}

/* Receives one message of either kind: its length, or what wharf_recv() answered. */
static inline ssize_t port_receive(struct proof *p, int64_t deadline_ns)
{
        struct port_state *s = p->state;
        uint8_t bytes[PORT_MESSAGE_MAX];
        ssize_t n = wharf_recv(s->task, s->port, bytes, sizeof bytes, NULL, deadline_ns);
        if (n < 0 || p->lied)
                return n;
        if (n == 4 && bytes[0] == PORT_CLEAN)
                atomic_fetch_add(&p->ledger->word[WORD_CLEAN], 1);
        else
                proof_ledger_received(p, bytes, (size_t)n);
        return n;
}

#endif
