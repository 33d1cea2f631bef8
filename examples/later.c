/*
 * A queue is full, and the sender must go: it leaves one message to be sent later, and dies. The message arrives.
 */
#include "must.h"
#include <signal.h>

static int sender(void)
{
        wharf_task *task = open_task();
        wharf_name right = right_to(task, "busy");
        char text[] = "goodbye";
        struct wharf_msg m = {.size = sizeof m, .data = text, .len_bytes = 7, .flags = WHARF_SEND_LATER};
        int queued = 0, r;
        while ((r = wharf_sendmsg(task, right, &m, 0)) == 0)
                queued++; /* 1 when the queue was full and the message was left behind it */
        printf("%d queued; then: %s\n", queued, r == 1 ? "left to be sent later" : wharf_strerror(r));
        fflush(stdout);
        return kill(getpid(), SIGKILL);
}

int main(void)
{
        wharf_task *task = open_task();
        struct wharf_port_opts opts = {.size = sizeof opts, .capacity_records = 3};
        wharf_name port;
        char buf[16];
        int status, n = 0;
        if (fork() == 0)
                return sender();
        MUST(wharf_port_new(task, &opts, &port));
        MUST(wharf_register(task, "busy", port));
        wait(&status); /* the sender is dead before anything is read */
        while (wharf_recv(task, port, buf, sizeof buf, NULL, 0) == 7)
                n++;
        printf("received of the dead: %d\n", n);
        return wharf_task_close(task) || n != 4;
}
