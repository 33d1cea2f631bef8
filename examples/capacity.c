/*
 * How many messages wait unread: as many as the port says, whatever their size; of larger ones also so many bytes.
 */
#include "must.h"

static char bytes[1 << 20];

/* Send until the queue is full, and say how many that were and why it is. */
static void fill(wharf_task *task, uint32_t capacity_records, size_t len)
{
        struct wharf_port_opts opts = {.size = sizeof opts, .capacity_records = capacity_records};
        struct wharf_right_stat stat = {.size = sizeof stat};
        wharf_name port, right;
        unsigned n = 0, again = 0;
        MUST(wharf_port_new(task, &opts, &port));
        MUST(wharf_right_new(task, port, &right));
        while (wharf_send(task, right, bytes, len, 0) == 0)
                n++;
        printf("%5u of %7zu bytes: %s\n", n, len, wharf_why());
        MUST(wharf_right_stat(task, right, &stat));
        for (int i = 0; i < 3; i++)
                MUST(wharf_recv(task, port, bytes, sizeof bytes, NULL, 0));
        while (wharf_send(task, right, bytes, len, 0) == 0)
                again++;
        if (again != 3 || stat.full != (n == capacity_records ? WHARF_FULL_RECORDS : WHARF_FULL_BYTES))
                exit(2);
        MUST(wharf_drop(task, right));
        MUST(wharf_drop(task, port));
}

int main(void)
{
        wharf_task *task = open_task();
        fill(task, 1024, 200);
        fill(task, 1024, 1000);
        fill(task, 65536, 1000);
        fill(task, 1024, 100000);
        return wharf_task_close(task) != NULL;
}
