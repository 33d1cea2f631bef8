/*
 * No one will ever come: a wait ends, with an error of its own, when the other side was killed. No time-out is
 * involved.
 */
#include "must.h"
#include <errno.h>
#include <signal.h>

static int child(void)
{
        wharf_task *task = open_task();
        wharf_name port;
        MUST(wharf_port_new(task, NULL, &port));
        struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = {.size = sizeof m, .items = &give, .n_items = 1};
        MUST(wharf_sendmsg(task, right_to(task, "noone"), &m, WHARF_FOREVER));
        return pause();
}

int main(void)
{
        pid_t pid = fork();
        if (pid == 0)
                return child();
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "noone"), mine;
        struct wharf_item got;
        struct wharf_msg m = {.size = sizeof m, .items = &got, .cap_items = 1};
        MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
        MUST(wharf_port_new(task, NULL, &mine)); /* to which nobody holds a right */
        MUST(kill(pid, SIGKILL));
        int from = wharf_recvmsg(task, mine, &m, WHARF_FOREVER), to;
        printf("receiving where nobody can send: %s\n", wharf_strerror(from));
        while ((to = wharf_send(task, got.name, "x", 1, WHARF_FOREVER)) == 0)
                ; /* what is sent before the kernel has ended it goes down with it */
        printf("sending to the dead: %s\n", wharf_strerror(to));
        return waitpid(pid, NULL, 0) != pid || wharf_task_close(task) || from != -ENOTCONN || to != -EPIPE;
}
