/*
 * A port's descriptor in somebody else's event loop.
 */
#include "test.h"
#include "wharf/wharf.h"

#include <poll.h>

static bool readable(int fd, int timeout_ms)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        return poll(&p, 1, timeout_ms) == 1;
}

/*
 * Goal:   an event loop neither misses a message nor spins.
 * Method: the descriptor is quiet after every receive that found nothing, and readable after every send.
 */
TEST(port_fd_is_quiet_when_nothing_is_there)
{
        wharf_task *t;
        wharf_name port, right;
        int fd;
        char c;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, &o, &port), 0);
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK(!readable(fd, 0));
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        for (int i = 0; i < 200; i++) {
                CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), 0);
                CHECK(readable(fd, 10000));
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1);
                for (int k = 0; k < 8 && readable(fd, 0); k++)
                        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
                CHECK(!readable(fd, 0));
        }
        CHECK_EQ(wharf_drop(t, right), 0);
        CHECK(readable(fd, 10000)); /* a sender has gone: the owner is to see it */
        for (int k = 0; k < 8 && readable(fd, 0); k++)
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK(!readable(fd, 0));
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_EQ(st.senders, 0);
        wharf_task_close(t);
}
