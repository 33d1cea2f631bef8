/*
 * footprint - what ports and rights occupy: descriptors, and bytes of memory, for each of RIGHTS, as seen from both
 * sides.
 *
 * Method: two processes. The owner makes RIGHTS ports and closes them; then it makes one, to which the holder gets
 * RIGHTS rights. Each is counted after one message (idle) and after ATTACH_MSGS (attached: in shared memory). A
 * process's bytes are its proportional set size: what only it maps, and its part of what both map, so the two sides may
 * be added.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wharf/wharf.h>

#include "harness.h"

#define RIGHTS 64
#define ATTACH_MSGS 64
#define MESSAGE_BYTES 64

struct footprint {
        double fds;
        double bytes;
};

static void check(ssize_t r, const char *call)
{
        if (r >= 0)
                return;
        errno = (int)-r;
        bench_die("%s %s", call, wharf_why());
}

static struct footprint footprint_now(void)
{
        struct footprint f = {0};
        char line[256];
        unsigned long kib;
        FILE *rollup = fopen("/proc/self/smaps_rollup", "re");
        DIR *dir = opendir("/proc/self/fd");
        if (!rollup || !dir)
                bench_die("/proc/self");
        while (fgets(line, sizeof(line), rollup))
                if (sscanf(line, "Pss: %lu kB", &kib) == 1)
                        f.bytes = (double)kib * 1024;
        fclose(rollup);
        while (readdir(dir))
                f.fds++;
        closedir(dir);
        return f;
}

static void footprint_print(const char *of, struct footprint before, struct footprint after)
{
        bench_print_value("wharf", "footprint", of, 0, "fds", (after.fds - before.fds) / RIGHTS);
        bench_print_value("wharf", "footprint", of, 0, "bytes", (after.bytes - before.bytes) / RIGHTS);
}

static void msgs_send(wharf_task *task, const wharf_name *rights, uint32_t each)
{
        char bytes[MESSAGE_BYTES] = {0};
        for (uint32_t i = 0; i < RIGHTS; i++)
                for (uint32_t k = 0; k < each; k++)
                        check(wharf_send(task, rights[i], bytes, sizeof(bytes), WHARF_FOREVER), "wharf_send");
}

static void msgs_recv(wharf_task *task, wharf_name port, uint32_t n)
{
        char bytes[MESSAGE_BYTES];
        while (n--)
                check(wharf_recv(task, port, bytes, sizeof(bytes), NULL, WHARF_FOREVER), "wharf_recv");
}

/* A byte each way keeps the two in step, so that nobody changes while it, or the other, is measured. */
static void step_tell(int fd)
{
        if (write(fd, "", 1) != 1)
                bench_die("write");
}

static void step_await(int fd)
{
        char c;
        if (read(fd, &c, 1) != 1)
                bench_die("the other process is gone");
}

static void owner_run(int listener, int steps)
{
        struct wharf_port_opts opts = {.size = sizeof(opts), .flags = WHARF_PORT_STAYS};
        struct footprint start, idle, attached;
        wharf_name ports[RIGHTS], port;
        wharf_task *task;

        check(wharf_task_open(NULL, &task), "wharf_task_open");
        check(wharf_port_new(task, &opts, &port), "wharf_port_new");
        check(wharf_port_listen(task, port, listener), "wharf_port_listen");
        start = footprint_now();
        for (uint32_t i = 0; i < RIGHTS; i++)
                check(wharf_port_new(task, NULL, &ports[i]), "wharf_port_new");
        footprint_print("port", start, footprint_now());
        for (uint32_t i = 0; i < RIGHTS; i++)
                check(wharf_drop(task, ports[i]), "wharf_drop");

        start = footprint_now();
        step_tell(steps);
        msgs_recv(task, port, RIGHTS);
        idle = footprint_now();
        footprint_print("idle-owner", start, idle);
        step_tell(steps);
        msgs_recv(task, port, RIGHTS * ATTACH_MSGS);
        attached = footprint_now();
        footprint_print("attached-owner", start, attached);
        step_tell(steps);
        step_await(steps);
        wharf_task_close(task);
}

static void holder_run(const char *path, int steps)
{
        struct footprint start, idle;
        wharf_name rights[RIGHTS];
        uint32_t attached = 0;
        double shared_bytes = 0;
        wharf_task *task;

        check(wharf_task_open(NULL, &task), "wharf_task_open");
        step_await(steps);
        start = footprint_now();
        for (uint32_t i = 0; i < RIGHTS; i++)
                check(wharf_right_connect(task, path, &rights[i]), "wharf_right_connect");
        msgs_send(task, rights, 1);
        step_await(steps);
        idle = footprint_now();
        footprint_print("idle-holder", start, idle);
        msgs_send(task, rights, ATTACH_MSGS);
        step_await(steps);
        footprint_print("attached-holder", start, footprint_now());
        for (uint32_t i = 0; i < RIGHTS; i++) {
                struct wharf_right_stat stat = {.size = sizeof(stat)};
                check(wharf_right_stat(task, rights[i], &stat), "wharf_right_stat");
                attached += stat.attached;
                shared_bytes += (double)stat.shared_bytes;
        }
        bench_print_value("wharf", "footprint", "attached-holder", 0, "attached", (double)attached / RIGHTS);
        bench_print_value("wharf", "footprint", "attached-holder", 0, "shared_bytes", shared_bytes / RIGHTS);
        step_tell(steps);
        wharf_task_close(task);
}

int main(void)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        char dir[] = "/tmp/wharf-bench-XXXXXX";
        int listener, steps[2], status;
        pid_t pid;

        setvbuf(stdout, NULL, _IOLBF, 0);
        if (!mkdtemp(dir))
                bench_die("%s", dir);
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/owner", dir);
        listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, RIGHTS))
                bench_die("%s", addr.sun_path);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, steps))
                bench_die("socketpair");
        pid = fork();
        if (pid < 0)
                bench_die("fork");
        if (pid == 0) {
                close(steps[0]);
                alarm(30);
                owner_run(listener, steps[1]);
                exit(0);
        }
        close(steps[1]);
        close(listener);
        alarm(30);
        holder_run(addr.sun_path, steps[0]);
        if (waitpid(pid, &status, 0) != pid || status)
                bench_die("the owner failed");
        unlink(addr.sun_path);
        rmdir(dir);
        return 0;
}
