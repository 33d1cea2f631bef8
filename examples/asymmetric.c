/*
 * Direct communication, asymmetric: send(P, message) names the receiver; receive(&id, message) takes from anyone and
 * says who it was. Who that is, the kernel says, not the message.
 */
#include "must.h"

static int sender(int i)
{
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "asymmetric");
        char text[64];
        int n = snprintf(text, sizeof text, "%d: hello number %d", (int)getpid(), i);
        MUST(wharf_send(task, to, text, (size_t)n + 1, WHARF_FOREVER));
        wharf_task_close(task);
        return 0;
}

int main(void)
{
        int status, failed = 0;
        for (int i = 0; i < 3; i++)
                if (fork() == 0)
                        return sender(i);
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "asymmetric");
        for (int i = 0; i < 3; i++) {
                char text[64];
                struct wharf_sender id;
                MUST(wharf_recv(task, port, text, sizeof text, &id, WHARF_FOREVER));
                printf("from process %d, user %d: \"%s\"\n", (int)id.pid, (int)id.uid, strchr(text, ' ') + 1);
                failed |= atoi(text) != id.pid; /* what it says of itself is what the kernel says of it */
        }
        wharf_task_close(task);
        while (wait(&status) > 0)
                failed |= status;
        return failed;
}
