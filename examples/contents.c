/*
 * What is in a message: bytes, text or binary, of fixed or variable size; a number that says of what kind it is;
 * rights; descriptors. And the order in which messages come: each sender's own, and none between two.
 */
#include "must.h"

struct point { /* fixed size, binary */
        int32_t x, y;
};

int main(void)
{
        wharf_task *task = open_task();
        wharf_name port, a, b;
        MUST(wharf_port_new(task, NULL, &port));
        MUST(wharf_right_new(task, port, &a));
        MUST(wharf_right_new(task, port, &b));

        char text[] = "text of any length";
        struct wharf_item carried[] = {{.kind = WHARF_MAKE_SEND, .name = port}, {.kind = WHARF_COPY_FD, .fd = 1}};
        struct wharf_msg m = {
                .size = sizeof m, .id = 1, .data = &(struct point){3, 4}, .len_bytes = sizeof(struct point)};
        MUST(wharf_sendmsg(task, a, &m, 0));
        m = (struct wharf_msg){.size = sizeof m, .id = 2, .data = text, .len_bytes = strlen(text)};
        MUST(wharf_sendmsg(task, a, &m, 0));
        m = (struct wharf_msg){.size = sizeof m, .id = 3, .items = carried, .n_items = 2};
        MUST(wharf_sendmsg(task, a, &m, 0));
        MUST(wharf_sendmsg(task, b, &(struct wharf_msg){.size = sizeof m, .id = 9}, 0));

        char buf[64];
        uint32_t last = 0;
        for (int i = 0; i < 4; i++) {
                struct wharf_item got[2];
                m = (struct wharf_msg){
                        .size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .items = got, .cap_items = 2};
                MUST(wharf_recvmsg(task, port, &m, 0));
                if (m.id == 9)
                        continue; /* of the other sender: anywhere between */
                printf("kind %u: %zu bytes, %u items%s\n", m.id, m.len_bytes, m.n_items,
                       m.id > last ? "" : ", disorder");
                last = m.id;
                for (unsigned k = 0; k < m.n_items; k++)
                        got[k].kind == WHARF_GOT_FD ? close(got[k].fd) : MUST(wharf_drop(task, got[k].name));
        }
        wharf_task_close(task);
        return last != 3;
}
