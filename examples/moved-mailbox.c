/*
 * A mailbox is handed to another process while a third one keeps sending to it. The sender need not know; nothing is
 * lost, and the order stays.
 */
#include "must.h"

enum { LAST = 1000 };

static void receive(wharf_task *task, wharf_name mailbox, const char *who, int from, int to)
{
        for (int i = from, got = 0; i <= to; i++)
                if (MUST(wharf_recv(task, mailbox, &got, sizeof got, NULL, WHARF_FOREVER)) && got != i)
                        exit(1);
        printf("%s received %d to %d\n", who, from, to);
}

static void sender(wharf_task *task)
{
        wharf_name to = right_to(task, "moved-mailbox");
        for (int i = 1; i <= LAST; i++)
                MUST(wharf_send(task, to, &i, sizeof i, WHARF_FOREVER));
}

static void heir(wharf_task *task)
{
        struct wharf_item it;
        struct wharf_msg m = {.size = sizeof m, .items = &it, .cap_items = 1};
        MUST(wharf_recvmsg(task, port_named(task, "heir"), &m, WHARF_FOREVER)); /* it.kind: WHARF_GOT_RECEIVE */
        receive(task, it.name, "the heir", LAST / 2 + 1, LAST);
}

int main(void)
{
        for (int i = 0; i < 2; i++)
                if (fork() == 0) {
                        wharf_task *task = open_task();
                        i ? sender(task) : heir(task);
                        return wharf_task_close(task) != NULL;
                }
        wharf_task *task = open_task();
        wharf_name mailbox = port_named(task, "moved-mailbox");
        receive(task, mailbox, "the owner", 1, LAST / 2);
        fflush(stdout);
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = mailbox};
        struct wharf_msg m = {.size = sizeof m, .items = &it, .n_items = 1};
        MUST(wharf_sendmsg(task, right_to(task, "heir"), &m, WHARF_FOREVER));
        int a = 0, b = 0;
        wait(&a);
        wait(&b);
        wharf_task_close(task);
        return a || b;
}
