/* A plug-in with a copy of the library of its own, linked into it. See copies_test.c. */
#include <string.h>
#include <wharf/wharf.h>

__attribute__((visibility("default"))) int plugin_talk(const char *path);

/* Connects, gives the host a right to a port of its own, and waits for an answer there: 0, or where it failed. */
int plugin_talk(const char *path)
{
        wharf_task *task;
        wharf_name host, port = 0;
        char text[16];
        if (wharf_task_open(NULL, &task) < 0)
                return 1;
        int at = 0;
        if (wharf_right_connect(task, path, &host) < 0 || wharf_port_new(task, NULL, &port) < 0)
                at = 2;
        struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = {.size = sizeof m, .data = text, .len_bytes = 5, .items = &give, .n_items = 1};
        memcpy(text, "plug!", 5);
        if (!at && wharf_sendmsg(task, host, &m, WHARF_FOREVER) < 0)
                at = 3;
        if (!at && (wharf_recv(task, port, text, sizeof text, NULL, WHARF_FOREVER) != 4 || memcmp(text, "host", 4)))
                at = 4;
        if (!at && (wharf_drop(task, 12345) != -9 || wharf_drop(task, port) < 0))
                at = 5;
        wharf_task_close(task);
        return at;
}
