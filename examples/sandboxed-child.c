/*
 * A child with nothing but its rights: the program starts itself, the child locks itself in, where it can open, connect
 * and make nothing any more, and serves a request. No server, no file system; works as an ordinary user.
 */
#include "must.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define REFUSE(call) \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static void lock_in(void)
{
        struct sock_filter f[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                                  REFUSE(openat),
                                  REFUSE(socket),
                                  REFUSE(socketpair),
                                  REFUSE(connect),
                                  REFUSE(memfd_create),
                                  REFUSE(execve),
                                  REFUSE(clone),
                                  REFUSE(clone3),
                                  REFUSE(ptrace),
                                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
        struct sock_fprog prog = {sizeof f / sizeof *f, f};
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}

static int child(void)
{
        wharf_task *task = open_task();
        struct wharf_item self, log;
        MUST(wharf_inherited(task, WHARF_SELF, &self));
        MUST(wharf_inherited(task, "log", &log));
        lock_in();
        const char *found = open("/etc/passwd", O_RDONLY) < 0 ? "I cannot open a file" : "I can open files!";
        MUST(wharf_send(task, log.name, found, strlen(found) + 1, WHARF_FOREVER));
        char text[32];
        struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
        MUST(wharf_recvmsg(task, self.name, &m, WHARF_FOREVER));
        MUST(wharf_reply(task, m.reply, "served", 7));
        return wharf_task_close(task) != NULL;
}

int main(int argc, char **argv)
{
        if (argc > 1 && !strcmp(argv[1], "child"))
                return child();
        wharf_task *task = open_task();
        wharf_name port;
        MUST(wharf_port_new(task, NULL, &port));
        struct wharf_given log = {"log", {.kind = WHARF_MAKE_SEND, .name = port}};
        char *again[] = {(char[]){"/proc/self/exe"}, (char[]){"child"}, NULL};
        struct wharf_spawn_opts o = {
                .size = sizeof o, .flags = WHARF_SPAWN_TALK, .argv = again, .given = &log, .n_given = 1};
        struct wharf_child c = {.size = sizeof c};
        MUST(wharf_spawn(task, &o, WHARF_FOREVER, &c));
        char text[64], answer[16];
        MUST(wharf_call(task, c.right, "ask", 3, answer, sizeof answer, WHARF_FOREVER));
        MUST(wharf_recv(task, port, text, sizeof text, NULL, WHARF_FOREVER));
        int status;
        MUST(wharf_child_wait(&c, WHARF_FOREVER, &status));
        printf("the child says: %s\nthe child answered: %s\nit returned %d\n", text, answer, status);
        wharf_task_close(task);
        return status || strcmp(text, "I cannot open a file") != 0;
}
