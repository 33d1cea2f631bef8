/*
 * wordcount - counts the words of files and directories with one coordinator and several worker processes.
 *
 *      wordcount [--workers N] [--kill] --output FILE PATH...
 *
 * The coordinator registers a port under a name, starts the workers, and serves each one with a thread of its own: the
 * thread hands out a piece of work and waits for the reply. Nobody watches whether workers live. When one dies its link
 * hangs up, by the kernel's word, the call that waits for its reply ends with -ECONNRESET, and the piece goes back to
 * the pile. With --kill that is tried: one worker is killed while it has a piece in hand.
 *
 * Exit status: 0 everything was counted; 1 it was not; 2 wrong usage.
 */
#include "demo.h"
#include "words.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wharf/wharf.h>

enum {
        TEXT_BYTES = 256 << 10, /* small files are handed out together, in pieces of about this size */
        PART_BYTES = 2 << 20,   /* larger ones in parts of this size */
        FILES_MAX = 4096,       /* at once: the empty ones count, too */
        WORKERS_MAX = 64,
};

struct file {
        char *path;
        uint64_t size;
        bool apart; /* it holds more than its size, and became a piece of its own */
};

/* A piece of work: `n_files` whole files from `first` on, or one part of the file `first`. */
struct piece {
        size_t first, n_files; /* n_files is 0 for a part */
        struct part part;
        struct piece *next;
};

struct serving {
        pthread_t thread;
        wharf_name right; /* to the worker's port */
        pid_t pid;
};

static struct {
        wharf_task *task;
        wharf_name done; /* over which a thread says that all is counted */
        struct file *files;
        size_t n_files, files_room;
        uint64_t bytes;

        pthread_mutex_t lock; /* for what follows */
        pthread_cond_t change;
        struct piece *pile;
        size_t n_pieces, n_counted, in_hand;
        size_t unreadable, redone;
        unsigned serving, died;
        bool kill_one;
        pid_t killed;
        struct words words;
} the = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};

static int fail(const char *what, int err)
{
        const char *why = wharf_why();
        fprintf(stderr, "wordcount: %s: %s%s%s\n", what, wharf_strerror(err), *why ? ": " : "", why);
        return 1;
}

/* ---- the work ---- */

static int file_add(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
        if (kind == FTW_DNR || kind == FTW_NS)
                fprintf(stderr, "wordcount: %s: cannot be read\n", path);
        if (kind != FTW_F || !S_ISREG(st->st_mode))
                return 0;
        if (the.n_files == the.files_room)
                the.files = need(realloc(the.files, (the.files_room = the.files_room * 2 + 256) * sizeof *the.files));
        the.files[the.n_files++] = (struct file){.path = need(strdup(path)), .size = (uint64_t)st->st_size};
        the.bytes += (uint64_t)st->st_size;
        return 0;
}

static void pile_put(struct piece piece)
{
        struct piece *p = need(malloc(sizeof *p));
        *p = piece;
        p->next = the.pile;
        the.pile = p;
}

static void pile_up(unsigned n_workers)
{
        size_t first = 0;
        uint64_t bytes = 0, enough = the.bytes / (n_workers * 8); /* little text makes small pieces: all get some */
        enough = enough > TEXT_BYTES ? TEXT_BYTES : enough;
        for (size_t i = 0; i <= the.n_files; i++) {
                bool large = i < the.n_files && the.files[i].size >= TEXT_BYTES;
                if (i > first && (i == the.n_files || large || bytes >= enough || i - first == FILES_MAX)) {
                        pile_put((struct piece){.first = first, .n_files = i - first});
                        the.n_pieces++;
                        first = i;
                        bytes = 0;
                }
                if (i == the.n_files)
                        break;
                bytes += the.files[i].size;
                for (uint64_t at = 0; large && at < the.files[i].size; at += PART_BYTES) {
                        pile_put((struct piece){.first = i, .part = {at, PART_BYTES}});
                        the.n_pieces++;
                        first = i + 1;
                        bytes = 0;
                }
        }
}

/* The next piece; NULL when all are counted. Waits while the last ones are in other workers' hands. */
static struct piece *piece_take(void)
{
        pthread_mutex_lock(&the.lock);
        while (!the.pile && the.in_hand)
                pthread_cond_wait(&the.change, &the.lock);
        struct piece *p = the.pile;
        if (p) {
                the.pile = p->next;
                the.in_hand++;
        }
        pthread_mutex_unlock(&the.lock);
        return p;
}

static void piece_back(struct piece *p)
{
        pthread_mutex_lock(&the.lock);
        p->next = the.pile;
        the.pile = p;
        the.in_hand--;
        the.redone++;
        pthread_cond_broadcast(&the.change);
        pthread_mutex_unlock(&the.lock);
}

static void piece_counted(struct piece *p, const struct wharf_msg *reply)
{
        pthread_mutex_lock(&the.lock);
        if (!words_unpack(&the.words, reply->data, reply->len_bytes)) {
                fprintf(stderr, "wordcount: a worker replied with nonsense\n");
                exit(1);
        }
        the.in_hand--;
        size_t before = the.n_counted++ * 10 / the.n_pieces, now = the.n_counted * 10 / the.n_pieces;
        if (now != before)
                fprintf(stderr, "%4zu %% %6zu of %zu pieces, %zu different words\n", now * 10, the.n_counted,
                        the.n_pieces, the.words.n_words);
        pthread_cond_broadcast(&the.change);
        pthread_mutex_unlock(&the.lock);
        free(p);
}

/* ---- handing it out ---- */

static void unreadable(const struct file *f)
{
        fprintf(stderr, "wordcount: %s: %s\n", f->path, strerror(errno));
        pthread_mutex_lock(&the.lock);
        the.unreadable++;
        pthread_mutex_unlock(&the.lock);
}

/* Opening a file never waits, and never follows a link that took its place meanwhile. */
static int open_file(const struct file *f)
{
        int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW);
        if (fd < 0)
                unreadable(f);
        return fd;
}

/* A file that holds more than it said (as those of /proc do) becomes a piece of its own. */
static void another_piece(size_t file)
{
        the.files[file].apart = true; /* only the thread that holds the piece looks at this */
        pthread_mutex_lock(&the.lock);
        pile_put((struct piece){.first = file, .part = {0, UINT64_MAX}});
        the.n_pieces++;
        pthread_cond_broadcast(&the.change);
        pthread_mutex_unlock(&the.lock);
}

/*
 * The text of whole files, one behind the other, each followed by a newline so that no word goes from one into the
 * next. `text` has room for the size of each, one byte more to see whether it was true, and the newline.
 */
static size_t read_files(const struct piece *p, char *text)
{
        size_t len = 0;
        for (size_t i = p->first; i < p->first + p->n_files; i++) {
                const struct file *f = &the.files[i];
                int fd = f->apart ? -1 : open_file(f);
                size_t got = 0;
                ssize_t n = 0;
                while (fd >= 0 && got <= f->size) {
                        n = read(fd, text + len + got, f->size + 1 - got);
                        if (n < 0 && errno == EINTR)
                                continue;
                        if (n <= 0)
                                break;
                        got += (size_t)n;
                }
                if (fd >= 0 && n < 0)
                        unreadable(f);
                if (fd >= 0)
                        close(fd);
                if (got > f->size) {
                        another_piece(i);
                        continue;
                }
                len += got;
                text[len++] = '\n';
        }
        return len;
}

/* Start the call that hands out the piece: 0, or why this worker gets it no more. */
static int hand_out(const struct serving *s, struct piece *p, uint32_t *ret_call)
{
        if (p->n_files == 0) {
                struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = open_file(&the.files[p->first])};
                bool open = item.fd >= 0;
                struct wharf_msg m = {.size = sizeof m,
                                      .id = FILE_PART,
                                      .data = &p->part,
                                      .len_bytes = sizeof p->part,
                                      .items = &item,
                                      .n_items = open};
                int r = wharf_call_start(the.task, s->right, &m, WHARF_NONE, WHARF_FOREVER, ret_call);
                if (open)
                        close(item.fd);
                return r;
        }
        size_t room = 0;
        for (size_t i = p->first; i < p->first + p->n_files; i++)
                room += the.files[i].size + 2;
        struct wharf_msg m = {.size = sizeof m, .id = TEXT};
        int r = wharf_reserve(the.task, s->right, room, &m, WHARF_FOREVER);
        if (r < 0)
                return r;
        m.id = TEXT;
        m.len_bytes = read_files(p, m.data);
        r = wharf_call_start(the.task, s->right, &m, WHARF_NONE, WHARF_FOREVER, ret_call);
        if (r < 0)
                wharf_release(the.task, &m);
        return r;
}

/*
 * The worker is stopped first, so that it cannot finish meanwhile; then, if it has not replied yet, it is killed: in
 * the middle of its work. -EINPROGRESS: the call is still to be finished; otherwise what finishing it answered.
 */
static int kill_in_the_middle(const struct serving *s, uint32_t call, struct wharf_msg *reply)
{
        siginfo_t si;
        pthread_mutex_lock(&the.lock);
        bool kill_it = the.kill_one && the.serving > 1 && the.n_counted * 3 >= the.n_pieces;
        the.kill_one &= !kill_it;
        pthread_mutex_unlock(&the.lock);
        if (!kill_it || kill(s->pid, SIGSTOP) < 0 || waitid(P_PID, (id_t)s->pid, &si, WSTOPPED | WEXITED | WNOWAIT) < 0)
                return -EINPROGRESS;
        int r = wharf_call_finish(the.task, s->right, call, reply, 0);
        if (r == -EAGAIN) {
                fprintf(stderr, "       killing worker %d, with a piece in its hands\n", (int)s->pid);
                kill(s->pid, SIGKILL);
                the.killed = s->pid;
                return -EINPROGRESS;
        }
        kill(s->pid, SIGCONT); /* too late: it has replied. The next one, then. */
        pthread_mutex_lock(&the.lock);
        the.kill_one = true;
        pthread_mutex_unlock(&the.lock);
        return r;
}

/* One worker's thread: hand out, wait for the reply; until there is no work, or no worker. */
static void *serve(void *arg)
{
        struct serving *s = arg;
        struct piece *p;
        int r = 0;
        while (r == 0 && (p = piece_take())) {
                uint32_t call;
                struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_IN_PLACE};
                r = hand_out(s, p, &call);
                if (r == 0) {
                        r = kill_in_the_middle(s, call, &reply);
                        if (r == -EINPROGRESS)
                                r = wharf_call_finish(the.task, s->right, call, &reply, WHARF_FOREVER);
                }
                if (r < 0) {
                        fprintf(stderr, "       worker %d: %s: its piece goes back to the pile\n", (int)s->pid,
                                wharf_strerror(r));
                        piece_back(p);
                        break;
                }
                piece_counted(p, &reply);
                wharf_release(the.task, &reply);
        }
        if (r == 0)
                wharf_drop(the.task, s->right); /* the worker sees that nobody can send to it any more, and leaves */
        pthread_mutex_lock(&the.lock);
        the.died += r < 0;
        bool last = --the.serving == 0;
        pthread_mutex_unlock(&the.lock);
        struct wharf_msg m = {.size = sizeof m, .id = DONE};
        if (last)
                wharf_sendmsg(the.task, the.done, &m, WHARF_FOREVER);
        return NULL;
}

/* ---- the coordinator ---- */

static int start_worker(const char *self, pid_t *ret)
{
        extern char **environ;
        static char name[] = "wordcount", option[] = "--worker";
        char *argv[] = {name, option, NULL};
        return -posix_spawn(ret, self, NULL, NULL, argv, environ);
}

static int by_word(const void *a, const void *b)
{
        const struct word *x = *(struct word *const *)a, *y = *(struct word *const *)b;
        int c = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
        return c ? c : x->len < y->len ? -1 : x->len > y->len;
}

static int write_words(const char *path)
{
        FILE *f = fopen(path, "we");
        if (!f)
                return -errno;
        size_t n = 0;
        struct word **all = need(calloc(the.words.n_words + 1, sizeof *all));
        for (size_t i = 0; i < the.words.n_slots; i++)
                if (the.words.slot[i])
                        all[n++] = the.words.slot[i];
        qsort(all, n, sizeof *all, by_word);
        for (size_t i = 0; i < n; i++) {
                fprintf(f, "%llu ", (unsigned long long)all[i]->count);
                fwrite(all[i]->text, 1, all[i]->len, f);
                fputc('\n', f);
        }
        free(all);
        bool bad = ferror(f);
        return fclose(f) || bad ? -EIO : 0;
}

static unsigned open_descriptors(void)
{
        DIR *d = opendir("/proc/self/fd");
        unsigned n = 0;
        while (d && readdir(d))
                n++;
        if (d)
                closedir(d);
        return n;
}

/* What a worker sent that came too late to be heard is closed by a thread, a moment after its task. */
static bool descriptors_back_to(unsigned before)
{
        for (int i = 0; i < 200 && open_descriptors() != before; i++)
                usleep(10000);
        return open_descriptors() == before;
}

static int coordinate(unsigned n_workers, const char *output)
{
        struct serving serving[WORKERS_MAX];
        pid_t pids[WORKERS_MAX];
        const unsigned descriptors = open_descriptors();
        unsigned n_serving = 0, n_dead = 0;
        wharf_name port;
        int64_t start_ns = wharf_now_ns();

        int r = wharf_task_open(NULL, &the.task);
        if (r == 0)
                r = wharf_port_new(the.task, NULL, &port);
        if (r == 0)
                r = wharf_right_new(the.task, port, &the.done);
        if (r == 0)
                r = wharf_register(the.task, COORDINATOR, port);
        if (r < 0)
                return fail("registering the name " COORDINATOR, r);
        for (unsigned i = 0; i < n_workers; i++)
                if ((r = start_worker("/proc/self/exe", &pids[i])) < 0)
                        return fail("starting a worker", r);

        /* Workers introduce themselves, deaths are announced, and at last a thread says that all is done. */
        for (bool done = false; !done || n_dead < the.died;) {
                struct wharf_item item;
                struct wharf_msg m = {.size = sizeof m, .items = &item, .cap_items = 1};
                r = wharf_recvmsg(the.task, port, &m, n_serving ? WHARF_FOREVER : wharf_in_ms(20000));
                if (r < 0)
                        return fail("waiting for workers", r);
                if (m.notice == WHARF_NOTICE_DEAD_NAME) {
                        for (unsigned i = 0; i < n_serving; i++)
                                if (serving[i].right == m.about)
                                        fprintf(stderr, "       the kernel says: worker %d is dead\n",
                                                (int)serving[i].pid);
                        n_dead++;
                } else if (m.id == HELLO && m.n_items == 1 && n_serving < WORKERS_MAX) {
                        struct serving *s = &serving[n_serving++];
                        *s = (struct serving){.right = item.name, .pid = m.sender.pid};
                        wharf_watch(the.task, s->right, port);
                        pthread_mutex_lock(&the.lock);
                        the.serving++;
                        pthread_mutex_unlock(&the.lock);
                        if (pthread_create(&s->thread, NULL, serve, s))
                                return fail("starting a thread", -EAGAIN);
                } else if (m.id == DONE) {
                        done = true;
                }
        }
        for (unsigned i = 0; i < n_serving; i++)
                pthread_join(serving[i].thread, NULL);
        the.task = wharf_task_close(the.task);
        for (unsigned i = 0; i < n_workers; i++) {
                bool came = false;
                for (unsigned k = 0; k < n_serving; k++)
                        came |= serving[k].pid == pids[i];
                if (!came)
                        kill(pids[i], SIGTERM); /* it was too late, and the name is gone */
                waitpid(pids[i], NULL, 0);
        }
        if (the.pile || the.n_counted != the.n_pieces) {
                fprintf(stderr, "wordcount: no worker is left, and %zu of %zu pieces are not counted\n",
                        the.n_pieces - the.n_counted, the.n_pieces);
                return 1;
        }
        double seconds = (double)(wharf_now_ns() - start_ns) / 1e9;
        if ((r = write_words(output)) < 0)
                return fprintf(stderr, "wordcount: %s: %s\n", output, strerror(-r)), 1;
        printf("%zu files, %llu bytes: %llu words, %zu different, in %.2f s by %u workers", the.n_files,
               (unsigned long long)the.bytes, (unsigned long long)the.words.total, the.words.n_words, seconds,
               n_serving);
        if (the.killed)
                printf("; one was killed, %zu piece%s counted again", the.redone, the.redone == 1 ? "" : "s");
        printf("\n");
        if (the.unreadable)
                printf("%zu files could not be read\n", the.unreadable);
        if (!descriptors_back_to(descriptors)) {
                fprintf(stderr, "wordcount: %u descriptors before, %u after\n", descriptors, open_descriptors());
                return 1;
        }
        return 0;
}

int main(int argc, char **argv)
{
        static const struct option options[] = {{"workers", required_argument, NULL, 'w'},
                                                {"kill", no_argument, NULL, 'k'},
                                                {"output", required_argument, NULL, 'o'},
                                                {"worker", no_argument, NULL, 'W'},
                                                {0}};
        long workers = sysconf(_SC_NPROCESSORS_ONLN);
        const char *output = NULL;
        workers = workers < 3 ? 3 : workers > 8 ? 8 : workers;
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
                if (c == 'W')
                        return worker();
                if (c == 'w')
                        workers = atol(optarg);
                else if (c == 'k')
                        the.kill_one = true;
                else if (c == 'o')
                        output = optarg;
                else
                        return 2;
        }
        if (!output || optind == argc || workers < 1 || workers > WORKERS_MAX) {
                fprintf(stderr, "usage: wordcount [--workers 1..%d] [--kill] --output FILE PATH...\n", WORKERS_MAX);
                return 2;
        }
        for (int i = optind; i < argc; i++)
                if (nftw(argv[i], file_add, 64, FTW_PHYS) < 0)
                        return fprintf(stderr, "wordcount: %s: %s\n", argv[i], strerror(errno)), 1;
        pile_up((unsigned)workers);
        bool wanted_kill = the.kill_one;
        int r = coordinate((unsigned)workers, output);
        if (r == 0 && wanted_kill && !the.killed)
                printf("no worker could be killed in the middle: there was too little work\n");
        for (size_t i = 0; i < the.n_files; i++)
                free(the.files[i].path);
        free(the.files);
        words_free(&the.words);
        return r;
}
