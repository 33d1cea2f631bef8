/*
 * parts - what a keeper says: parts of what it holds, which are asked for, and what it could not hold (J5).
 */
#include "wharfd/store_impl.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_NS ((int64_t)1000000000)   /* for one part */
#define PATIENCE_NS ((int64_t)2000000000) /* while nothing is handed over; then the server begins with what it has */
#define AGAIN_NS ((int64_t)10000000)

void wh_part_drop(struct part *p)
{
        for (unsigned i = 0; i < p->n_fds; i++)
                wh_os_close_theirs(p->fd[i]);
        p->n_fds = p->n = 0;
}

/* The lines "DESCRIPTORS NAME" below the first one: 1; 0: of an earlier question. What does not agree with what came is no part. */
static int part_read(struct wh_store *s, const char *text, struct part *p)
{
        unsigned next, deaths, fails, fail, n = 0, number = s->asked;
        if (sscanf(text, "WHARF_HANDED=%u %u %u %u %u", &next, &deaths, &fails, &fail, &number) < 4)
                return wh_trace(-EPROTO);
        if (number != s->asked)
                return 0; /* to an earlier question */
        for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
                unsigned of;
                if (p->n == WH_HAND_FDS || sscanf(line, "\n%u %63[^\n]", &of, p->name[p->n]) != 2 || of < 1 ||
                    of > ENTRY_FDS_MAX)
                        return wh_trace(-EPROTO);
                p->n_of[p->n++] = (uint8_t)of;
                n += of;
        }
        if (n != p->n_fds)
                return wh_trace(-EPROTO);
        p->next = next;
        s->state.deaths = deaths;
        s->state.fails = fails;
        s->state.fail = fail;
        return 1;
}

static void unheld(struct wh_store *s, const char *text)
{
        char name[WH_FD_NAME_MAX];
        unsigned err;
        uint32_t slot;
        if (sscanf(text, "WHARF_UNHELD=%u %63[^\n]", &err, name) != 2)
                return;
        s->state.error = -(int)err;
        if (!s->j || !wh_entry_of(s, name, &slot) || !s->fds_of[slot])
                return;
        const unsigned fds = wh_store_fds_of(s, slot);
        wh_slot_lost(s, slot);
        if (s->lost)
                s->lost(s->lost_arg, slot, fds);
}

int wh_part_hear(struct wh_store *s, struct part *ret)
{
        char text[WH_HAND_TEXT_MAX + 1];
        bool cut;
        ssize_t r;
        ret->n = 0;
        do
                r = wh_notify_recv(s->notify, text, sizeof text, ret->fd, WH_HAND_FDS, &ret->n_fds, &cut);
        while (r == -EINTR);
        if (r == -EAGAIN)
                return -EAGAIN;
        if (r <= 0) {
                wh_store_holder_gone(s, -EPIPE);
                return -EPIPE;
        }
        int out = 0;
        unsigned err, number = s->asked;
        if (cut)
                out = -EMFILE; /* J5: the keeper has them still */
        else if (!strncmp(text, "WHARF_HANDED=", 13))
                out = part_read(s, text, ret);
        else if (sscanf(text, "WHARF_REFUSED=%u %u", &err, &number) >= 1)
                out = number != s->asked ? 0 : err && err < 4096 ? -(int)err : -EPROTO;
        else
                unheld(s, text);
        if (out != 1)
                wh_part_drop(ret);
        return out;
}

int wh_part_ask(struct wh_store *s, uint32_t from, const char *name, struct part *ret)
{
        char text[WH_FD_NAME_MAX + 40];
        snprintf(text, sizeof text, "WHARF_HAND=%u %u%s%s", from, ++s->asked, name ? "\nFDNAME=" : "",
                 name ? name : "");
        int r = wh_notify_send(s->notify, text, NULL, 0);
        int64_t give_up_ns = wh_os_now_ns() + ANSWER_NS;
        while (r == 0) {
                struct pollfd p = {.fd = s->notify, .events = POLLIN};
                r = wh_part_hear(s, ret);
                if (r == -EAGAIN) {
                        if (wh_os_now_ns() >= give_up_ns)
                                return wh_trace(-ETIMEDOUT);
                        wh_os_poll(&p, 1, give_up_ns);
                        r = 0;
                }
        }
        return r < 0 ? wh_trace(r) : 0;
}

int wh_part_ask_soon(struct wh_store *s, uint32_t from, const char *name, struct part *ret)
{
        int64_t give_up_ns = wh_os_now_ns() + PATIENCE_NS;
        int r;
        while ((r = wh_part_ask(s, from, name, ret)) < 0 && s->notify >= 0 && wh_os_now_ns() < give_up_ns)
                wh_os_poll(NULL, 0, wh_os_now_ns() + AGAIN_NS);
        return r;
}
