/*
 * Deadlock, the first of the textbook's two forms: P receives from Q before it sends to it, and Q does the same. Both
 * wait for ever; `wharf ps` says so. Ended from outside.
 */
#include "must.h"

static int partner(const char *mine, const char *other)
{
        wharf_task *task = open_task();
        wharf_name port = port_named(task, mine), to = right_to(task, other);
        char text[8];
        MUST(wharf_recv(task, port, text, sizeof text, NULL, WHARF_FOREVER)); /* each waits here */
        MUST(wharf_send(task, to, "late", 5, WHARF_FOREVER));
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
