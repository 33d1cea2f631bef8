/*
 * What is in a message: bytes, text or binary, of fixed or variable size; a number that says of what kind it is;
 * rights; descriptors.
 */
#include "must.h"

struct point { /* fixed size, binary */
        int32_t x, y;
};

static int sender(void)
{
        wharf_task *task = open_task();
        wharf_name mine, to = right_to(task, "contents");
        MUST(wharf_port_new(task, NULL, &mine));
        char text[] = "text of any length";
        struct wharf_item carried[] = {{.kind = WHARF_MAKE_SEND, .name = mine}, {.kind = WHARF_COPY_FD, .fd = 1}};
        struct wharf_msg m = {.size = sizeof m, .id = 1};
        m.data = &(struct point){3, 4}, m.len_bytes = sizeof(struct point);
        MUST(wharf_sendmsg(task, to, &m, WHARF_FOREVER));
        m = (struct wharf_msg){.size = sizeof m, .id = 2, .data = text, .len_bytes = strlen(text)};
        MUST(wharf_sendmsg(task, to, &m, WHARF_FOREVER));
        m = (struct wharf_msg){.size = sizeof m, .id = 3, .items = carried, .n_items = 2};
        MUST(wharf_sendmsg(task, to, &m, WHARF_FOREVER));
        return wharf_task_close(task) != NULL;
}

int main(void)
{
        char buf[64];
        struct wharf_item got[2];
        if (fork() == 0)
                return sender();
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "contents");
        for (int i = 0; i < 3; i++) {
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                m.items = got, m.cap_items = 2;
                MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
                printf("kind %u: %zu bytes, %u items\n", m.id, m.len_bytes, m.n_items);
                for (unsigned k = 0; k < m.n_items; k++)
                        got[k].kind == WHARF_GOT_FD ? close(got[k].fd) : MUST(wharf_drop(task, got[k].name));
        }
        wait(NULL);
        return wharf_task_close(task) != NULL;
}
