#include "toy.h"

#include "base/cleanup.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum toy_bug toy_bug;

static int memory_new(size_t len, int *ret_fd, void **ret)
{
        int fd = wh_os_memfd("toy");
        if (fd < 0)
                return fd;
        int r = wh_os_ftruncate(fd, (off_t)len);
        if (r == 0)
                r = wh_os_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, ret);
        if (r < 0) {
                if (toy_bug != TOY_LEAKS_DESCRIPTOR)
                        wh_os_close(fd);
                return toy_bug == TOY_HIDES_ERROR ? -EIO : r;
        }
        *ret_fd = fd;
        return 0;
}

struct toy_ring *toy_ring_free(struct toy_ring *r)
{
        if (!r)
                return NULL;
        void *maps[] = {r->out, r->back, (void *)(uintptr_t)r->out_seen, (void *)(uintptr_t)r->back_seen};
        for (unsigned i = 0; i < 4; i++)
                if (maps[i])
                        wh_os_munmap(maps[i], i % 2 ? sizeof *r->back : sizeof *r->out);
        wh_os_close(r->out_fd);
        wh_os_close(r->back_fd);
        free(r);
        return NULL;
}

int toy_ring_new(struct toy_ring **ret)
{
        struct toy_ring *r = wh_os_calloc(1, sizeof *r);
        if (!r)
                return -ENOMEM;
        r->out_fd = r->back_fd = -1;
        if (toy_bug == TOY_CHANGES_OUTPUT)
                *ret = r;
        void *p = NULL;
        int e = memory_new(sizeof *r->out, &r->out_fd, &p);
        if (e == 0) {
                r->out = p;
                e = memory_new(sizeof *r->back, &r->back_fd, &p);
        }
        if (e == 0) {
                r->back = p;
                e = wh_os_mmap(NULL, sizeof *r->out, PROT_READ, MAP_SHARED, r->out_fd, 0, &p);
        }
        if (e == 0) {
                r->out_seen = p;
                e = wh_os_mmap(NULL, sizeof *r->back, PROT_READ, MAP_SHARED, r->back_fd, 0, &p);
        }
        if (e < 0) {
                if (toy_bug == TOY_LEAKS_MEMORY) {
                        r = wh_steal(&r); /* forgotten */
                        wh_os_close(r->out_fd);
                        wh_os_close(r->back_fd);
                        if (r->out)
                                wh_os_munmap(r->out, sizeof *r->out);
                        if (r->back)
                                wh_os_munmap(r->back, sizeof *r->back);
                        return e;
                }
                toy_ring_free(r);
                return e;
        }
        r->back_seen = p;
        *ret = r;
        return 0;
}

int toy_send(struct toy_ring *r, const void *bytes, uint32_t len)
{
        if (len > TOY_PAYLOAD)
                return -EMSGSIZE;
        /* [toy-taken] Acquire, pairs with the release in toy_receive(). */
        uint32_t taken = atomic_load_explicit(&r->back_seen->taken, memory_order_acquire);
        if (r->sent - taken > TOY_RECORDS)
                return -EPROTO;
        if (r->sent - taken == TOY_RECORDS)
                return -EAGAIN;
        uint32_t dropped = atomic_load_explicit(&r->back_seen->dropped, memory_order_relaxed);
        if (dropped > TOY_RECORDS && toy_bug != TOY_UNBOUNDED)
                return -EPROTO;
        for (uint32_t i = 0; i < dropped; i++)
                atomic_store_explicit(&r->out->record[i % TOY_RECORDS].seq, 0, memory_order_relaxed);
        struct toy_record *rec = &r->out->record[r->sent % TOY_RECORDS];
        r->sent++;
        if (toy_bug == TOY_PUBLISH_EARLY)
                atomic_store_explicit(&rec->seq, r->sent, memory_order_release);
        rec->len = len;
        memcpy(rec->payload, bytes, len);
        /* [toy-seq] Release, pairs with the acquire in toy_receive(). */
        atomic_store_explicit(&rec->seq, r->sent, memory_order_release);
        return 0;
}

int toy_receive(struct toy_ring *r, void *buf)
{
        const struct toy_record *rec = &r->out_seen->record[r->taken % TOY_RECORDS];
        /* [toy-seq] Acquire, pairs with the release in toy_send(). */
        if (atomic_load_explicit(&rec->seq, memory_order_acquire) != r->taken + 1)
                return -EAGAIN;
        uint32_t len = *(volatile const uint32_t *)&rec->len;
        if (len > TOY_PAYLOAD && toy_bug != TOY_NO_CHECK)
                return -EPROTO;
        if (toy_bug == TOY_DOUBLE_FETCH)
                len = *(volatile const uint32_t *)&rec->len;
        memcpy(buf, rec->payload, len);
        r->taken++;
        /* [toy-taken] Release, pairs with the acquire in toy_send(). */
        atomic_store_explicit(&r->back->taken, r->taken, memory_order_release);
        return (int)len;
}

int toy_tell(struct toy_ring *r, int sock)
{
        struct {
                uint8_t kind;
                uint64_t sent;
                uint8_t last;
        } frame;
        if (toy_bug != TOY_LEAKS_PADDING)
                memset(&frame, 0, sizeof frame);
        frame.kind = 1;
        frame.sent = r->sent;
        frame.last = 2;
        struct iovec iov = {&frame, sizeof frame};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n = wh_os_sendmsg(sock, &m, 0);
        return n < 0 ? (int)n : 0;
}

/* ---- account ---- */

static int anonymous(size_t len, void **ret)
{
        return wh_os_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0, ret);
}

int toy_account_new(struct toy_account **ret)
{
        void *p = NULL;
        int r = anonymous(sizeof **ret, &p);
        if (r < 0)
                return r;
        *ret = p;
        return 0;
}

void toy_account_free(struct toy_account *acc)
{
        wh_os_munmap(acc, sizeof *acc);
}

void toy_move(struct toy_account *acc, uint64_t amount)
{
        if (toy_bug != TOY_NO_UNDO) {
                atomic_store(&acc->undo_a, atomic_load(&acc->a));
                atomic_store(&acc->undo_b, atomic_load(&acc->b));
                atomic_store(&acc->undo_valid, 1);
        }
        atomic_store(&acc->a, atomic_load(&acc->a) - amount);
        atomic_store(&acc->b, atomic_load(&acc->b) + amount);
        atomic_store(&acc->undo_valid, 0);
}

void toy_repair(struct toy_account *acc)
{
        while (toy_bug == TOY_WAITS_FOR_DEAD && atomic_load(&acc->undo_valid))
                ;
        if (!atomic_load(&acc->undo_valid))
                return;
        if (toy_bug == TOY_REPAIR_ONCE)
                atomic_store(&acc->undo_valid, 0);
        atomic_store(&acc->a, atomic_load(&acc->undo_a));
        atomic_store(&acc->b, atomic_load(&acc->undo_b));
        atomic_store(&acc->undo_valid, 0);
}

/* ---- lease ---- */

int toy_lease_new(struct toy_lease **ret)
{
        void *p = NULL;
        int r = anonymous(sizeof **ret, &p);
        if (r < 0)
                return r;
        *ret = p;
        return 0;
}

void toy_lease_free(struct toy_lease *l)
{
        wh_os_munmap(l, sizeof *l);
}

int toy_lease_write(struct toy_lease *l, uint32_t value)
{
        uint64_t was = atomic_load(&l->word), now = (was & ~(uint64_t)UINT32_MAX) | value;
        if (toy_bug == TOY_NOT_FENCED) {
                atomic_store(&l->word, now);
                return 0;
        }
        return atomic_compare_exchange_strong(&l->word, &was, now) ? 0 : -ESTALE;
}

void toy_lease_take_over(struct toy_lease *l)
{
        atomic_fetch_add(&l->word, (uint64_t)1 << 32);
}
