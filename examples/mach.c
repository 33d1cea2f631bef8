/*
 * The textbook's client and server in Mach's own words: the client builds a header and sends; the server receives, and
 * answers through the reply port that came along.
 */
#include "must.h"

#include <wharf/mach.h>

#define MACH(call)                                                                                  \
        do {                                                                                        \
                kern_return_t kr_ = (call);                                                         \
                if (kr_ != KERN_SUCCESS) {                                                          \
                        fprintf(stderr, "%s: %s %s\n", #call, mach_error_string(kr_), wharf_why()); \
                        exit(1);                                                                    \
                }                                                                                   \
        } while (0)

struct message {
        mach_msg_header_t header;
        int data;
};

static int client(void)
{
        mach_port_t server, reply = mach_reply_port();
        struct message m = {.data = 21};
        MACH(bootstrap_look_up(bootstrap_port, "mach", &server));
        m.header.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, MACH_MSG_TYPE_MAKE_SEND_ONCE);
        m.header.msgh_size = sizeof m;
        m.header.msgh_remote_port = server;
        m.header.msgh_local_port = reply;
        MACH(mach_msg(&m.header, MACH_SEND_MSG, sizeof m, 0, MACH_PORT_NULL, MACH_MSG_TIMEOUT_NONE, MACH_PORT_NULL));
        MACH(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, reply, MACH_MSG_TIMEOUT_NONE, MACH_PORT_NULL));
        printf("21 doubled is %d\n", m.data);
        return m.data != 42;
}

int main(void)
{
        int status;
        mach_port_t server;
        struct message m;
        MACH(bootstrap_check_in(bootstrap_port, "mach", &server));
        if (fork() == 0)
                return client();
        MACH(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, server, MACH_MSG_TIMEOUT_NONE, MACH_PORT_NULL));
        m.data *= 2;
        m.header.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_MOVE_SEND_ONCE, 0); /* received where it says remote */
        m.header.msgh_local_port = MACH_PORT_NULL;
        MACH(mach_msg(&m.header, MACH_SEND_MSG, sizeof m, 0, MACH_PORT_NULL, MACH_MSG_TIMEOUT_NONE, MACH_PORT_NULL));
        wait(&status);
        return mach_port_destroy(mach_task_self(), server) || status;
}
