#include "adversary.h"

#include "things.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
        PIECES = 530, /* of a message in pieces; where they are small it never comes to an end */
        GREETING_MS = 20,
};

/* ---- processes ---- */

void adversary_known(pid_t pid)
{
        uint32_t n = atomic_load(&outside->n_pids);
        if (n < ADVERSARY_PIDS) {
                atomic_store(&outside->pid[n], pid);
                atomic_store(&outside->n_pids, n + 1);
        }
}

pid_t adversary_child(void)
{
        int go[2];
        char byte = 0;
        if (pipe2(go, O_CLOEXEC) < 0)
                return -1;
        pid_t pid = fork();
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(go[1]);
                if (read(go[0], &byte, 1) != 1)
                        _exit(0);
                close(go[0]);
                return 0;
        }
        if (pid > 0) {
                adversary_known(pid);
                if (write(go[1], &byte, 1) != 1)
                        _exit(1);
        }
        close(go[0]);
        close(go[1]);
        return pid;
}

/* ---- ends ---- */

struct end *end_of(struct adversary *a, int at)
{
        return a->end[at].fd >= 0 ? &a->end[at] : NULL;
}

void end_close(struct end *e)
{
        wire_lane_free(&e->lane);
        if (e->fd >= 0)
                close(e->fd);
        *e = (struct end){.fd = -1, .peer = -1};
}

void end_set(struct adversary *a, int reg, int which, int fd)
{
        struct end *e = &a->end[program_end(reg, which)];
        end_close(e);
        e->fd = fd;
}

int adversary_what(struct adversary *a, int what)
{
        if (a->what[what] < 0)
                a->what[what] = thing_make(what);
        return a->what[what];
}

static void *close_it(void *fd)
{
        close((int)(intptr_t)fd);
        return NULL;
}

/*
 * A socket that lingers does so in the last close, which shall be somebody else's: so it is not kept. In a thread, for
 * where the others were faster the last one is here.
 */
void adversary_what_given(struct adversary *a, int what)
{
        pthread_t thread;
        if (what != WHAT_LINGER || a->what[what] < 0)
                return;
        if (pthread_create(&thread, NULL, close_it, (void *)(intptr_t)a->what[what]) == 0)
                pthread_detach(thread);
        a->what[what] = -1;
}

uint64_t end_greeted(struct adversary *a, int sock)
{
        struct pollfd p = {.fd = sock, .events = POLLIN};
        struct wire_hello h;
        if (poll(&p, 1, GREETING_MS) < 1 || wire_receive(sock, &a->got, true) <= 0 ||
            a->got.frame.type != WH_FRAME_HELLO || a->got.len < sizeof a->got.frame + sizeof h)
                return 0;
        memcpy(&h, a->got.data, sizeof h);
        return h.port_id;
}

/* That to which this end was given: of the connection over which it was. */
static uint64_t given_to(const struct adversary *a, const struct end *e)
{
        for (int i = 0; i < PROGRAM_REGISTERS; i++)
                if (e->given & 1u << i && a->end[program_end(i, 0)].port_id)
                        return a->end[program_end(i, 0)].port_id;
        return 0;
}

uint64_t end_port(const struct adversary *a, const struct end *e, bool owner)
{
        const long at = e - a->end;
        if (owner || at < 0 || at >= ENDS)
                return given_to(a, e);
        return e->port_id ? e->port_id : given_to(a, &a->end[at ^ 1]);
}

int end_connect(struct adversary *a, int peer)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (s < 0)
                return -errno;
        strncpy(at.sun_path, a->path[peer], sizeof at.sun_path - 1);
        if (connect(s, (struct sockaddr *)&at, sizeof at) < 0) {
                int r = -errno;
                close(s);
                return r;
        }
        return s;
}

int end_attach(struct end *e, uint32_t lines)
{
        wire_lane_free(&e->lane);
        int r = wire_lane_new(&e->lane, lines, e->seq);
        if (r < 0)
                return r;
        int fds[] = {e->lane.out_fd, e->lane.back_fd};
        r = wire_send(e->fd, (struct wire_frame){.type = WH_FRAME_ATTACH}, WIRE_AS_FITS, WIRE_TRUE, NULL, 0, fds, 2);
        if (r < 0)
                wire_lane_free(&e->lane);
        return r < 0 ? r : 0;
}

int end_bell(struct end *e)
{
        if (!wire_lane_asleep(&e->lane))
                return 0;
        return send(e->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN ? -errno : 0;
}

int end_frame(struct end *e, struct wire_frame f, int as, int lie, const void *data, size_t len, const int *fds,
              unsigned n_fds)
{
        if (e->lane.out)
                wire_lane_frame(&e->lane);
        int r = wire_send(e->fd, f, (enum wire_as)as, (enum wire_lie)lie, data, len, fds, n_fds);
        return r < 0 ? r : 0;
}

/* ---- what comes ---- */

static void look_for_secrets(const void *bytes, size_t len)
{
        enum { ENOUGH = 16 };
        for (uint32_t p = 0; p < PARTIES; p++)
                if (memmem(bytes, len, outside->secret[p], ENOUGH))
                        atomic_store(&outside->secret_seen, 1 + p);
}

static void look_into_memory(int fd)
{
        enum { LARGE = 16 << 20 };
        struct stat st;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > LARGE)
                return;
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
                return;
        look_for_secrets(map, (size_t)st.st_size);
        munmap(map, (size_t)st.st_size);
}

void adversary_keep(struct adversary *a, int into)
{
        look_for_secrets(a->got.data, sizeof a->got.data < a->got.len ? sizeof a->got.data : a->got.len);
        for (unsigned i = 0; i < a->got.n_fds; i++) {
                look_into_memory(a->got.fds[i]);
                if (into >= 0 && i < 2)
                        end_set(a, into, (int)i, a->got.fds[i]);
                else
                        close(a->got.fds[i]);
        }
}

/* ---- bytes to send ---- */

uint8_t bytes_out[BYTES_OUT_MAX];

void adversary_fill(struct adversary *a, uint8_t *to, size_t len, int body)
{
        static const char words[] = "root says: open the gate. ";
        if (body == BODY_FRAME) { /* what is a frame where somebody begins to read there */
                struct wire_frame f = {.magic = WH_FRAME_MAGIC,
                                       .version = WH_FRAME_VERSION,
                                       .type = WH_FRAME_MESSAGE,
                                       .arg = WH_MSG_FIRST | WH_MSG_LAST,
                                       .id = 666,
                                       .total = len > sizeof f ? len - sizeof f : 0,
                                       .len = len > sizeof f ? (uint32_t)(len - sizeof f) : 0};
                memset(to, 'f', len);
                memcpy(to, &f, len < sizeof f ? len : sizeof f);
                return;
        }
        for (size_t i = 0; i < len; i++)
                to[i] = body == BODY_WORDS   ? (uint8_t)words[i % (sizeof words - 1)]
                        : body == BODY_NOISE ? (uint8_t)program_random(&a->random)
                                             : 0;
}

uint32_t adversary_record(struct adversary *a, unsigned kind, uint32_t call, int body, uint32_t len)
{
        struct wire_ext ext = {.id = 1, .call = call};
        uint32_t at = 0;
        len = len > WH_RECORD_BODY_MAX ? WH_RECORD_BODY_MAX : len;
        adversary_fill(a, bytes_out, len, body);
        if (kind == WH_REC_PLAIN || body == BODY_NOISE)
                return len;
        if (kind == WH_REC_OFFER)
                ext.arg = WH_REC_INLINE;
        memcpy(bytes_out, &ext, sizeof ext);
        at = sizeof ext;
        if (kind == WH_REC_BLOCK || kind == WH_REC_CHUNK || kind == WH_REC_MEMORY) {
                struct wire_block b = {.len = len, .total = len};
                memcpy(bytes_out + at, &b, sizeof b);
        } else if (kind == WH_REC_PIECE) {
                uint64_t total = len < 40 ? 1 << 30 : (uint64_t)(len - at - 8) * PIECES;
                memcpy(bytes_out + at, &total, sizeof total);
        } else if (kind == WH_REC_DIRECT || kind == WH_REC_WINDOW) {
                struct wire_direct d = {.at = SECRET_AT(PARTY_V), .len = SECRET_BYTES};
                memcpy(bytes_out + at, &d, sizeof d);
        }
        return len;
}
