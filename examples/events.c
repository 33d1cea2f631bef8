/*
 * Replies as events: two servers are asked at once, and what becomes of both calls comes to one port. One of the servers dies.
 */
#include "must.h"

#include <ctype.h>

static int serve(const char *name, int dies)
{
        wharf_task *task = open_task();
        wharf_name port = port_named(task, name);
        char text[16];
        struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
        MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
        for (size_t i = 0; i < m.len_bytes; i++)
                text[i] = (char)toupper(text[i]);
        usleep(dies ? 200000 : 0);
        if (!dies)
                MUST(wharf_reply(task, m.reply, text, m.len_bytes));
        _exit(0);
}

int main(void)
{
        const char *const name[] = {"upper", "dies"};
        for (int i = 0; i < 2; i++)
                if (fork() == 0)
                        return serve(name[i], i);
        wharf_task *task = open_task();
        wharf_name mine, right[2];
        uint32_t call[2];
        MUST(wharf_port_new(task, NULL, &mine));
        for (int i = 0; i < 2; i++) {
                struct wharf_msg q = {.size = sizeof q, .payload = "hello", .len_bytes = 5};
                right[i] = right_to(task, name[i]);
                MUST(wharf_call_start(task, right[i], &q, mine, WHARF_FOREVER, &call[i]));
        }
        for (int n = 0; n < 2; n++) { /* requests of others would come here as well */
                struct wharf_msg m = {.size = sizeof m};
                MUST(wharf_recvmsg(task, mine, &m, WHARF_FOREVER));
                int which = m.about == right[1];
                char text[16];
                struct wharf_msg a = {.size = sizeof a, .data = text, .cap_bytes = sizeof text};
                int r = wharf_call_finish(task, m.about, m.call, &a, 0);
                printf("%s: %.*s\n", name[which], r < 0 ? 99 : (int)a.len_bytes, r < 0 ? wharf_strerror(r) : text);
        }
}
