/*
 * Who waits for whom: what each kind of wait says on the task's page, whom it names, and what becomes of pages that lie
 * or whose tasks are gone. Real tasks, a real wharfd, in a domain of the test's own.
 */
#include "domain.h"
#include "hub.h"
#include "task/task.h"
#include "task/waits.h"
#include "wharf/wharf.h"

#include <pthread.h>
#include <stdatomic.h>

static wharf_task *task(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

/* The one wait of `pid` that is a `what`, or, for WHARF_WAITS_NOT, that it has none. False: it is not so (yet). */
static bool find(wharf_task *t, pid_t pid, uint32_t what, struct wharf_wait *ret)
{
        struct wharf_wait *all;
        size_t n;
        bool found = false;
        CHECK_EQ(wharf_waits_list(t, &all, &n), 0);
        for (size_t i = 0; i < n; i++) {
                CHECK(i == 0 || all[i - 1].pid <= all[i].pid);
                if (all[i].pid == pid && all[i].what == what) {
                        found = true;
                        *ret = all[i];
                }
        }
        free(all);
        return found;
}

struct script {
        uint32_t what;
        bool set;
        int64_t deadline_ns;
};

/* A task that waits in one way; its port is "port", and the other's is "other". */
static int wait_somehow(void *arg)
{
        struct script *s = arg;
        wharf_task *t = task();
        wharf_name port, other, set;
        char c = 0;
        struct wharf_port_opts o = {.size = sizeof o, .capacity_records = 1};
        CHECK_EQ(wharf_port_new(t, &o, &port), 0);
        CHECK_EQ(wharf_register(t, "port", port), 0);
        CHECK_EQ(wharf_lookup(t, "other", WHARF_FOREVER, &other), 0);
        CHECK_EQ(wharf_set_new(t, &set), 0);
        if (s->set) {
                wharf_name second;
                CHECK_EQ(wharf_port_new(t, &o, &second), 0);
                CHECK_EQ(wharf_set_add(t, set, port), 0);
                CHECK_EQ(wharf_set_add(t, set, second), 0);
        }
        switch (s->what) {
        case WHARF_WAITS_RECEIVE:
                wharf_recv(t, s->set ? set : port, &c, 1, NULL, s->deadline_ns);
                return 0;
        case WHARF_WAITS_SEND:
                while (wharf_send(t, other, "x", 1, s->deadline_ns) == 0)
                        ;
                return 0;
        default:
                wharf_call(t, other, "x", 1, &c, 1, s->deadline_ns);
                return 0;
        }
}

TEST(every_kind_of_wait_says_for_whom)
{
        test_domain();
        wharf_task *t = task();
        struct wharf_port_opts o = {.size = sizeof o, .capacity_records = 1};
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(t, &o, &port), 0);
        CHECK_EQ(wharf_register(t, "other", port), 0);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        struct script scripts[] = {
                {WHARF_WAITS_RECEIVE, false, WHARF_FOREVER},
                {WHARF_WAITS_RECEIVE, true, WHARF_FOREVER},
                {WHARF_WAITS_SEND, false, WHARF_FOREVER},
                {WHARF_WAITS_CALL, false, wharf_in_ms(3600000)},
        };
        for (unsigned i = 0; i < sizeof scripts / sizeof *scripts; i++) {
                struct wharf_wait w, again;
                pid_t pid = test_fork(wait_somehow, &scripts[i]);
                CHECK_EQ(wharf_lookup(t, "port", WHARF_FOREVER, &right), 0); /* so we can send to it, and say so */
                /*
                 * A call to wharfd, which is how it looks things up, is another wait; and so is what ends at once
                 * because a greeting comes. In the receive nobody has used its right: each link is accounted for by its
                 * holder's own page.
                 */
                UNTIL(find(t, pid, scripts[i].what, &w) && w.n_whom == 1 && w.whom[0] == getpid() &&
                      (scripts[i].set || !(w.flags & WHARF_WAIT_OTHERS)) && find(t, pid, scripts[i].what, &again) &&
                      again.generation == w.generation);
                CHECK_EQ(w.uid, getuid());
                CHECK(w.deadline_ns == scripts[i].deadline_ns);
                CHECK_LE(w.since_ns, wharf_now_ns());
                if (w.what != WHARF_WAITS_RECEIVE)
                        CHECK(w.port.v == st.id.v);
                CHECK_EQ(w.port.v == 0, scripts[i].set); /* a set of several ports is none of them */
                kill_hard(pid);
                CHECK(!find(t, pid, scripts[i].what, &again)); /* at once */
                CHECK_EQ(wharf_drop(t, right), 0);
                while (wharf_recv(t, port, (char[1]){0}, 1, NULL, 0) >= 0)
                        ;
        }
        wharf_task_close(t);
}

/* A wait that was ended and begun again is another one. */
TEST(each_wait_has_a_generation_of_its_own)
{
        test_domain();
        wharf_task *t = task();
        struct script s = {WHARF_WAITS_SEND, false, WHARF_FOREVER};
        struct wharf_port_opts o = {.size = sizeof o, .capacity_records = 1, .flags = WHARF_PORT_STAYS};
        wharf_name port;
        CHECK_EQ(wharf_port_new(t, &o, &port), 0);
        CHECK_EQ(wharf_register(t, "other", port), 0);
        pid_t pid = test_fork(wait_somehow, &s);
        uint64_t last = 0;
        for (unsigned i = 0; i < 5; i++) {
                struct wharf_wait w;
                UNTIL(find(t, pid, WHARF_WAITS_SEND, &w) && w.port.v && w.generation != last);
                CHECK(w.generation > last);
                last = w.generation;
                CHECK_EQ(wharf_recv(t, port, (char[1]){0}, 1, NULL, WHARF_FOREVER), 1);
        }
        kill_hard(pid);
        wharf_task_close(t);
}

struct sleeper {
        wharf_task *task;
        wharf_name port;
};

static void *sleep_in_a_receive(void *arg)
{
        struct sleeper *s = arg;
        wharf_recv(s->task, s->port, NULL, 0, NULL, WHARF_FOREVER);
        return NULL;
}

/* More threads than the page has places, all asleep before anybody asked for it. */
TEST(threads_asleep_before_the_page_was_handed_over_are_on_it)
{
        enum { THREADS = WH_WAITS_MAX + 8 };
        test_domain();
        wharf_task *t = task();
        struct sleeper s[THREADS];
        pthread_t th[THREADS];
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        for (unsigned i = 0; i < THREADS; i++) {
                s[i].task = t;
                CHECK_EQ(wharf_port_new(t, &o, &s[i].port), 0);
                CHECK_EQ(pthread_create(&th[i], NULL, sleep_in_a_receive, &s[i]), 0);
        }
        for (size_t mine = 0; mine < WH_WAITS_MAX;) {
                struct wharf_wait *all;
                size_t n;
                CHECK_EQ(wharf_waits_list(t, &all, &n), 0);
                mine = 0;
                for (size_t i = 0; i < n; i++)
                        mine += all[i].pid == getpid() && all[i].what == WHARF_WAITS_RECEIVE;
                /*
                 * What has no place is no secret either: a task with ports that are not shown has others to wait for.
                 */
                for (size_t i = 0; i < n; i++)
                        CHECK(all[i].what != WHARF_WAITS_RECEIVE || all[i].flags & WHARF_WAIT_OTHERS);
                CHECK_LE(mine, WH_WAITS_MAX);
                free(all);
        }
        for (unsigned i = 0; i < THREADS; i++)
                CHECK_EQ(wharf_drop(t, s[i].port), 0);
        for (unsigned i = 0; i < THREADS; i++)
                pthread_join(th[i], NULL);
        wharf_task_close(t);
}

/* A task that was closed is gone, though its process lives. */
TEST(a_closed_task_is_not_listed)
{
        test_domain();
        wharf_task *t = task(), *other = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(other, "nobody", 0, &right), -ENOENT);
        struct wharf_wait *all;
        size_t n, before = 0;
        CHECK_EQ(wharf_waits_list(t, &all, &before), 0);
        free(all);
        wharf_task_close(other);
        CHECK_EQ(wharf_waits_list(t, &all, &n), 0);
        free(all);
        CHECK_EQ(n, before - 1);
        wharf_task_close(t);
}

/* ---- what is on a page ---- */

/* Goal: what finds no place is counted, as long as it is there; and every place that is given back is another's. */
TEST(places_on_a_page_come_back_and_what_has_none_is_counted)
{
        enum { MORE = 2 };
        struct wh_waits w = {0};
        struct wh_task_view v;
        for (uint64_t round = 0; round < 3; round++) {
                unsigned slot[WH_WAITS_MAX + MORE], at[WH_WAIT_PORTS_MAX];
                for (unsigned i = 0; i < WH_WAITS_MAX + MORE; i++)
                        slot[i] = wh_waits_begin(&w, WHARF_WAITS_RECEIVE, 0, 0, i, 0, WHARF_FOREVER);
                for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++)
                        CHECK((at[i] = wh_waits_port_new(&w, round << 32 | (i + 1))) > 0);
                for (unsigned i = 0; i < 2 * WH_WAIT_HELD_MAX; i++) /* two rights to each */
                        wh_waits_hold(&w, round << 32 | (i / 2 + 1), 1);
                wh_task_page_read(w.page, &v);
                CHECK_EQ(v.waits_more, MORE);
                CHECK_EQ(v.ports_more, 0);
                for (unsigned i = 0; i < WH_WAITS_MAX; i++)
                        CHECK(v.waits[i].generation && v.waits[i].inbox == i);
                for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++)
                        CHECK(v.ports[i].port_id == (round << 32 | (i + 1)) && v.ports[i].flags == WH_WAIT_STALE);
                for (unsigned i = 0; i < WH_WAIT_HELD_MAX; i++)
                        CHECK(v.held[i].port_id == (round << 32 | (i + 1)) && v.held[i].rights == 2);
                for (unsigned i = WH_WAITS_MAX + MORE; i-- > 0;)
                        wh_waits_end(&w, slot[i]);
                for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++)
                        wh_waits_port_gone(&w, at[i]);
                for (unsigned i = 0; i < 2 * WH_WAIT_HELD_MAX; i++)
                        wh_waits_hold(&w, round << 32 | (i / 2 + 1), -1);
                wh_task_page_read(w.page, &v);
                CHECK_EQ(v.waits_more, 0);
                for (unsigned i = 0; i < WH_WAITS_MAX; i++)
                        CHECK_EQ(v.waits[i].generation, 0);
                for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++)
                        CHECK_EQ(v.ports[i].port_id, 0);
                for (unsigned i = 0; i < WH_WAIT_HELD_MAX; i++)
                        CHECK_EQ(v.held[i].port_id, 0);
        }
        wh_waits_done(&w, true);
}

static int greet_and_stay(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), 0);
        return pause();
}

/* The place of the hub's port on its task's page. */
static unsigned place_of(const struct hub *h, struct wh_task_view *ret)
{
        struct wharf_port_stat st = {.size = sizeof st};
        unsigned i = 0;
        CHECK_EQ(wharf_port_stat(h->task, h->port, &st), 0);
        wh_task_page_read(h->task->waits.page, ret);
        while (i < WH_WAIT_PORTS_MAX && ret->ports[i].port_id != st.id.v)
                i++;
        CHECK_LE(i, WH_WAIT_PORTS_MAX - 1);
        return i;
}

/*
 * Goal:   who can send to a port is written down before a thread sleeps there, as far as it fits; and until the next one
 *         does, a change is said to have been.
 * Method: senders come one by one, more than there are places for, and one goes; the page is read after each sleep.
 */
TEST(senders_on_a_page_are_those_of_the_last_sleep)
{
        enum { SENDERS = WH_WAIT_SENDERS_MAX + 1 };
        struct hub h = hub_open(NULL);
        struct wh_task_view v;
        pid_t pid[SENDERS];
        wharf_name unused; /* whose holder nobody knows */
        char c;
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, wharf_in_ms(20)), -ETIMEDOUT);
        const unsigned i = place_of(&h, &v);
        CHECK_EQ(v.ports[i].flags, WH_WAIT_LISTENS);
        CHECK_EQ(v.ports[i].links, 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &unused), 0);
        CHECK_EQ(place_of(&h, &v), i);
        CHECK_EQ(v.ports[i].flags, WH_WAIT_STALE);
        for (unsigned n = 1; n <= SENDERS; n++) {
                pid[n - 1] = test_fork(greet_and_stay, &h);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, wharf_in_ms(20)), -ETIMEDOUT);
                CHECK_EQ(place_of(&h, &v), i);
                CHECK_EQ(v.ports[i].flags, WH_WAIT_LISTENS | (n > WH_WAIT_SENDERS_MAX ? WH_WAIT_MORE : 0));
                CHECK_EQ(v.ports[i].links, n + 1);
                CHECK_EQ(v.ports[i].unknown, 1);
                for (unsigned k = 0; k < WH_WAIT_SENDERS_MAX; k++)
                        CHECK_EQ(v.ports[i].senders[k], k < n ? (uint32_t)pid[k] : 0);
        }
        kill_hard(pid[0]);
        do { /* it is seen to be dead, and told before the next sleep */
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, wharf_in_ms(20)), -ETIMEDOUT);
                CHECK_EQ(place_of(&h, &v), i);
        } while (v.ports[i].senders[0] == (uint32_t)pid[0]);
        CHECK_EQ(v.ports[i].links, SENDERS);
        for (unsigned k = 1; k < SENDERS; k++)
                kill_hard(pid[k]);
        hub_close(&h);
}

/* ---- pages that lie ---- */

TEST(a_page_that_could_change_or_vanish_is_refused)
{
        const struct wh_task_page *page = NULL;
        struct wh_waits w = {0};
        int fd, fd2;
        CHECK_EQ(wh_waits_fd(&w, &fd), 0);
        CHECK_EQ(wh_waits_fd(&w, &fd2), 0);
        CHECK_EQ(fd, fd2);
        CHECK_EQ(wh_task_page_open(fd, &page), 0);
        wh_task_page_close(page);
        /* Nobody but its maker can write it. */
        CHECK(mmap(NULL, WH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
        w.page->version = 2;
        CHECK_EQ(wh_task_page_open(fd, &page), -EPROTONOSUPPORT);
        w.page->magic = 1;
        CHECK_EQ(wh_task_page_open(fd, &page), -EPROTO);
        wh_waits_done(&w, true);
        int bare = memfd_create("bare", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_EQ(ftruncate(bare, WH_PAGE), 0);
        CHECK_EQ(wh_task_page_open(bare, &page), -EPROTO);
        CHECK_EQ(wh_task_page_open(0, &page), -EPROTO);
        close(bare);
}

/* One that says nonsense in every word: shown under the process that the kernel names, and breaks nothing. */
static int lie(void *arg)
{
        wharf_task *t = task();
        wharf_name port;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_register(t, "liar", port), 0);
        struct wh_task_page *page = t->waits.page;
        for (unsigned round = 0;; round++) {
                uint64_t *words = (uint64_t *)page->waits;
                for (size_t i = 0; i < (WH_PAGE - offsetof(struct wh_task_page, waits)) / 8; i++)
                        ((volatile uint64_t *)words)[i] =
                                round % 2 ? UINT64_MAX : ((i * 0x9e3779b97f4a7c15u) ^ ((uint64_t)round << 8)) | 1;
        }
        return 0;
}

TEST(a_page_of_lies_is_only_its_writers)
{
        test_domain();
        wharf_task *t = task();
        pid_t pid = test_fork(lie, NULL);
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "liar", WHARF_FOREVER, &right), 0);
        for (unsigned i = 0; i < 200; i++) {
                struct wharf_wait *all;
                size_t n;
                CHECK_EQ(wharf_waits_list(t, &all, &n), 0);
                CHECK_LE(n, 2 * WH_WAITS_MAX);
                for (size_t k = 0; k < n; k++) {
                        CHECK(all[k].pid == pid || all[k].pid == getpid());
                        CHECK_LE(all[k].what, WHARF_WAITS_CALL);
                        CHECK_LE(all[k].n_whom, WHARF_WHOM_MAX);
                }
                free(all);
        }
        kill_hard(pid);
        struct wharf_wait w;
        CHECK(!find(t, pid, WHARF_WAITS_NOT, &w));
        wharf_task_close(t);
}
