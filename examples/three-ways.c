/*
 * Three ways by size, as in Windows' ALPC: small messages are copied, larger ones lie in a section of shared memory
 * that both map, and for the largest the receiver reads the sender's own address space; or writes there, in reply.
 */
#include "must.h"

static const struct {
        size_t bytes;
        uint32_t how;
} sends[] = {{200, WHARF_HOW_AUTO}, {256 << 10, WHARF_HOW_AUTO}, {32 << 20, WHARF_HOW_DIRECT}};
enum { SENDS = sizeof sends / sizeof *sends };

static int sender(void)
{
        wharf_task *task = open_task();
        wharf_name to = right_to(task, "three-ways");
        for (int i = 0; i < 20; i++) /* until the link has its shared memory; a one-shot sender needs none */
                MUST(wharf_send(task, to, "warm", 4, WHARF_FOREVER));
        for (int i = 0; i < SENDS; i++) {
                struct wharf_msg m = {.size = sizeof m, .len_bytes = sends[i].bytes, .how = sends[i].how};
                m.data = calloc(1, m.len_bytes);
                MUST(wharf_sendmsg(task, to, &m, WHARF_FOREVER));
                if (sends[i].how && m.how != sends[i].how)
                        fprintf(stderr, "%s\n", wharf_why());
                free(m.data);
        }
        struct wharf_msg ask = {.size = sizeof ask, .flags = WHARF_REPLY_DIRECT, .cap_bytes = 32 << 20};
        struct wharf_msg answer = {.size = sizeof answer, .flags = WHARF_RECV_ALLOC};
        MUST(wharf_callmsg(task, to, &ask, &answer, WHARF_FOREVER));
        if (answer.how != WHARF_HOW_DIRECT)
                fprintf(stderr, "%s\n", wharf_why());
        wharf_release(task, &answer);
        wharf_task_close(task);
        return 0;
}

int main(void)
{
        static const char *const ways[] = {
                [WHARF_HOW_COLD] = "a frame",          [WHARF_HOW_INLINE] = "copied into the ring",
                [WHARF_HOW_SECTION] = "a section",     [WHARF_HOW_CHUNKS] = "a section, in pieces",
                [WHARF_HOW_MEMORY] = "its own memory", [WHARF_HOW_DIRECT] = "read from the sender's address space"};
        wharf_task *task = open_task();
        wharf_name port;
        struct wharf_port_opts o = {.size = sizeof o,
                                    .flags = WHARF_PORT_DIRECT}; /* its senders are trusted to be read from */
        MUST(wharf_port_new(task, &o, &port));
        MUST(wharf_register(task, "three-ways", port));
        if (fork() == 0)
                return sender();
        for (int i = 0; i < 20 + SENDS; i++) {
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_IN_PLACE};
                MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
                if (i >= 20)
                        printf("%8zu bytes: %s\n", m.len_bytes, ways[m.how]);
                wharf_release(task, &m);
        }
        struct wharf_msg m = {.size = sizeof m};
        MUST(wharf_recvmsg(task, port, &m, WHARF_FOREVER));
        struct wharf_msg reply = {.size = sizeof reply, .data = calloc(1, 32 << 20), .len_bytes = 32 << 20};
        MUST(wharf_replymsg(task, m.reply, &reply));
        printf("%8zu bytes: %s\n", reply.len_bytes,
               reply.how == WHARF_HOW_DIRECT ? "written into the caller's address space" : ways[reply.how]);
        free(reply.data);
        wharf_task_close(task);
        return 0;
}
