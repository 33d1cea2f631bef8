/*
 * A worker: finds the coordinator by name, gives it a right to itself, and counts what it is sent until nobody can send
 * it anything any more.
 */
#include "demo.h"
#include "words.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wharf/wharf.h>

static int fail(const char *what, int err)
{
        const char *why = wharf_why();
        fprintf(stderr, "wordcount: worker %d: %s: %s%s%s\n", (int)getpid(), what, wharf_strerror(err),
                *why ? ": " : "", why);
        return 1;
}

/* Counts the words that begin in the part, and reads on behind it to the end of the last one. */
static void count_file(struct words *w, int fd, struct part part)
{
        static char buf[256 << 10];
        uint64_t at = part.offset, end = part.offset + part.len < part.offset ? UINT64_MAX : part.offset + part.len;
        bool skip = false; /* the word that began before the part is somebody else's */
        char before;
        if (at > 0)
                skip = pread(fd, &before, 1, (off_t)at - 1) == 1 && words_letter((unsigned char)before);
        while (at < end || words_inside(w)) {
                size_t want = at >= end || end - at > sizeof buf ? sizeof buf : end - at;
                ssize_t n = pread(fd, buf, want, (off_t)at);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        break; /* the end, or a file that cannot be read to the end */
                size_t from = 0, to = (size_t)n;
                while (skip && from < to && (skip = words_letter((unsigned char)buf[from])))
                        from++;
                if (at >= end)
                        for (to = 0; to < (size_t)n && words_letter((unsigned char)buf[to]); to++)
                                ;
                words_text(w, buf + from, to - from);
                if (to < (size_t)n)
                        break;
                at += (size_t)n;
        }
        words_end(w);
}

int worker(void)
{
        wharf_task *task;
        wharf_name coordinator, port;
        int r = wharf_task_open(NULL, &task);
        if (r == 0)
                r = wharf_lookup(task, COORDINATOR, wharf_in_ms(10000), &coordinator);
        if (r < 0)
                return fail("looking for the coordinator", r);
        r = wharf_port_new(task, NULL, &port);
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg hello = {.size = sizeof hello, .id = HELLO, .items = &item, .n_items = 1};
        if (r == 0)
                r = wharf_sendmsg(task, coordinator, &hello, WHARF_FOREVER);
        if (r < 0)
                return fail("introducing myself", r);

        for (;;) {
                struct wharf_msg work = {
                        .size = sizeof work, .flags = WHARF_RECV_IN_PLACE, .items = &item, .cap_items = 1};
                r = wharf_recvmsg(task, port, &work, WHARF_FOREVER);
                if (r == -ENOTCONN)
                        break; /* the coordinator is done with us, or dead */
                if (r < 0)
                        return fail("waiting for work", r);

                struct words words = {0};
                if (work.id == TEXT) {
                        words_text(&words, work.data, work.len_bytes);
                        words_end(&words);
                } else if (work.id == FILE_PART && work.n_items == 1 && item.kind == WHARF_GOT_FD) {
                        struct part part = {0};
                        memcpy(&part, work.data, work.len_bytes < sizeof part ? work.len_bytes : sizeof part);
                        count_file(&words, item.fd, part);
                        close(item.fd);
                }
                size_t len;
                void *packed = words_pack(&words, &len);
                wharf_release(task, &work);
                r = wharf_reply(task, work.reply, packed, len);
                free(packed);
                words_free(&words);
                if (r < 0 && r != -EPIPE)
                        return fail("replying", r);
        }
        wharf_task_close(task);
        return 0;
}
