#include "port/port.h"
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "message/items.h"
#include "message/sender.h"
#include "right/kept.h"
#include "task/task.h"
#include "names/domain.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

enum {
        SHORT_TRIES = 8,        /* of what there is too little for, before it is given up; with a pause after each */
        BATCH_MSGS = 64,        /* requests between two looks at the clock */
        LINKS_MAX = 1 << 18,    /* connections; each user has a share of what the rules allow */
        POLLS_REFUSED_MAX = 16, /* in a row, with a pause after each: then there is nothing to serve with */
};

/* A watched right's port is gone. */
static void on_dead_name(struct wh_server *s, wharf_name right)
{
        struct named *e = wh_named_of_right(s, right);
        bool found;
        if (e)
                wh_named_remove(s, wh_named_find(s, e->name, &found));
        else if (!wh_watch_dead(s, right))
                wh_unread_look(s, true); /* of one of these */
}

/* S13 */
static void spares_give(struct wh_server *s)
{
        while (s->n_spares)
                wh_os_close(s->spare[--s->n_spares]);
}
static void spares_take(struct wh_server *s)
{
        for (int fd = 0; s->n_spares < WH_SPARES && fd >= 0;)
                if ((fd = wh_os_dup_above(s->port_fd, 0)) >= 0)
                        s->spare[s->n_spares++] = fd;
}

/*
 * There is too little for what one sender has, and nobody else has anything. That may pass; but nobody else is to wait
 * for it for good. So after a few tries the sender's next message is taken without its items, which the spare
 * descriptors are for (S13), and answered with the reason; where not even that can be done, its link ends for that
 * reason, and it may come again. Then 0; otherwise `err`.
 */
static int serve_short(struct wh_server *s, struct wharf_msg *m, int err)
{
        struct wh_names_request req;
        const uint64_t sender = m->sender.id;
        if (!sender || ++s->short_tries < SHORT_TRIES)
                return err;
        s->short_tries = 0;
        m->flags |= WHARF_RECV_NO_ITEMS;
        m->from = sender;
        spares_give(s);
        int r = wharf_recvmsg(s->task, s->port, m, 0);
        spares_take(s);
        if (r == -EOVERFLOW)
                return 0;
        if (r < 0)
                return wh_sender_end(s->task, s->port, sender, err) == 0 ? 0 : err;
        r = wh_names_get_request(m->data, m->len_bytes, &req);
        if (m->reply == WHARF_NONE)
                wh_request_serve(s, m); /* what takes something back has no items */
        else
                wh_answer(s, m->reply, r == 0 ? req.op : 0, err);
        return 0;
}

/* One message without waiting: 0, or -EAGAIN when there is none, or what is wrong. */
static int serve_one(struct wh_server *s)
{
        struct wharf_item items[WH_REQUEST_ITEMS_MAX];
        uint8_t buf[WH_NAMES_REQUEST_MAX]; /* private: what is parsed cannot change any more (proto.N1) */
        struct wharf_msg m = {.size = sizeof m,
                              .flags = WHARF_RECV_DROP_UNFIT,
                              .data = buf,
                              .cap_bytes = sizeof buf,
                              .items = items,
                              .cap_items = WH_REQUEST_ITEMS_MAX};
        int r = wharf_recvmsg(s->task, s->port, &m, 0);
        if (r == -EOVERFLOW)
                return 0; /* no request is so long, or has so many items; nobody else is to wait for it */
        if (wh_is_shortage(r))
                return serve_short(s, &m, r);
        if (r < 0)
                return r;
        if (m.notice) {
                if (m.notice == WHARF_NOTICE_DEAD_NAME)
                        on_dead_name(s, m.about);
                return 0;
        }
        wh_request_serve(s, &m);
        wh_items_drop(s->task, items, m.n_items);
        return 0;
}

int wh_server_new(wharf_task *task, int listen_fd, struct wh_rules *rules, struct wh_store *store,
                  struct wh_server **ret)
{
        struct wh_server *s = wh_os_calloc(1, sizeof *s);
        if (!s)
                return wh_trace(-ENOMEM);
        s->task = task;
        s->listen_fd = listen_fd;
        wh_list_init(&s->waiters);
        wh_list_init(&s->unread);
        for (unsigned i = 0; i < WH_AWAITED; i++)
                wh_list_init(&s->awaited[i]);
        s->pass = 1;
        wh_list_init(&s->introducing);
        wh_list_init(&s->tasks);
        s->tasks_next = &s->tasks;
        s->tasks_end = -1;
        wh_list_init(&s->turns);
        s->serial_first = s->serial = (uint64_t)wh_os_now_ns(); /* more than any that an earlier one gave */
        wh_list_init(&s->watches);
        struct wharf_port_opts o = {
                .size = sizeof o,
                .flags = WHARF_PORT_STAYS | WHARF_PORT_FIXED,
                .links_max = LINKS_MAX,
                .capacity_records = 64,
                .payload_bytes_max = WH_NAMES_REQUEST_MAX, /* so that no request is larger than serve_one()'s buffer */
        };
        int r = wharf_port_new(task, &o, &s->port);
        if (r == 0)
                wh_os_listen(listen_fd, WH_DOMAIN_BACKLOG); /* S9; refused, nobody knows our number */
        if (r == 0)
                r = wh_port_of_others(task, s->port);
        if (r == 0) /* a port that is moved here, or a memory, would cost much before anybody sees what for */
                r = wh_port_takes(task, s->port, 1u << WH_ITEM_SEND | 1u << WH_ITEM_FD);
        if (r == 0)
                r = wharf_port_listen(task, s->port, listen_fd);
        if (r == 0)
                r = wharf_port_fd(task, s->port, &s->port_fd);
        struct wharf_port_stat st = {.size = sizeof st};
        if (r == 0 && (r = wharf_port_stat(task, s->port, &st)) == 0)
                s->port_id = st.id.v;
        if (r == 0)
                spares_take(s);
        if (r == 0 && !(s->polls = wh_os_calloc(WH_POLLS_OWN, sizeof *s->polls)))
                r = wh_trace(-ENOMEM);
        if (r < 0) {
                wh_server_free(s);
                return r;
        }
        s->room_polls = WH_POLLS_OWN;
        s->store = store;
        wh_server_set_rules(s, rules);
        *ret = s;
        return 0;
}

/* A share of the descriptors that we may have, too: a name needs some as well. */
static void share_links(struct wh_server *s)
{
        uint32_t total = wh_rules_limit(s->rules, WH_LIMIT_CONNECTIONS);
        uint64_t fds;
        if (wh_os_rlimit(RLIMIT_NOFILE, &fds) == 0 && fds / 2 < total)
                total = (uint32_t)(fds / 2);
        wh_port_share_links(s->task, s->port, total);
}

void wh_server_confined(struct wh_server *s, uint32_t what)
{
        s->confined = what;
}

void wh_server_set_rules(struct wh_server *s, struct wh_rules *rules)
{
        wh_rules_free(s->rules);
        s->rules = rules;
        share_links(s);
        wh_watches_anew(s); /* what they may see may have changed */
}

struct wh_server *wh_server_free(struct wh_server *s)
{
        if (!s)
                return NULL;
        s->ends = true;
        s->store = NULL; /* what is held for the next wharfd stays */
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                wharf_drop(s->task, w->reply);
                wh_waiter_free(s, w);
        }
        free(s->deadlines);
        wh_list_for_safe (pos, &s->tasks)
                wh_tasked_free(s, wh_container(pos, struct tasked, node));
        if (s->tasks_end >= 0)
                wh_os_close(s->tasks_end);
        spares_give(s);
        wh_watches_done(s);
        wh_turns_drop(s); /* after all that had them */
        while (s->n_names)
                wh_named_remove(s, s->n_names - 1);
        wh_unread_done(s);
        free(s->names);
        free(s->by_serial);
        free(s->by_right); /* and by_id */
        wh_accounts_done(&s->users.accounts);
        wh_rules_free(s->rules);
        if (s->port != WHARF_NONE)
                wharf_drop(s->task, s->port);
        free(s);
        return NULL;
}

bool wh_server_pending(struct wh_server *s)
{
        struct pollfd p[2] = {{.fd = s->listen_fd, .events = POLLIN}, {.fd = s->port_fd, .events = POLLIN}};
        return wh_os_poll(p, 2, 0) != 0;
}

/* Does anybody need this server? */
static bool needed(struct wh_server *s)
{
        struct wharf_port_stat st = {.size = sizeof st};
        return s->n_names || s->n_watches || wharf_port_stat(s->task, s->port, &st) < 0 || st.senders;
}

/*
 * Sleeps until there is something to do, `wake_ns` at the latest, and does what is not a request. 0, or WH_SERVER_STOPPED,
 * or an error once poll() was refused too often in a row, which *refused counts.
 */
static int wait_for_more(struct wh_server *s, int stop_fd, int64_t wake_ns, unsigned *refused)
{
        struct pollfd *p = s->polls;
        p[0] = (struct pollfd){.fd = s->port_fd, .events = POLLIN};
        p[1] = (struct pollfd){.fd = stop_fd, .events = POLLIN};
        p[2] = (struct pollfd){.fd = wh_store_fd(s->store), .events = POLLIN};
        p[3] = (struct pollfd){.fd = s->tasks_end, .events = POLLIN};
        unsigned n_polls = WH_POLLS_OWN + (s->shortage ? 0 : wh_watches_poll(s, p + WH_POLLS_OWN));
        int n = wh_os_poll(p, n_polls, wake_ns);
        if (n > 0 && p[1].revents)
                return WH_SERVER_STOPPED;
        if (n != 0 || s->shortage)
                wh_watches_look_again(s);
        if (n > 0 && p[2].revents)
                wh_kept_hear(s);
        if (n > 0 && p[3].revents)
                wh_tasks_ended(s);
        *refused = n < 0 && n != -EINTR ? *refused + 1 : 0;
        if (*refused == POLLS_REFUSED_MAX)
                return wh_trace(n);
        if (*refused) {
                _Atomic uint32_t nobody = 0; /* a pause that does not take poll() */
                wh_os_futex_wait(&nobody, 0, wh_os_now_ns() + WH_SHORTAGE_PAUSE_NS, false);
        }
        return 0;
}

int wh_server_run(struct wh_server *s, int stop_fd, int64_t linger_ns)
{
        int64_t idle_since_ns = WHARF_FOREVER;
        unsigned polls_refused = 0;
        for (;;) {
                int r = 0;
                s->pass++;
                unsigned n = 0;
                for (; n < BATCH_MSGS && r == 0; n++)
                        r = serve_one(s);
                if (n > 1 || r == 0)
                        wh_watches_look_again(s);
                if (r == -EAGAIN) {
                        s->short_tries = 0;
                        spares_take(s);
                }
                if (wh_is_shortage(r))
                        wh_os_poll(NULL, 0, wh_os_now_ns() + WH_SHORTAGE_PAUSE_NS);
                else if (r < 0 && r != -EAGAIN && r != -ETIMEDOUT && r != -EPROTO)
                        return r;
                int64_t wake_ns = wh_waiters_expire(s);
                s->shortage = false;
                bool more = wh_watches_pump(s);
                more |= wh_turns_run(s);

                int64_t now = wh_os_now_ns();
                if (s->shortage && now + WH_SHORTAGE_PAUSE_NS < wake_ns)
                        wake_ns = now + WH_SHORTAGE_PAUSE_NS;
                int64_t keep_ns = wh_keep_again(s, now);
                if (keep_ns < wake_ns)
                        wake_ns = keep_ns;
                int64_t unread_ns = wh_unread_again(s, now);
                if (unread_ns < wake_ns)
                        wake_ns = unread_ns;
                if (needed(s)) {
                        idle_since_ns = WHARF_FOREVER;
                } else if (linger_ns != WHARF_FOREVER) {
                        if (idle_since_ns == WHARF_FOREVER)
                                idle_since_ns = now;
                        if (r == -EAGAIN && now - idle_since_ns >= linger_ns)
                                return WH_SERVER_IDLE;
                        if (idle_since_ns + linger_ns < wake_ns)
                                wake_ns = idle_since_ns + linger_ns;
                }
                r = wait_for_more(s, stop_fd, r == 0 || more ? 0 : wake_ns, &polls_refused);
                if (r != 0)
                        return r;
        }
}
