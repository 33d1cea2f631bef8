/*
 * Copy-on-write: memory sent beside a message is shared, not copied. Whoever writes to a page gets a copy of that page;
 * the other goes on seeing what was sent.
 */
#include "must.h"

enum { PAGE = 4096, PAGES = 256 };

static int sender(void)
{
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "copy-on-write"), memory;
        char *at, c = 0;
        MUST(wharf_memory_new(task, PAGES * PAGE, &memory));
        MUST(wharf_memory_at(task, memory, (void **)&at, NULL));
        memset(at, 'a', PAGES * PAGE);
        struct wharf_item item = {.kind = WHARF_COPY_MEMORY, .name = memory};
        struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1}, reply = {.size = sizeof reply};
        MUST(wharf_callmsg(task, to, &m, &reply, WHARF_FOREVER)); /* the receiver has written by now */
        for (int i = 0; i < PAGES * PAGE; i++)
                c |= (char)(at[i] ^ 'a');
        return c; /* 0: not a byte has changed here */
}

int main(void)
{
        wharf_task *task = open_task();
        wharf_name port = port_named(task, "copy-on-write");
        if (fork() == 0)
                return sender();
        struct wharf_item got;
        struct wharf_msg m = {.size = sizeof m, .items = &got, .cap_items = 1};
        struct wharf_memory_stat st = {.size = sizeof st};
        MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
        char *at;
        int status = 0;
        MUST(wharf_memory_at(task, got.name, (void **)&at, NULL));
        MUST(wharf_memory_stat(task, got.name, &st));
        printf("received %d pages, copied %d\n", PAGES, (int)(st.written_bytes / PAGE));
        at[0] = at[100 * PAGE] = at[255 * PAGE] = 'b';
        MUST(wharf_memory_stat(task, got.name, &st));
        printf("wrote to 3 pages, copied %d\n", (int)(st.written_bytes / PAGE));
        MUST(wharf_reply(task, m.reply, NULL, 0));
        wait(&status);
        printf("the sender still sees what it sent: %s\n", status ? "no" : "yes");
        return status;
}
