/*
 * Direct communication, symmetric: send(P, message), receive(Q, message): both name the other. Messages of anyone else
 * wait until somebody asks for them.
 */
#include "must.h"

static wharf_direct *join(wharf_task *task, const char *name)
{
        wharf_direct *self;
        MUST(wharf_direct_join(task, name, &self));
        return self;
}

static int sender(const char *name)
{
        wharf_task *task = open_task();
        wharf_direct *self = join(task, name);
        for (int i = 0; i < 3; i++)
                MUST(wharf_direct_send(self, "P", name, 2, WHARF_FOREVER));
        wharf_direct_leave(self);
        wharf_task_close(task);
        return 0;
}

int main(void)
{
        char text[8], order[8] = "";
        if (fork() == 0)
                return sender("Q");
        if (fork() == 0)
                return sender("R");
        wharf_task *task = open_task();
        wharf_direct *self = join(task, "P");
        for (int i = 0; i < 6; i++) {
                MUST(wharf_direct_recv(self, i < 3 ? "R" : "Q", text, sizeof text, WHARF_FOREVER));
                strcat(order, text);
        }
        long r = wharf_direct_recv(self, "R", text, sizeof text, WHARF_FOREVER);
        printf("received %s; and from R after that: %s\n", order, wharf_strerror((int)r));
        wharf_direct_leave(self);
        wharf_task_close(task);
        return strcmp(order, "RRRQQQ") != 0;
}
