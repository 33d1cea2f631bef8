/*
 * hub - what the hub answers to what a peer asks of it.
 */
#include "words.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's word about the sender is what it must be, from where we stand. */
static void check_sender(struct party *p, const struct wharf_msg *m)
{
        if (p->env->user_namespace || p->other->late_uid || p->executed || p->env->execs)
                return;
        if (!p->other->user_namespace)
                MATRIX_EQ(m->sender.uid, p->other->uid ? (uid_t)p->other->uid : p->uid_then);
        if (p->env->pid_namespace) /* it is no descendant of ours, so the kernel has no number for it here */
                MATRIX_EQ(m->sender.pid, 0);
        else
                MATRIX_CHECK(m->sender.pid > 0);
}

static void hub_small(struct party *p, const struct head *h, const struct wharf_msg *m)
{
        pthread_mutex_lock(&p->lock);
        MATRIX_CHECK(h->seq < 64 * 64);
        MATRIX_CHECK(!(p->seen[h->stream][h->seq / 64] & 1ull << h->seq % 64)); /* never twice */
        p->seen[h->stream][h->seq / 64] |= 1ull << h->seq % 64;
        if (party_threads(p->env) == 1)
                MATRIX_EQ(h->seq, p->next[h->stream]);
        p->next[h->stream]++;
        wharf_name to = p->echo[h->stream];
        pthread_mutex_unlock(&p->lock);
        check_sender(p, m);
        MATRIX_EQ(wharf_send(p->task, to, m->data, m->len_bytes, WHARF_FOREVER), 0);
}

static void answer(struct party *p, wharf_name reply, unsigned stream, uint32_t seq, uint32_t arg, size_t len,
                   struct wharf_item *items, unsigned n)
{
        uint8_t *bytes = malloc(sizeof(struct head) + len);
        MATRIX_CHECK(bytes != NULL);
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = party_compose(bytes, stream, seq, arg, len),
                                 .items = items, .n_items = n);
        MATRIX_EQ(wharf_replymsg(p->task, reply, &m), 0);
        free(bytes);
}

/* The same with one thing; where it takes memory that cannot be made here, without it, and with `arg` REFUSED. */
static void answer_with(struct party *p, wharf_name reply, const struct head *h, uint32_t kind, wharf_name name)
{
        uint8_t bytes[sizeof(struct head)];
        struct wharf_item item = {.kind = kind, .name = name};
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = party_compose(bytes, h->stream, h->seq, 0, 0),
                                 .items = &item, .n_items = 1);
        int r = wharf_replymsg(p->task, reply, &m);
        if (p->env->no_memory && r == -EOPNOTSUPP) {
                MATRIX_EQ(wharf_drop(p->task, name), 0);
                answer(p, reply, h->stream, h->seq, REFUSED, 0, NULL, 0);
                return;
        }
        MATRIX_EQ(r, 0);
}

/* The hub's answer to a message with things in it. */
static void hub_items(struct party *p, const struct head *h, struct wharf_msg *m)
{
        if (m->id == ID_RIGHTS) {
                MATRIX_EQ(m->n_items, 3);
                MATRIX_EQ(m->items[0].kind, WHARF_GOT_SEND);
                MATRIX_EQ(m->items[1].kind, WHARF_GOT_REPLY);
                MATRIX_EQ(m->items[2].kind, WHARF_GOT_FD);
                MATRIX_EQ(fcntl(m->items[2].fd, F_GETFD), FD_CLOEXEC);
                MATRIX_EQ(syscall(SYS_write, m->items[2].fd, "pipe", 4), 4);
                MATRIX_EQ(syscall(SYS_close, m->items[2].fd), 0);
                party_note(p, m->items[0].name, h->stream, 1);
                party_note(p, m->items[1].name, h->stream, 2);
                MATRIX_EQ(wharf_name_kind(p->task, m->items[1].name), -EBADF);
                pthread_mutex_lock(&p->lock);
                p->kept[h->stream] = m->items[0].name;
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h->stream, h->seq, 0, 0, NULL, 0);
        } else if (m->id == ID_MEMORY) {
                void *at;
                size_t len;
                MATRIX_EQ(m->n_items, 1);
                MATRIX_EQ(m->items[0].kind, WHARF_GOT_MEMORY);
                MATRIX_EQ(wharf_memory_at(p->task, m->items[0].name, &at, &len), 0);
                struct head in = party_opened(at, len);
                MATRIX_EQ(in.seq, h->seq);
                party_compose(at, h->stream, h->seq + 1, 0, len - sizeof in);
                answer_with(p, m->reply, h, WHARF_MOVE_MEMORY, m->items[0].name);
        } else if (m->id == ID_FILL) {
                MATRIX_EQ(m->n_items, 1);
                for (uint32_t i = 0; i < h->arg; i++)
                        party_note(p, m->items[0].name, h->stream, i);
                pthread_mutex_lock(&p->lock);
                p->kept[h->stream] = m->items[0].name;
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h->stream, h->seq, 0, 0, NULL, 0);
        } else {
                MATRIX_EQ(m->n_items, 1);
                MATRIX_EQ(m->items[0].kind, WHARF_GOT_RECEIVE);
                wharf_name moved = m->items[0].name;
                pthread_mutex_lock(&p->lock);
                wharf_name kept = p->kept[h->stream];
                pthread_mutex_unlock(&p->lock);
                for (uint32_t i = 0; i < h->arg; i++)
                        party_noted(p, moved, h->stream, h->seq + i, WHARF_FOREVER);
                /* Now it is a port of ours, to which we have a right: more goes in, behind what is there. */
                party_note(p, kept, h->stream, h->seq + 2 * h->arg);
                MATRIX_EQ(wharf_drop(p->task, kept), 0);
                answer_with(p, m->reply, h, WHARF_MOVE_RECEIVE, moved);
        }
}

/* One request; false after the last. In one piece: a case for each, and few are longer than what they check. */
static bool hub_one(struct party *p, struct wharf_msg *m)
{
        const struct head h = party_opened(m->data, m->len_bytes);
        const uint32_t id = m->id;
        bool goes_on = true;
        switch (id) {
        case ID_ENTER:
                if (p->env->execs) { /* a reply right cannot be handed on */
                        answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                        wharf_release(p->task, m);
                        MATRIX_EQ(p->env->after(p), 0);
                        return true;
                }
                if (p->env->after)
                        MATRIX_EQ(p->env->after(p), 0);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_GIVE:
                MATRIX_EQ(m->n_items, 1);
                pthread_mutex_lock(&p->lock);
                p->echo[h.stream] = m->items[0].name;
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_SMALL:
                hub_small(p, &h, m);
                break;
        case ID_LARGE:
                party_send_large(p, p->echo[h.stream], m->data, h.len_bytes, h.stream, h.seq);
                break;
        case ID_COUNT:
                pthread_mutex_lock(&p->lock);
                uint32_t count = p->next[h.stream];
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h.stream, 0, count, 0, NULL, 0);
                break;
        case ID_CALL:
                check_sender(p, m);
                answer(p, m->reply, h.stream, h.seq, 0, h.arg, NULL, 0);
                break;
        case ID_SLOW:
                matrix_sleep_us(6000);
                answer(p, m->reply, h.stream, h.seq, 0, 0, NULL, 0);
                break;
        case ID_NARROW:
                if (p->narrow[h.stream])
                        wharf_drop(p->task, p->narrow[h.stream]);
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .capacity_records = h.arg};
                MATRIX_EQ(wharf_port_new(p->task, &o, &p->narrow[h.stream]), 0);
                answer(p, m->reply, h.stream, 0, 0, 0,
                       &(struct wharf_item){.kind = WHARF_MAKE_SEND, .name = p->narrow[h.stream]}, 1);
                break;
        case ID_DRAIN:
                for (uint32_t i = 0; i < h.arg; i++) {
                        party_noted(p, p->narrow[h.stream], h.stream, h.seq + i, WHARF_FOREVER);
                        matrix_sleep_us(300);
                }
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_TICK:
                for (uint32_t i = 0; i < h.arg; i++) {
                        matrix_sleep_us(300);
                        party_note(p, p->echo[h.stream], h.stream, h.seq + i);
                }
                break;
        case ID_DEAD:
                /* SIGPIPE would end us: nobody is there any more, and the socket says so sooner or later. */
                for (int r = 0; r != -EPIPE;) {
                        uint8_t bytes[sizeof(struct head)];
                        r = wharf_send(p->task, p->kept[h.stream], bytes, party_compose(bytes, 0, 0, 0, 0),
                                       wharf_in_ms(2000));
                        if (r != 0)
                                MATRIX_EQ(r, -EPIPE);
                }
                MATRIX_EQ(wharf_drop(p->task, p->kept[h.stream]), 0);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_NAME: {
                char name[64];
                wharf_name to;
                snprintf(name, sizeof name, "matrix.peer.%u", h.stream);
                MATRIX_EQ(wharf_lookup(p->task, name, wharf_in_ms(10000), &to), 0);
                party_note(p, to, h.stream, h.seq);
                MATRIX_EQ(wharf_drop(p->task, to), 0);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        }
        case ID_BYE:
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                goes_on = false;
                break;
        default:
                hub_items(p, &h, m);
        }
        wharf_release(p->task, m);
        return goes_on;
}

void party_hub_serve(struct party *p, unsigned stream)
{
        struct wharf_item items[4];
        for (bool on = true; on;) {
                struct wharf_msg m = MSG(.flags = WHARF_RECV_IN_PLACE, .items = items, .cap_items = 4);
                int r = wharf_recvmsg(p->task, p->port, &m, WHARF_FOREVER);
                if (atomic_load(&p->over) && (r == -ECANCELED || r == -EBADF))
                        break; /* another thread had the last one */
                MATRIX_EQ(r, 0);
                MATRIX_EQ(m.notice, 0);
                on = hub_one(p, &m);
        }
        if (!atomic_exchange(&p->over, true))
                wharf_drop(p->task, p->port);
}
