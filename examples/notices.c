/*
 * Notices: the child has a send right and two send-once rights, uses one of these, and dies. Its parent is told that no
 * send right is left, and that a send-once right will never be used.
 */
#include "must.h"

static int child(void)
{
        wharf_task *task = open_task();
        struct wharf_item got[3];
        struct wharf_msg ask = {.size = sizeof ask}, rights = {.size = sizeof rights, .items = got, .cap_items = 3};
        MUST(wharf_callmsg(task, right_to(task, "notices"), &ask, &rights, WHARF_FOREVER));
        MUST(wharf_send(task, got[0].name, "the send right", 15, WHARF_FOREVER));
        MUST(wharf_send(task, got[1].name, "a send-once right", 18, WHARF_FOREVER));
        _exit(0);
}

int main(void)
{
        if (fork() == 0)
                return child();
        wharf_task *task = open_task();
        wharf_name door = port_named(task, "notices"), work;
        MUST(wharf_port_new(task, NULL, &work));
        struct wharf_item give[] = {{.kind = WHARF_MAKE_SEND, .name = work},
                                    {.kind = WHARF_MAKE_ONCE, .name = work},
                                    {.kind = WHARF_MAKE_ONCE, .name = work}};
        char text[32];
        struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text}, a = m;
        a.items = give, a.n_items = 3, a.len_bytes = 0;
        MUST(wharf_recvmsg(task, door, &m, WHARF_FOREVER));
        MUST(wharf_replymsg(task, m.reply, &a));
        MUST(wharf_notify(task, WHARF_NOTICE_NO_SENDERS, work, work, 1)); /* not before one right was made */
        int seen[4] = {0}, status;
        while (wharf_recvmsg(task, work, &m, WHARF_FOREVER) == 0) /* until nothing can come */
                seen[m.notice] += m.notice == WHARF_NOTICE_NO_SENDERS ? (int)m.count : 1;
        printf("%d messages; %d send-once right unused; no sender left of %d\n", seen[0], seen[3], seen[2]);
        wait(&status);
        wharf_task_close(task);
        return status != 0 || seen[0] != 2 || seen[2] != 1 || seen[3] != 1;
}
