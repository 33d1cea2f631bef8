/*
 * become - a party becomes another program, with the rights that it has or with none, and goes on there.
 */
#include "words.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void arguments(struct party *p, char text[7][24], char *argv[10])
{
        snprintf(text[0], 24, "%d", p->hub);
        snprintf(text[1], 24, "%u", p->messages);
        snprintf(text[2], 24, "%d", (int)(p->env - envs));
        snprintf(text[3], 24, "%d", (int)(p->other - envs));
        snprintf(text[4], 24, "%d", (int)(p->work - works));
        snprintf(text[5], 24, "%d", p->listen_fd);
        snprintf(text[6], 24, "%d", p->env->execs ? -1 : matrix_report_fd());
        argv[0] = (char *)(uintptr_t)p->c->exe;
        argv[1] = (char *)(uintptr_t) "--party";
        for (unsigned i = 0; i < 7; i++)
                argv[2 + i] = text[i];
        argv[9] = NULL;
}

int party_exec_bare(struct party *p)
{
        return party_exec_as(p, p->c->exe);
}

int party_exec_as(struct party *p, const char *path)
{
        char text[7][24], *argv[10];
        wharf_task *t;
        wharf_name port, right;
        if (p->executed)
                return 0;
        /* Things of the library's, all of which the kernel must close. */
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, NULL, &port), 0);
        MATRIX_EQ(wharf_right_new(t, port, &right), 0);
        struct wharf_msg m = MSG(0);
        wharf_recv(t, port, text, sizeof text, NULL, 0); /* greets */
        int r = wharf_reserve(t, right, 3000, &m, wharf_in_ms(1000));
        MATRIX_EQ(r, 0);
        if (p->listen_fd >= 0)
                fcntl(p->listen_fd, F_SETFD, 0);
        fcntl(matrix_report_fd(), F_SETFD, 0);
        setenv("MATRIX_DIR", p->c->dir, 1);
        arguments(p, text, argv);
        execv(path, argv);
        matrix_say("%s: %s", path, strerror(errno));
        return MATRIX_FAILED;
}

int party_exec_with_rights(struct party *p)
{
        char text[7][24], *argv[10];
        struct wharf_given given[2] = {
                {"report", {.kind = WHARF_COPY_FD, .fd = matrix_report_fd()}},
                {"right", {.kind = p->hub ? WHARF_MOVE_RECEIVE : WHARF_MOVE_SEND, .name = p->hub ? p->port : p->right}},
        };
        if (p->executed)
                return 0;
        if (p->hub)
                MATRIX_EQ(wharf_port_listen(p->task, p->port, -1), 0);
        if (p->hub && p->work->names)
                MATRIX_EQ(wharf_unregister(p->task, "matrix.hub"), 0);
        p->listen_fd = -1; /* goes with this program */
        setenv("MATRIX_DIR", p->c->dir, 1);
        arguments(p, text, argv);
        struct wharf_spawn_opts o = {.size = sizeof o, .argv = argv, .given = given, .n_given = 2};
        int r = wharf_exec(p->task, &o, wharf_in_ms(5000));
        matrix_say("wharf_exec: %s: %s", wharf_strerror(r), wharf_why());
        return MATRIX_FAILED;
}

void party_executed(int argc, char **argv)
{
        if (argc != 9 || strcmp(argv[1], "--party"))
                return;
        static struct matrix_case c;
        static struct party p;
        const char *dir = getenv("MATRIX_DIR");
        c.dir = dir ? dir : "/nowhere";
        c.exe = argv[0];
        p.c = &c;
        p.executed = true;
        p.hub = atoi(argv[2]);
        p.messages = (unsigned)atoi(argv[3]);
        c.quick = p.messages < 100;
        p.env = &envs[atoi(argv[4])];
        p.other = &envs[atoi(argv[5])];
        p.work = &works[atoi(argv[6])];
        p.listen_fd = atoi(argv[7]);
        pthread_mutex_init(&p.lock, NULL);
        snprintf(p.path, sizeof p.path, "%s/hub", c.dir);
        matrix_report_to(atoi(argv[8]));
        /* The standard descriptors, and what was meant to come along: the report and the listener, or the rights. */
        unsigned standard = 0;
        for (int fd = 0; fd < 3; fd++)
                standard += fcntl(fd, F_GETFD) >= 0;
        const unsigned inherited = matrix_fds() - standard;
        if (p.env->execs) {
                struct wharf_item item;
                MATRIX_EQ(inherited, 1);
                MATRIX_EQ(wharf_task_open(NULL, &p.task), 0);
                MATRIX_EQ(wharf_inherited(p.task, "report", &item), 0);
                matrix_report_to(item.fd);
                MATRIX_EQ(wharf_inherited(p.task, "right", &item), 0);
                MATRIX_EQ(item.kind, p.hub ? WHARF_GOT_RECEIVE : WHARF_GOT_SEND);
                *(p.hub ? &p.port : &p.right) = item.name;
                if (p.hub && p.work->names)
                        MATRIX_EQ(wharf_register(p.task, "matrix.hub", p.port), 0);
                p.fds_before = standard + 1; /* with the report */
                p.hub ? party_hub_run(&p) : party_peer_run(&p);
        }
        MATRIX_EQ(inherited, p.hub ? 2 : 1);
        party_run(&p);
}
