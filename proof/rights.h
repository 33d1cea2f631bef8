/*
 * rights - what the proofs about rights share: up to three tasks, of which any may be in one process or in several. One
 * owns a port, one has a port of its own in which rights arrive (its home), one is a plain sender.
 */
#ifndef PROOF_RIGHTS_H
#define PROOF_RIGHTS_H

#include "port.h"

/* Words of the ledger, beside those of port.h: one writer each. */
enum { WORD_EARLY = 4, WORD_ARRIVED = 5, WORD_TOLD = 6 };

struct rights_state {
        struct port_state port; /* the one that moves, and its first owner's socket; what port.h uses */
        struct port_state home; /* the new owner's own port, in which it arrives */
        struct port_state send; /* the sender's */
        wharf_name to_home;
        uint32_t call;
};

static inline struct rights_state *rights(struct proof *p)
{
        return p->state;
}

/* What port.h does, with another of the states. */
static inline void rights_with(struct proof *p, struct port_state *s, void (*fn)(struct proof *))
{
        void *all = p->state;
        p->state = s;
        fn(p);
        p->state = all;
}

static inline void rights_setup(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_setup);
        struct port_state *h = &rights(p)->home;
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(h->path, sizeof h->path, "/tmp/wharf-proof.%d.home", (int)getpid());
        strcpy(sa.sun_path, h->path);
        h->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        unlink(h->path);
        PROOF_EQ(p, bind(h->listener, (struct sockaddr *)&sa, sizeof sa), 0);
        PROOF_EQ(p, listen(h->listener, 4), 0);
        rights(p)->send.listener = -1;
}

/* The case's own copies: the death of an owner must close what it listens on. */
static inline void rights_parted(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_let_go);
        rights_with(p, &rights(p)->home, port_let_go);
}

static inline void rights_teardown(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_teardown);
        rights_with(p, &rights(p)->home, port_teardown);
        rights_with(p, &rights(p)->send, port_teardown);
}

static inline uint64_t rights_word(struct proof *p, int w)
{
        return atomic_load(&p->ledger->word[w]);
}

static inline void rights_word_set(struct proof *p, int w)
{
        atomic_store(&p->ledger->word[w], 1);
}

/* One more in that word. */
static inline void rights_count(struct proof *p, int w)
{
        atomic_fetch_add(&p->ledger->word[w], 1);
}

/* False: nobody was there. */
static inline bool rights_join(struct proof *p)
{
        void *all = p->state;
        p->state = &rights(p)->send;
        strcpy(((struct port_state *)p->state)->path, ((struct rights_state *)all)->port.path);
        bool there = port_try_connect(p);
        ((struct port_state *)p->state)->path[0] = 0; /* not its to unlink */
        p->state = all;
        return there;
}

/* The owner's part, whose home nobody needs. */
static inline void rights_own(struct proof *p, uint32_t capacity_records)
{
        void *all = p->state;
        p->state = &rights(p)->port;
        port_own_of(p, capacity_records);
        p->state = all;
        rights_with(p, &rights(p)->home, port_let_go);
}

/* The sender's part. */
static inline void rights_connect(struct proof *p)
{
        rights_parted(p);
        PROOF_CHECK(p, rights_join(p));
}

/* Somebody else comes after the dead one, and all is well. */
static inline void rights_send_clean(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        if (rights_word(p, WORD_OVER))
                return;
        rights_connect(p);
        for (int i = 0; i < PORT_N_CLEAN; i++)
                PROOF_EQ(p, wharf_send(s->task, s->right, (uint8_t[4]){PORT_CLEAN}, 4, WHARF_FOREVER), 0);
        s->task = wharf_task_close(s->task);
        if (p->outcome != PROOF_PAUSED)
                rights_word_set(p, WORD_OVER);
}

static inline void rights_audit_clean(struct proof *p)
{
        PROOF_CHECK(p, rights_word(p, WORD_CLEAN) >= PORT_N_CLEAN);
}

/* Has everybody left, and was nobody refused? */
static inline bool rights_alone(struct proof *p)
{
        struct wharf_port_stat st = {.size = sizeof st};
        PROOF_EQ(p, wharf_port_stat(rights(p)->port.task, rights(p)->port.port, &st), 0);
        PROOF_EQ(p, st.refused_links, 0);
        return st.senders == 0;
}

#define RIGHTS_STATE                                                                                \
        .state_bytes = sizeof(struct rights_state), .setup = rights_setup, .parted = rights_parted, \
        .teardown = rights_teardown

#endif
