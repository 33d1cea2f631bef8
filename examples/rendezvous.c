/*
 * Capacity zero: sender and receiver meet. Whoever comes first waits for the other; whoever may not wait goes away with
 * nothing, and nothing was sent.
 */
#include "must.h"
#include <errno.h>

static int receiver(int come)
{
        wharf_task *task = open_task();
        struct wharf_port_opts opts = {.size = sizeof opts, .capacity_records = WHARF_RENDEZVOUS};
        wharf_name port;
        char buf[16];
        MUST(wharf_port_new(task, &opts, &port));
        MUST(wharf_register(task, "meeting", port));
        MUST(read(come, buf, 1)); /* late, as receivers are */
        ssize_t n = MUST(wharf_recv(task, port, buf, sizeof buf, NULL, WHARF_FOREVER));
        printf("received: %.*s\n", (int)n, buf);
        fflush(stdout);
        return wharf_task_close(task) ? -1 : 0;
}

int main(void)
{
        int come[2], status;
        MUST(pipe(come));
        if (fork() == 0)
                return receiver(come[0]);
        wharf_task *task = open_task();
        wharf_name right = right_to(task, "meeting");
        int none = wharf_send(task, right, "nobody here", 11, wharf_in_ms(10)); /* withdrawn: nobody ever gets it */
        MUST(write(come[1], "g", 1));
        MUST(wharf_send(task, right, "there you are", 13, WHARF_FOREVER)); /* 0: it was taken, not merely queued */
        wait(&status);
        printf("and before that: %s\n", wharf_strerror(none));
        return wharf_task_close(task) || none != -ETIMEDOUT || status;
}
