/* Floods: what is written without end, over one link or many, for so much time of a processor. */
#include "adversary.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

enum {
        FLOOD_LINKS_MAX = 32,
        FLOOD_MS_MAX = 3500, /* on the clock */
};

/* Time of a processor that this process has had. */
static int64_t busy_ns(void)
{
        struct timespec t;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* One go at one link. Negative when it is over. */
static int flood_some(struct end *e, const struct wire_frame *f, const int *arg, uint32_t len)
{
        const unsigned kind = (unsigned)arg[FLOOD_KIND];
        bool full = false;
        for (unsigned i = 0; i < 64 && !full; i++)
                if (!e->lane.out)
                        full = wire_send(e->fd, *f, (enum wire_as)arg[FLOOD_AS], WIRE_TRUE, NULL, 0, NULL, 0) < 0;
                else if (len <= WIRE_FLOOD_BODY_MAX)
                        full = wire_lane_flood(&e->lane, kind, len) == 0;
                else
                        full = !wire_lane_put(&e->lane, kind, bytes_out, len);
        if (!full)
                return 0;
        struct pollfd p = {.fd = e->fd};
        return (e->lane.out && end_bell(e) < 0) || (poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR)) ? -EPIPE : 0;
}

/*
 * Records where there is a lane, frames otherwise, without end; over more links like this one where that is asked for.
 */
void flood(struct adversary *a, struct end *first, const int *arg)
{
        static struct end links[FLOOD_LINKS_MAX];
        const int64_t end = clock_ns() + FLOOD_MS_MAX * 1000000ll;
        const unsigned kind = (unsigned)arg[FLOOD_KIND];
        const uint32_t len = adversary_record(a, kind, 0, BODY_WORDS, (uint32_t)arg[FLOOD_LEN]);
        const struct wire_frame f = {.type = (uint8_t)arg[FLOOD_FRAME], .arg = EMSGSIZE, .seq = first->seq};
        unsigned n = 1, gone = 0;
        if (arg[FLOOD_LINES] && !first->lane.out)
                end_attach(first, (uint32_t)arg[FLOOD_LINES]);
        links[0] = *first;
        for (; first->peer >= 0 && (int)n < arg[FLOOD_LINKS]; n++) {
                links[n] = (struct end){.fd = end_connect(a, first->peer)};
                if (links[n].fd < 0 || (first->lane.out && end_attach(&links[n], first->lane.lines) < 0))
                        break;
        }
        for (unsigned i = 0; i < n && links[i].lane.out && len <= WIRE_FLOOD_BODY_MAX; i++)
                wire_lane_fill(&links[i].lane, bytes_out, len);
        const int64_t busy_until = busy_ns() + arg[FLOOD_MS] * 1000000ll;
        while (gone < n && busy_ns() < busy_until && clock_ns() < end) {
                gone = 0;
                for (unsigned i = 0; i < n; i++) {
                        if (links[i].fd >= 0 && flood_some(&links[i], &f, arg, len) < 0)
                                links[i].fd = -1;
                        gone += links[i].fd < 0;
                }
        }
}
