/*
 * Send / receive / reply: the client stays blocked until the answer, with one buffer to send from and one to receive
 * into. If the server dies first, the call ends at once and says so.
 */
#include "must.h"

#include <errno.h>

static int server(void)
{
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "shout");
        char text[64];
        for (;;) {
                struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
                MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
                if (!strcmp(text, "die"))
                        abort();
                for (char *c = text; *c; c++)
                        *c = *c >= 'a' && *c <= 'z' ? (char)(*c - 32) : *c;
                MUST(wharf_reply(task, m.reply, text, m.len_bytes));
        }
}

int main(void)
{
        if (fork() == 0)
                return server();
        wharf_task *task = open_task();
        wharf_name shout = right_to(task, "shout");
        char answer[64];
        MUST(wharf_call(task, shout, "hello", 6, answer, sizeof answer, WHARF_FOREVER));
        long r = wharf_call(task, shout, "die", 4, answer + 6, 58, WHARF_FOREVER);
        printf("hello: %s\ndie: %s\n", answer, wharf_strerror((int)r));
        wharf_task_close(task);
        return strcmp(answer, "HELLO") != 0 || r != -ECONNRESET;
}
