/*
 * setup_wharf - the setup costs of wharf: one task that holds both the port and rights to it.
 */
#include "setup.h"

#include <errno.h>
#include <wharf/wharf.h>

#include "harness.h"

static wharf_task *task;
static wharf_name port, warm, made, carried, fresh;

static void check(int r, const char *call)
{
        if (r >= 0)
                return;
        errno = -r;
        bench_die("%s %s", call, wharf_why());
}

/* Let the port notice, off the clock, that a sender is gone: only the warm one is left. */
static void port_settle(void)
{
        struct wharf_port_stat stat = {.size = sizeof(stat)};
        char bytes[SETUP_BYTES];
        do {
                ssize_t r = wharf_recv(task, port, bytes, sizeof(bytes), NULL, 0);
                if (r != -EAGAIN)
                        bench_die("a message nobody sent");
                check(wharf_port_stat(task, port, &stat), "wharf_port_stat");
        } while (stat.senders > 1);
}

static void pass(wharf_name right)
{
        char bytes[SETUP_BYTES] = {0};
        check(wharf_send(task, right, bytes, sizeof(bytes), WHARF_FOREVER), "wharf_send");
        check((int)wharf_recv(task, port, bytes, sizeof(bytes), NULL, WHARF_FOREVER), "wharf_recv");
}

static void warm_begin(void)
{
        struct wharf_port_opts opts = {.size = sizeof(opts), .flags = WHARF_PORT_STAYS};
        check(wharf_task_open(NULL, &task), "wharf_task_open");
        check(wharf_port_new(task, &opts, &port), "wharf_port_new");
        check(wharf_right_new(task, port, &warm), "wharf_right_new");
        for (int i = 0; i < 100; i++)
                pass(warm);
}

static void port_make(void)
{
        check(wharf_port_new(task, NULL, &made), "wharf_port_new");
}

static void port_unmake(void)
{
        check(wharf_drop(task, made), "wharf_drop");
}

static void right_carry(void)
{
        char bytes[SETUP_BYTES] = {0};
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg sent = {
                .size = sizeof(sent), .data = bytes, .len_bytes = sizeof(bytes), .items = &item, .n_items = 1};
        struct wharf_msg got = {
                .size = sizeof(got), .data = bytes, .cap_bytes = sizeof(bytes), .items = &item, .cap_items = 1};
        check(wharf_sendmsg(task, warm, &sent, WHARF_FOREVER), "wharf_sendmsg");
        check(wharf_recvmsg(task, port, &got, WHARF_FOREVER), "wharf_recvmsg");
        carried = item.name;
}

static void right_uncarry(void)
{
        check(wharf_drop(task, carried), "wharf_drop");
        port_settle();
}

static void right_fresh(void)
{
        check(wharf_right_new(task, port, &fresh), "wharf_right_new");
}

static void message_pass(void)
{
        pass(fresh);
}

static void right_unfresh(void)
{
        check(wharf_drop(task, fresh), "wharf_drop");
        port_settle();
}

static const struct setup_peer peer = {
        .name = "wharf",
        .begin = warm_begin,
        .make = port_make,
        .unmake = port_unmake,
        .carry = right_carry,
        .uncarry = right_uncarry,
        .fresh = right_fresh,
        .message = message_pass,
        .unfresh = right_unfresh,
};

int main(int argc, char **argv)
{
        return setup_main(argc, argv, &peer);
}
