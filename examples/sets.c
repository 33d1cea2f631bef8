/*
 * A set of ports: one thread serves two kinds of request, each at a port of its own.
 */
#include "must.h"

static int child(void)
{
        wharf_task *task = open_task();
        struct wharf_item got[2]; /* the parent answers our "hello" with a right to each of its ports */
        struct wharf_msg hello = {.size = sizeof hello}, m = {.size = sizeof m, .items = got, .cap_items = 2};
        MUST(wharf_callmsg(task, right_to(task, "sets"), &hello, &m, WHARF_FOREVER));
        for (int n = 0; n < 6; n++)
                MUST(wharf_send(task, got[n % 2].name, &n, sizeof n, WHARF_FOREVER));
        return wharf_task_close(task) != NULL;
}

int main(void)
{
        int bad = 0, status;
        if (fork() == 0)
                return child();
        wharf_task *task = open_task();
        wharf_name set, even, odd;
        MUST(wharf_set_new(task, &set));
        MUST(wharf_port_new(task, NULL, &even));
        MUST(wharf_port_new(task, NULL, &odd));
        MUST(wharf_set_add(task, set, even));
        MUST(wharf_set_add(task, set, odd));
        struct wharf_item both[] = {{.kind = WHARF_MAKE_SEND, .name = even}, {.kind = WHARF_MAKE_SEND, .name = odd}};
        struct wharf_msg hello = {.size = sizeof hello}, answer = {.size = sizeof answer, .items = both, .n_items = 2};
        MUST(wharf_recvmsg(task, port_named(task, "sets"), &hello, WHARF_FOREVER));
        MUST(wharf_replymsg(task, hello.reply, &answer));
        int n, sum[2] = {0};
        struct wharf_msg m = {.size = sizeof m, .data = &n, .cap_bytes = sizeof n};
        for (; wharf_recvmsg(task, set, &m, WHARF_FOREVER) == 0; sum[m.port == odd] += n) /* until nobody can send */
                bad |= m.port != (n % 2 ? odd : even);
        printf("the even ones make %d, the odd ones %d\n", sum[0], sum[1]);
        wait(&status);
        return wharf_task_close(task) || bad || status || sum[0] != 6 || sum[1] != 9;
}
