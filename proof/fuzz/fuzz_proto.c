/*
 * What wharfd and its clients say to each other. SIDE 0: requests, with rights and descriptors beside them, to a real
 * server. SIDE 1: replies and lists as the client's parsers get them. SIDE 2: events.
 */
#include "port.h"

#include "os/os.h"
#include "names/proto.h"
#include "wharfd/rules.h"
#include "wharfd/server.h"

#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/un.h>

enum { SIDE_SERVER, SIDE_REPLY, SIDE_EVENT, SIDES };
enum { REQUESTS_MAX = 24 };

/* One turn of the server: everything that came is dealt with, and nothing is waited for. */
static void turn(struct wh_server *s, int stop_fd)
{
        int r;
        for (int i = 0; i < 64; i++) {
                r = wh_server_run(s, stop_fd, 0);
                FUZZ_CHECK(r == WH_SERVER_STOPPED || r == WH_SERVER_IDLE);
                if (!wh_server_pending(s))
                        break;
        }
}

static void answers(struct fuzz_user *u, uint32_t *calls, unsigned *n)
{
        for (unsigned i = 0; i < *n; i++) {
                static uint8_t buf[WH_COLD_MAX];
                struct wharf_item items[4];
                struct wharf_msg m = {.size = sizeof m,
                                      .flags = WHARF_RECV_ALLOC,
                                      .data = buf,
                                      .cap_bytes = sizeof buf,
                                      .items = items,
                                      .cap_items = 4};
                int answer;
                uint32_t line;
                if (wharf_call_finish(u->task, u->right, calls[i], &m, 0) < 0)
                        continue;
                /* An honest server's answer always parses, whatever it was asked. */
                struct wh_names_reply_head h;
                FUZZ_CHECK(m.len_bytes >= sizeof h);
                memcpy(&h, m.data, sizeof h);
                FUZZ_CHECK(wh_names_get_reply(m.data, m.len_bytes, (enum wh_names_op)h.op, &answer, &line) == 0);
                if (answer == 0 && h.op == WH_NAMES_LIST) {
                        struct wharf_named *all;
                        size_t count;
                        FUZZ_CHECK(wh_names_get_list(m.data, m.len_bytes, &all, &count) == 0);
                        for (size_t k = 1; k < count; k++) /* in order, and no name twice (server.S3) */
                                for (size_t before = 0; before < k; before++)
                                        FUZZ_CHECK(strcmp(all[before].name, all[k].name) != 0);
                        free(all);
                }
                fuzz_take(u, &m);
                wharf_release(u->task, &m);
        }
        *n = 0;
}

/* A request: WHAT (bit 0: the head is put right; 1: a right; 2: a page; 3: as a call), OP, LENGTH, BYTES. */
static void server_side(struct fuzz_in *in)
{
        struct fuzz_user s = {.task = NULL}, c = {.task = NULL};
        struct wh_server *server = NULL;
        uint32_t calls[REQUESTS_MAX];
        unsigned n_calls = 0, open = fuzz_u8(in) & 1;
        int listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
            stop_fd = eventfd(1, EFD_CLOEXEC), fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        socklen_t len = sizeof(sa_family_t);
        FUZZ_CHECK(bind(listen_fd, (struct sockaddr *)&sa, len) == 0 && listen(listen_fd, 4) == 0); /* any free name */
        len = sizeof sa;
        FUZZ_CHECK(getsockname(listen_fd, (struct sockaddr *)&sa, &len) == 0);
        FUZZ_CHECK(connect(fd, (struct sockaddr *)&sa, len) == 0);
        FUZZ_CHECK(wharf_task_open(NULL, &s.task) == 0 && wharf_task_open(NULL, &c.task) == 0);
        FUZZ_CHECK(wh_server_new(s.task, listen_fd, wh_rules_new(open), NULL, &server) == 0);
        FUZZ_CHECK(wh_right_from_socket(c.task, fd, false, false, &c.right) == 0);
        FUZZ_CHECK(wharf_port_new(c.task, NULL, &c.port) == 0);
        turn(server, stop_fd);
        for (int i = 0; fuzz_more(in) && i < REQUESTS_MAX; i++) {
                unsigned what = fuzz_u8(in), op = fuzz_u8(in) % 20u;
                uint8_t bytes[512];
                size_t n;
                const uint8_t *from = fuzz_bytes(in, fuzz_u16(in) % (sizeof bytes - 64), &n);
                memcpy(bytes, from, n);
                if (what & 1) {
                        struct wh_names_request_head h = {.magic = WH_NAMES_MAGIC,
                                                          .version = WH_NAMES_VERSION,
                                                          .op = (uint16_t)op,
                                                          .name_len = (uint32_t)n,
                                                          .flags = what & 4 ? WH_NAMES_PAGE : 0};
                        if (op != WH_NAMES_LOOKUP && op != WH_NAMES_LIST && op != WH_NAMES_WAITS)
                                h.cookie.v[0] = 1 + (what >> 6);
                        else if (op == WH_NAMES_LOOKUP)
                                h.timeout_ns = what & 16 ? WH_NAMES_FOREVER : 0;
                        memmove(bytes + sizeof h, bytes, n);
                        memcpy(bytes, &h, sizeof h);
                        n += sizeof h;
                }
                struct wharf_item items[3];
                struct wharf_msg m = {.size = sizeof m, .data = bytes, .len_bytes = n, .items = items};
                int page = -1;
                if (what & 2)
                        items[m.n_items++] = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = c.port};
                if (what & 4) {
                        int own;
                        page = what & 32 ? fuzz_memory(4096, true) : -1;
                        if (page < 0 && wh_waits_fd(&c.task->waits, &own) == 0)
                                page = fcntl(own, F_DUPFD_CLOEXEC, 3);
                        if (page >= 0)
                                items[m.n_items++] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = page};
                }
                int r = what & 8 ? wharf_call_start(c.task, c.right, &m, WHARF_NONE, 0, &calls[n_calls])
                                 : wharf_sendmsg(c.task, c.right, &m, 0);
                n_calls += what & 8 && r == 0;
                if (page >= 0)
                        close(page);
                turn(server, stop_fd);
                answers(&c, calls, &n_calls);
                fuzz_receive(&c, c.port, 0);
        }
        wharf_task_close(c.task);
        turn(server, stop_fd);
        wh_server_free(server);
        wharf_task_close(s.task);
        close(listen_fd);
        close(stop_fd);
}

static void reply_side(struct fuzz_in *in)
{
        unsigned op = fuzz_u8(in) % 20u;
        size_t len = (size_t)(in->end - in->at), n;
        int answer = 1;
        uint32_t line;
        struct wharf_named *all;
        struct wh_names_task *tasks;
        if (wh_names_get_reply(in->at, len, (enum wh_names_op)op, &answer, &line) < 0)
                return;
        FUZZ_CHECK(answer <= 0);
        if (answer < 0)
                return;
        if (wh_names_get_list(in->at, len, &all, &n) == 0) {
                for (size_t i = 0; i < n; i++)
                        FUZZ_CHECK(wh_names_valid(all[i].name, strlen(all[i].name)));
                free(all);
        }
        if (wh_names_get_tasks(in->at, len, &tasks, &n) == 0)
                free(tasks);
}

void fuzz_one(struct fuzz_in *in)
{
        struct wharf_name_event ev;
        struct wh_names_request req;
        unsigned side = fuzz_u8(in) % SIDES;
        if (side == SIDE_SERVER)
                server_side(in);
        else if (side == SIDE_REPLY)
                reply_side(in);
        else if (wh_names_get_event(in->at, (size_t)(in->end - in->at), &ev) == 0)
                FUZZ_CHECK(!ev.name[0] || wh_names_valid(ev.name, strlen(ev.name)));
        else if (wh_names_get_request(in->at, (size_t)(in->end - in->at), &req) == 0)
                FUZZ_CHECK(strlen(req.name) <= WHARF_NAME_MAX);
}

static void put_request(struct fuzz_out *o, unsigned what, unsigned op, const char *name)
{
        fuzz_put8(o, what);
        fuzz_put8(o, op);
        fuzz_put16(o, (unsigned)strlen(name));
        fuzz_put(o, name, strlen(name));
}

void fuzz_seeds(void)
{
        struct fuzz_out o = {.len = 0};
        fuzz_put(&o, (uint8_t[2]){SIDE_SERVER, 1}, 2);
        put_request(&o, 1 | 2 | 8, WH_NAMES_WATCH, "a.");
        put_request(&o, 1 | 2 | 8, WH_NAMES_REGISTER, "a.b");
        put_request(&o, 1 | 2 | 8, WH_NAMES_REGISTER, "a.b");
        put_request(&o, 1 | 2 | 8 | 64, WH_NAMES_REGISTER, "a.b");
        put_request(&o, 1 | 8, WH_NAMES_LOOKUP, "a.b");
        put_request(&o, 1 | 8 | 16, WH_NAMES_LOOKUP, "later");
        put_request(&o, 1 | 2 | 8 | 128, WH_NAMES_REGISTER, "later");
        put_request(&o, 1 | 8, WH_NAMES_LIST, "");
        put_request(&o, 1 | 4 | 8, WH_NAMES_WAITS, "");
        put_request(&o, 1 | 8, WH_NAMES_UNREGISTER, "a.b");
        put_request(&o, 1 | 8, WH_NAMES_UNWATCH, "");
        fuzz_seed("server", o.bytes, o.len);

        o.len = 0;
        fuzz_put(&o, (uint8_t[2]){SIDE_REPLY, WH_NAMES_LIST}, 2);
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LIST, 0, 2);
        fuzz_put(&o, &h, sizeof h);
        for (int i = 0; i < 2; i++) {
                uint8_t entry[WH_NAMES_ENTRY_MAX];
                struct wharf_named named = {.pid = 7, .senders = 1, .name = "n.0"};
                named.name[2] = (char)('0' + i);
                fuzz_put(&o, entry, wh_names_put_entry(&named, entry));
        }
        fuzz_seed("list", o.bytes, o.len);

        o.len = 0;
        fuzz_put(&o, (uint8_t[2]){SIDE_REPLY, WH_NAMES_LOOKUP}, 2);
        h = wh_names_reply(WH_NAMES_LOOKUP, -EACCES, 12);
        fuzz_put(&o, &h, sizeof h);
        fuzz_seed("refused", o.bytes, o.len);

        o.len = 0;
        fuzz_put8(&o, SIDE_EVENT);
        struct wharf_name_event ev = {.what = WHARF_NAME_IS, .pid = 7, .name = "n.0"};
        uint8_t bytes[WH_NAMES_EVENT_MAX];
        fuzz_put(&o, bytes, wh_names_put_event(&ev, bytes));
        fuzz_seed("event", o.bytes, o.len);

        o.len = 0;
        fuzz_put8(&o, SIDE_EVENT);
        struct wh_names_request req = {.op = WH_NAMES_LOOKUP, .name = "n.0"};
        uint8_t asked[WH_NAMES_REQUEST_MAX];
        fuzz_put(&o, asked, wh_names_put_request(&req, asked));
        fuzz_seed("request", o.bytes, o.len);
}
