/*
 * The order of messages: each sender's own, and none between two. Two processes count to five, and a third listens.
 */
#include "must.h"

static int sender(const char *name)
{
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "order");
        for (int n = 1; n <= 5; n++) {
                char text[] = {name[0], (char)('0' + n)};
                MUST(wharf_send(task, to, text, 2, WHARF_FOREVER));
        }
        return wharf_task_close(task) != NULL;
}

int main(void)
{
        char text[2], of[2][8] = {"", ""};
        if (fork() == 0)
                return sender("A");
        if (fork() == 0)
                return sender("B");
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "order");
        for (int i = 0; i < 10; i++) {
                MUST(wharf_recv(task, port, text, 2, NULL, WHARF_FOREVER));
                fprintf(stderr, "%.2s ", text); /* A and B in any mixture */
                strncat(of[text[0] == 'B'], text + 1, 1);
        }
        fprintf(stderr, "\n");
        printf("of A: %s\nof B: %s\n", of[0], of[1]);
        wait(NULL);
        wait(NULL);
        return wharf_task_close(task) || strcmp(of[0], "12345") != 0 || strcmp(of[1], "12345") != 0;
}
