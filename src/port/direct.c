#include "port/direct.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

/* ---- the sender ---- */

int wh_direct_obstacle(const struct wh_link *l, const struct wh_outgoing *o, int64_t deadline_ns)
{
        if (l->direct_refused)
                return l->direct_refused;
        if (deadline_ns == 0)
                return -EAGAIN;
        if (o->n_items || o->slot >= 0 || o->len == 0)
                return -EINVAL;
        return l->once || l->no_lane ? -EOPNOTSUPP : 0;
}

const char *wh_direct_why(int err)
{
        switch (err) {
        case -EPERM:
                return "not sent directly: the kernel does not let the receiver read this process's memory (Yama, a "
                       "process that is not dumpable, or a sandbox)";
        case -EACCES:
                return "not sent directly: the receiver is another user";
        case -ESRCH:
                return "not sent directly: the kernel does not tell the receiver which process this is (another pid "
                       "namespace)";
        case -ENOSYS:
                return "not sent directly: the receiver's kernel or sandbox has no process_vm_readv()";
        case -EAGAIN:
                return "not sent directly: that waits until the receiver has read it, and the deadline is 0";
        case -EINVAL:
                return "not sent directly: it has no bytes, carries rights, or was reserved";
        case -EOPNOTSUPP:
                return "not sent directly: this link has no shared memory";
        default:
                return "not sent directly: the receiver could not read it";
        }
}

static _Atomic uint64_t *tx_word(const struct wh_link *l)
{
        /* The ring knows `back` as the receiver's to write; this word has two writers. */
        return (_Atomic uint64_t *)(uintptr_t)&l->tx->ring.back->direct;
}

void wh_direct_offer(struct wh_link *l, uint64_t number)
{
        /* [direct] Relaxed: the release in wh_ring_publish() puts it before the record, and nobody looks earlier. */
        atomic_store_explicit(tx_word(l), wh_direct_word(WH_DIRECT_OFFERED, number, 0), memory_order_relaxed);
}

int wh_direct_look(struct wh_link *l, uint64_t number, int *ret_refused)
{
        /* [direct] Acquire, pairs with the exchange in wh_direct_claim(): its reading is over. One load (K3). */
        uint64_t word = atomic_load_explicit(tx_word(l), memory_order_acquire);
        if (word == wh_direct_word(WH_DIRECT_OFFERED, number, 0))
                return -EAGAIN;
        if (word == wh_direct_word(WH_DIRECT_TAKEN, number, 0))
                return 0;
        int err = (int)(word >> 4 & 4095);
        if (err == 0 || word != wh_direct_word(WH_DIRECT_REFUSED, number, err))
                return wh_trace(-EPROTO);
        *ret_refused = -err;
        return 0;
}

int wh_direct_withdraw(struct wh_link *l, uint64_t number)
{
        uint64_t word = wh_direct_word(WH_DIRECT_OFFERED, number, 0);
        /* [direct] Acquire on failure: as in wh_direct_look(). */
        if (atomic_compare_exchange_strong_explicit(tx_word(l), &word, wh_direct_word(WH_DIRECT_WITHDRAWN, number, 0),
                                                    memory_order_acq_rel, memory_order_acquire))
                return -ECANCELED;
        return word == wh_direct_word(WH_DIRECT_TAKEN, number, 0) ? 0 : -ECANCELED;
}

/* ---- the receiver ---- */

int wh_direct_read(struct wh_link *l, uint64_t at, void *to, uint64_t len)
{
        int pidfd;
        if (!l->cred.known || l->cred.pid <= 0)
                return -ESRCH;
        if (l->cred.uid != wh_os_getuid())
                return -EACCES;
        int r = wh_link_pidfd(l, &pidfd);
        if (r < 0)
                return r == -EMFILE || r == -ENFILE ? -ENOMEM : r;
        for (uint64_t done = 0; r == 0 && done < len;) {
                uint64_t n = len - done < (1u << 30) ? len - done : 1u << 30;
                struct iovec here = {(uint8_t *)to + done, n}, there = {(void *)(uintptr_t)(at + done), n};
                ssize_t k = wh_os_process_vm_readv(l->cred.pid, &here, 1, &there, 1);
                if (k > 0)
                        done += (uint64_t)k;
                else if (k != -EINTR)
                        r = k == 0 ? -EFAULT : (int)k;
        }
        /* V3: whoever has that number was the maker of the link before the reading, and still is after it. */
        struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = l->sock}};
        if (wh_os_poll(p, 2, 0) != 0)
                r = -ESRCH;
        wh_os_close(pidfd);
        return r;
}

bool wh_direct_claim(struct wh_link *l, uint64_t number, int err)
{
        uint64_t word = wh_direct_word(WH_DIRECT_OFFERED, number, 0);
        uint64_t to =
                err ? wh_direct_word(WH_DIRECT_REFUSED, number, -err) : wh_direct_word(WH_DIRECT_TAKEN, number, 0);
        /* [direct] Release, pairs with the acquire in wh_direct_look(): the bytes were read before their place is free.
         */
        return atomic_compare_exchange_strong_explicit(&l->rx->ring.back->direct, &word, to, memory_order_acq_rel,
                                                       memory_order_relaxed) &&
               err == 0;
}
