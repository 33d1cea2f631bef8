/*
 * What a program is given at its start: $WHARF_RIGHTS, and the carrier with names and rights that it names.
 *
 * An input: HOW, the value of the variable or what is right (bit 0), then the names, and what comes with them. The
 * source is included, since what it takes it takes once a process.
 */
#include "port.h"

#include "../../src/pattern/inherited.c"

#include <stdio.h>
#include <sys/stat.h>

void fuzz_one(struct fuzz_in *in)
{
        struct fuzz_user u = {.task = NULL}, parent = {.task = NULL};
        unsigned how = fuzz_u8(in), n_items = fuzz_u8(in) % 5u;
        int sv[2] = {-1, -1};
        static char variable[160] = VARIABLE "="; /* not setenv(): it would allocate for good */
        char *value = variable + sizeof VARIABLE, names[1024];
        const size_t value_max = sizeof variable - sizeof VARIABLE;
        size_t len;
        struct wh_carrier c;
        struct fuzz_peer p = {.sock = -1, .says = WH_TO_ONCE};
        taken = false; /* a process of its own */
        FUZZ_CHECK(wharf_task_open(NULL, &u.task) == 0 && wharf_task_open(NULL, &parent.task) == 0);
        FUZZ_CHECK(wharf_port_new(parent.task, NULL, &parent.port) == 0);
        struct wharf_item items[5];
        for (unsigned i = 0; i < n_items; i++) {
                unsigned kind = fuzz_u8(in);
                items[i] = kind % 3 == 0 ? (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = parent.port}
                           : kind % 3 == 1
                                   ? (struct wharf_item){.kind = WHARF_MOVE_FD, .fd = fuzz_fd(&p, kind / 3 % FD_KINDS)}
                                   : (struct wharf_item){.kind = WHARF_MAKE_ONCE, .name = parent.port};
        }
        const uint8_t *from = fuzz_bytes(in, fuzz_u8(in), &len);
        memcpy(names, from, len);
        struct wharf_msg m = {.size = sizeof m,
                              .id = how & 2   ? ID_TALK
                                    : how & 4 ? how
                                              : ID_PLAIN,
                              .data = names,
                              .len_bytes = len,
                              .items = items,
                              .n_items = n_items};
        if (how & 8) { /* a carrier with bytes that no library packed */
                FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
                p.sock = sv[0];
                fuzz_send_datagram(in, &p);
                c.sock = sv[1];
        }
        bool packed = how & 8 || wh_carrier_pack(parent.task, &m, 0, &c) == 0;
        if (packed && !(how & 8)) {
                int kept = dup(c.sock);
                wh_carrier_done(parent.task, &m, &c, true);
                c.sock = kept;
        }
        for (unsigned i = 0; (!packed || how & 8) && i < n_items; i++)
                if (items[i].kind == WHARF_MOVE_FD)
                        close(items[i].fd);
        if (how & 1) {
                struct stat st = {0};
                if (packed)
                        fstat(c.sock, &st);
                snprintf(value, value_max, "%d:%d:%llu", how & 16 ? 0 : (int)getpid(), packed ? c.sock : 0,
                         (unsigned long long)st.st_ino);
        } else {
                from = fuzz_bytes(in, value_max - 1, &len);
                memcpy(value, from, len);
                value[len] = 0;
        }
        FUZZ_CHECK(putenv(variable) == 0);
        char **list;
        size_t n;
        int r = wharf_inherited_list(u.task, &list, &n);
        bool mine = u.task->inherited != NULL || taken;
        for (size_t i = 0; r == 0 && i < n; i++) {
                struct wharf_item got;
                FUZZ_CHECK(list[i][0] && strlen(list[i]) <= WHARF_GIVEN_NAME_MAX);
                if (wharf_inherited(u.task, list[i], &got) < 0)
                        continue; /* it was there twice */
                if (got.kind == WHARF_GOT_FD)
                        close(got.fd);
                else
                        FUZZ_CHECK(wharf_name_kind(u.task, got.name) > 0);
        }
        if (r == 0)
                free(list);
        wharf_task_close(u.task);
        wharf_task_close(parent.task);
        if (packed && !mine)
                close(c.sock);
        fuzz_peer_done(&p);
        unsetenv(VARIABLE);
}

void fuzz_seeds(void)
{
        static const char two[] = "log\0port", one[] = "talk";
        struct fuzz_out o = {.len = 0};
        fuzz_put(&o, (uint8_t[5]){1, 2, 0, 1, sizeof two}, 5);
        fuzz_put(&o, two, sizeof two);
        fuzz_seed("two", o.bytes, o.len);
        o.len = 0;
        fuzz_put(&o, (uint8_t[4]){1 | 2, 1, 1 + 3 * FD_SOCKET, sizeof one}, 4);
        fuzz_put(&o, one, sizeof one);
        fuzz_seed("talk", o.bytes, o.len);
        o.len = 0;
        fuzz_put(&o, (uint8_t[3]){0, 0, 0}, 3);
        fuzz_put(&o, "0:5:12345", 9);
        fuzz_seed("variable", o.bytes, o.len);
        o.len = 0;
        struct wh_frame f = {.type = WH_FRAME_MESSAGE, .to = WH_TO_ONCE, .arg = WH_MSG_FIRST | WH_MSG_LAST, .total = 5};
        fuzz_put(&o, (uint8_t[3]){1 | 8, 0, 0}, 3);
        fuzz_put(&o, (uint8_t[2]){0, FLAG_FRAME}, 2);
        fuzz_put16(&o, sizeof f + sizeof one);
        fuzz_put(&o, &f, sizeof f);
        fuzz_put(&o, one, sizeof one);
        fuzz_seed("raw", o.bytes, o.len);
}
