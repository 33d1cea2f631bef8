/*
 * Direct communication, asymmetric: send(P, message) names the receiver; receive(&id, message) takes from anyone and
 * says who it was. Who that is, the directory and the kernel say, not the message.
 */
#include "must.h"

static int sender(const char *name)
{
        wharf_task *task = open_task();
        wharf_direct *self;
        char text[64];
        MUST(wharf_direct_join(task, name, &self));
        int n = snprintf(text, sizeof text, "%s here", name);
        MUST(wharf_direct_send(self, "P", text, (size_t)n + 1, WHARF_FOREVER));
        MUST(wharf_direct_recv(self, "P", text, sizeof text, WHARF_FOREVER)); /* the same link, the other way */
        wharf_direct_leave(self);
        wharf_task_close(task);
        return strcmp(text, "welcome") != 0;
}

int main(void)
{
        int status, failed = 0;
        for (int i = 0; i < 3; i++)
                if (fork() == 0)
                        return sender((const char *[]){"Q", "R", "S"}[i]);
        wharf_task *task = open_task();
        wharf_direct *self;
        MUST(wharf_direct_join(task, "P", &self));
        for (int i = 0; i < 3; i++) {
                char text[64], id[WHARF_DIRECT_NAME_MAX + 1];
                MUST(wharf_direct_recv_any(self, text, sizeof text, id, WHARF_FOREVER));
                printf("from %s: \"%s\"\n", id, text);
                MUST(wharf_direct_send(self, id, "welcome", 8, WHARF_FOREVER));
        }
        while (wait(&status) > 0)
                failed |= status;
        wharf_direct_leave(self);
        wharf_task_close(task);
        return failed;
}
