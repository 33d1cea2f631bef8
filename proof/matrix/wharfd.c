/*
 * wharfd - a server for both parties, since each may be another user.
 */
#include "party.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Its socket is there a moment before anybody listens, and for long after it was killed. */
static bool served(const char *path)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        memcpy(sa.sun_path, path, strnlen(path, sizeof sa.sun_path - 1));
        bool yes = connect(sock, (struct sockaddr *)&sa, sizeof sa) == 0;
        close(sock);
        return yes;
}

/* A server for both, since each may be another user. */
pid_t party_wharfd_start(const struct matrix_case *c, char *dir, size_t cap)
{
        char conf[200], path[300];
        snprintf(dir, cap, "%s/domain", c->dir);
        snprintf(conf, sizeof conf, "%s/conf", c->dir);
        FILE *f = fopen(conf, "we");
        MATRIX_CHECK(f != NULL);
        fputs("own * all\nuse * all\nsee * all\n", f);
        fclose(f);
        setenv("WHARF_DOMAIN", dir, 1);
        unsetenv("WHARF_RIGHTS");
        const char *program = getenv("MATRIX_PROGRAM");
        pid_t pid = fork();
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                dup2(open("/dev/null", O_RDWR | O_CLOEXEC), 2);
                execl(program, program, "--domain", dir, "--share", "--config", conf, "--linger", "forever",
                      "--foreground", (char *)NULL);
                _exit(127);
        }
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        while (!served(path) && waitpid(pid, NULL, WNOHANG) == 0)
                matrix_sleep_us(500);
        return pid;
}

int party_wharfd_stop(const struct matrix_case *c, pid_t pid, const char *dir)
{
        char path[300];
        kill(pid, SIGTERM);
        int r = matrix_wait(pid);
        snprintf(path, sizeof path, "%s/conf", c->dir);
        unlink(path);
        snprintf(path, sizeof path, "rm -rf '%s'", dir);
        return system(path) ? MATRIX_FAILED : r;
}
