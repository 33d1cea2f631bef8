#include "things.h"

#include "wire.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* With bytes that nobody reads: its last close waits until somebody has, or for two seconds. */
static int make_linger(void)
{
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof at;
        int small = 1, to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        static const char bytes[1 << 16];
        setsockopt(to, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        if (bind(to, (struct sockaddr *)&at, sizeof at) < 0 || listen(to, 1) < 0 ||
            getsockname(to, (struct sockaddr *)&at, &len) < 0)
                return to;
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(s, (struct sockaddr *)&at, sizeof at) < 0)
                return to;
        while (send(s, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
                ;
        struct linger linger = {1, 2};
        setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        return s; /* `to` stays open, unread */
}

int thing_make(enum program_what what)
{
        int ends[2] = {-1, -1};
        void *map;
        struct sockaddr_un nameless = {.sun_family = AF_UNIX};
        static const char bytes[1 << 16];
        switch (what) {
        case WHAT_LINGER:
                return make_linger();
        case WHAT_FULL_PIPE:
                if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0)
                        while (write(ends[1], bytes, sizeof bytes) > 0)
                                ;
                return ends[1];
        case WHAT_MEMORY:
                return wire_memory(WH_PAGE, WIRE_SEALS_OUT, &map);
        case WHAT_MEMORY_UNSEALED:
                return wire_memory(WH_PAGE, WIRE_SEALS_NONE, &map);
        case WHAT_LISTENER:
                ends[0] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                if (bind(ends[0], (struct sockaddr *)&nameless, sizeof nameless.sun_family) == 0)
                        listen(ends[0], 1);
                return ends[0];
        case WHAT_STREAM:
                return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? -1 : ends[0];
        case WHAT_EVENT:
                return eventfd(0, EFD_CLOEXEC);
        case WHAT_FOLDER:
                return open("/", O_PATH | O_CLOEXEC);
        case WHAT_NULL:
        case WHATS:
                break;
        }
        return open("/dev/null", O_RDWR | O_CLOEXEC);
}
