/*
 * A message goes on: the front desk looks at no request, and hands each to whoever knows; the answer goes straight to the caller.
 */
#include "must.h"

#include <ctype.h>

static int worker(const char *name, int (*change)(int))
{
        wharf_task *task = open_task();
        wharf_name port = port_named(task, name);
        char text[32];
        struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
        MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
        for (size_t i = 0; i < m.len_bytes; i++)
                text[i] = (char)change(text[i]);
        MUST(wharf_reply(task, m.reply, text, m.len_bytes));
        _exit(0);
}

static int desk(void)
{
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "desk"), to[] = {right_to(task, "upper"), right_to(task, "lower")};
        for (int i = 0; i < 2; i++) {
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
                MUST(wharf_forward(task, to[m.id], &m, WHARF_FOREVER));
        }
        _exit(0);
}

int main(void)
{
        if (fork() == 0)
                return worker("upper", toupper);
        if (fork() == 0)
                return worker("lower", tolower);
        if (fork() == 0)
                return desk();
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "desk");
        for (uint32_t i = 0; i < 2; i++) {
                char text[32];
                struct wharf_msg q = {.size = sizeof q, .payload = "Hello", .len_bytes = 5, .id = i};
                struct wharf_msg a = {.size = sizeof a, .data = text, .cap_bytes = sizeof text};
                MUST(wharf_callmsg(task, to, &q, &a, WHARF_FOREVER));
                printf("%.*s\n", (int)a.len_bytes, text);
        }
}
