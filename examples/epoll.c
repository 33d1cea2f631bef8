/*
 * A port in somebody else's event loop: a descriptor, readable while a receive would not have to wait.
 */
#include "must.h"

#include <sys/epoll.h>

static int sender(int pipe_end)
{
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "epoll");
        for (int i = 0; i < 1000; i++)
                MUST(i % 2 ? write(pipe_end, "p", 1) : wharf_send(task, to, "m", 1, WHARF_FOREVER));
        return wharf_task_close(task) != NULL;
}

int main(void)
{
        int ends[2], fd, messages = 0, bytes = 0, loop = (int)MUST(epoll_create1(0));
        MUST(pipe(ends));
        if (fork() == 0)
                return sender(ends[1]);
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "epoll");
        MUST(wharf_port_fd(task, port, &fd));
        for (int *f = (int[]){fd, ends[0], -1}; *f >= 0; f++)
                MUST(epoll_ctl(loop, EPOLL_CTL_ADD, *f, &(struct epoll_event){.events = EPOLLIN, .data.fd = *f}));
        while (messages < 500 || bytes < 500) {
                struct epoll_event ev;
                char c[64];
                MUST(epoll_wait(loop, &ev, 1, -1));
                if (ev.data.fd == ends[0])
                        bytes += (int)MUST(read(ends[0], c, sizeof c));
                else
                        while (wharf_recv(task, port, c, sizeof c, NULL, 0) >= 0)
                                messages++;
        }
        printf("%d messages and %d bytes of the pipe\n", messages, bytes);
        return wharf_task_close(task) != NULL;
}
