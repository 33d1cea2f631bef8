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

#endif
