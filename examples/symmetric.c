/*
 * Direct communication, symmetric: send(P, message), receive(Q, message): both name the other. Messages of anyone else
 * wait until somebody asks for them.
 */
#include "must.h"

static int sender(const char *text)
{
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "symmetric");
        for (int i = 0; i < 3; i++)
                MUST(wharf_send(task, to, text, 2, WHARF_FOREVER));
        wharf_task_close(task);
        return 0;
}

int main(void)
{
        char text[8], order[8] = "";
        if (fork() == 0)
                return sender("P");
        if (fork() == 0)
                return sender("Q");
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "symmetric");
        struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
        for (int i = 0; i < 6; i++) {
                if (i == 3)
                        m.from = 0; /* the first has said all it had to say: now the other */
                MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
                m.from = m.sender.id; /* from here on from this one only, whoever else has sent meanwhile */
                strcat(order, text);
        }
        printf("received %s\n", order);
        wharf_task_close(task);
        return strcmp(order, "PPPQQQ") && strcmp(order, "QQQPPP");
}
