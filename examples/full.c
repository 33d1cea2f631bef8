/*
 * A full queue: fail at once, wait for a while, or wait until there is room. The caller picks, call by call.
 */
#include "must.h"
#include <errno.h>

static int receiver(int go)
{
        wharf_task *task = open_task();
        struct wharf_port_opts opts = {.size = sizeof opts, .capacity_records = 4};
        wharf_name port;
        char c;
        int n = 0;
        MUST(wharf_port_new(task, &opts, &port));
        MUST(wharf_register(task, "full", port));
        MUST(wharf_recv(task, port, &c, 1, NULL, WHARF_FOREVER));
        for (MUST(read(go, &c, 1)); c != 'z'; n++) /* busy with something else until there is a byte */
                MUST(wharf_recv(task, port, &c, 1, NULL, WHARF_FOREVER));
        return wharf_task_close(task) ? -1 : n;
}

int main(void)
{
        int go[2], status, late, n = 0;
        MUST(pipe(go));
        if (fork() == 0)
                return receiver(go[0]);
        wharf_task *task = open_task();
        wharf_name right = right_to(task, "full");
        MUST(wharf_send(task, right, "a", 1, WHARF_FOREVER));
        while ((late = wharf_send(task, right, "b", 1, wharf_in_ms(10))) == 0) /* -ETIMEDOUT when it stays full */
                n++;
        int now = wharf_send(task, right, "c", 1, 0); /* -EAGAIN: at once */
        MUST(write(go[1], "g", 1));
        MUST(wharf_send(task, right, "z", 1, WHARF_FOREVER)); /* sleeps until there is room */
        wait(&status);
        printf("after some more, and 10 ms: %s\n", wharf_strerror(late));
        return wharf_task_close(task) || late != -ETIMEDOUT || now != -EAGAIN || n < 1 || n > 4 ||
               WEXITSTATUS(status) != n + 1;
}
