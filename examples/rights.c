/*
 * Rights in messages: the ability to send to a port and an open file travel in one message, all or nothing.
 */
#include "must.h"

static int child(void)
{
        wharf_task *task = open_task();
        wharf_name parent = right_to(task, "rights"), port;
        MUST(wharf_port_new(task, NULL, &port));
        int pipe_ends[2];
        MUST(pipe(pipe_ends));
        struct wharf_item give[] = {{.kind = WHARF_MAKE_SEND, .name = port},
                                    {.kind = WHARF_MOVE_FD, .fd = pipe_ends[0]}};
        struct wharf_msg m = {.size = sizeof m, .items = give, .n_items = 2};
        MUST(wharf_sendmsg(task, parent, &m, WHARF_FOREVER));
        MUST(write(pipe_ends[1], "through the pipe", 17));
        char text[32];
        MUST(wharf_recv(task, port, text, sizeof text, NULL, WHARF_FOREVER));
        printf("the child got \"%s\"\n", text);
        return wharf_task_close(task) != NULL || strcmp(text, "through the right") != 0;
}

int main(void)
{
        if (fork() == 0)
                return child();
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "rights");
        struct wharf_item got[2];
        struct wharf_msg m = {.size = sizeof m, .items = got, .cap_items = 2};
        MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
        MUST(wharf_send(task, got[0].name, "through the right", 18, WHARF_FOREVER));
        char text[32];
        MUST(read(got[1].fd, text, sizeof text));
        int status = printf("the parent got \"%s\"\n", text) < 0;
        wait(&status);
        wharf_task_close(task);
        return status || strcmp(text, "through the pipe") != 0;
}
