/*
 * Deadlock, the second of the textbook's two forms: P and Q each send to the other before they receive, and there is no
 * queue: both wait for ever; `wharf ps` says so. Ended from outside.
 */
#include "must.h"

static int partner(const char *mine, const char *other)
{
        wharf_task *task = open_task();
        struct wharf_port_opts opts = {.size = sizeof opts, .capacity_records = WHARF_RENDEZVOUS};
        wharf_name port;
        MUST(wharf_port_new(task, &opts, &port));
        MUST(wharf_register(task, mine, port));
        wharf_name to = right_to(task, other);
        char text[8];
        MUST(wharf_send(task, to, "x", 1, WHARF_FOREVER)); /* each waits here, until the other receives */
        MUST(wharf_recv(task, port, text, sizeof text, NULL, WHARF_FOREVER));
        return wharf_task_close(task) != NULL;
}

int main(void)
{
        int status, failed = 0;
        for (int i = 0; i < 2; i++)
                if (fork() == 0)
                        return i ? partner("Q", "P") : partner("P", "Q");
        while (wait(&status) > 0)
                failed |= status;
        return failed;
}
