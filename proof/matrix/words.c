#include "words.h"

#include <stdio.h>

static void fill(uint8_t *to, size_t len, uint64_t key)
{
        uint64_t x = key * 0x9e3779b97f4a7c15u + 1;
        for (size_t i = 0; i < len; i += 8) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                memcpy(to + i, &x, len - i < 8 ? len - i : 8);
        }
}

static uint64_t sum_of(const uint8_t *p, size_t len)
{
        uint64_t h = 0xcbf29ce484222325u ^ len;
        for (size_t i = 0; i < len; i += 8) {
                uint64_t w = 0;
                memcpy(&w, p + i, len - i < 8 ? len - i : 8);
                h = (h ^ w) * 0x100000001b3u;
                h ^= h >> 29;
        }
        return h;
}

size_t party_compose(void *to, unsigned stream, uint32_t seq, uint32_t arg, size_t len)
{
        uint8_t *bytes = to;
        fill(bytes + sizeof(struct head), len, (uint64_t)stream << 32 | seq);
        struct head h = {stream, seq, arg, (uint32_t)len, sum_of(bytes + sizeof(struct head), len)};
        memcpy(bytes, &h, sizeof h);
        return sizeof h + len;
}

struct head party_opened(const void *data, size_t len)
{
        struct head h;
        MATRIX_CHECK(len >= sizeof h);
        memcpy(&h, data, sizeof h);
        MATRIX_EQ(h.len_bytes, len - sizeof h);
        MATRIX_CHECK(h.sum == sum_of((const uint8_t *)data + sizeof h, h.len_bytes));
        MATRIX_CHECK(h.stream < STREAMS);
        return h;
}

uint32_t party_small_len(uint32_t seq)
{
        return seq % 9 == 8 ? 1200 + seq % 700 : seq * 13 % 200;
}

unsigned party_threads(const struct env *e)
{
        return e->threads ? e->threads : 1;
}

bool party_no_memory(const struct party *p)
{
        return p->env->no_memory || p->other->no_memory;
}

bool party_scarce(const struct party *p)
{
        return party_no_memory(p) || p->env->scarce || p->other->scarce;
}

bool party_is_want(int r)
{
        return r == -ENOMEM || r == -EMFILE || r == -ENOSPC || r == -EPERM || r == -EFBIG || r == -EOPNOTSUPP ||
               r == -EACCES || r == -EAGAIN || r == -ENOBUFS;
}

void party_send_large(struct party *p, wharf_name right, const void *bytes, size_t len, unsigned stream, uint32_t seq)
{
        struct wharf_msg m = MSG(.id = ID_LARGE);
        int r = wharf_reserve(p->task, right, len + sizeof(struct head), &m, WHARF_FOREVER);
        if (r < 0) {
                if (!party_scarce(p) || !party_is_want(r))
                        MATRIX_EQ(r, 0);
                uint8_t *copy = malloc(len + sizeof(struct head));
                MATRIX_CHECK(copy != NULL);
                if (bytes)
                        memcpy(copy, bytes, len + sizeof(struct head));
                else
                        party_compose(copy, stream, seq, 0, len);
                struct wharf_msg plain = MSG(.id = ID_LARGE, .data = copy, .len_bytes = len + sizeof(struct head));
                MATRIX_EQ(wharf_sendmsg(p->task, right, &plain, WHARF_FOREVER), 0);
                free(copy);
                return;
        }
        if (bytes)
                memcpy(m.data, bytes, len + sizeof(struct head));
        else
                party_compose(m.data, stream, seq, 0, len);
        m.len_bytes = len + sizeof(struct head);
        MATRIX_EQ(wharf_sendmsg(p->task, right, &m, WHARF_FOREVER), 0);
}

void party_note(struct party *p, wharf_name to, unsigned stream, uint32_t seq)
{
        uint8_t bytes[sizeof(struct head) + 24];
        MATRIX_EQ(wharf_send(p->task, to, bytes, party_compose(bytes, stream, seq, 0, 24), WHARF_FOREVER), 0);
}

void party_noted(struct party *p, wharf_name from, unsigned stream, uint32_t seq, int64_t deadline_ns)
{
        uint8_t bytes[sizeof(struct head) + 24];
        MATRIX_EQ(wharf_recv(p->task, from, bytes, sizeof bytes, NULL, deadline_ns), sizeof bytes);
        struct head h = party_opened(bytes, sizeof bytes);
        MATRIX_EQ(h.stream, stream);
        MATRIX_EQ(h.seq, seq);
}
