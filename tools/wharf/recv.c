/*
 * wharf recv - serve a name and print the messages that come.
 */
#include "common.h"
#include "print.h"

#include <getopt.h>
#include <errno.h>
#include <json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern const struct verb verb_recv;

enum format { LINES, RAW, JSON };

static bool is_text(const uint8_t *s, size_t len)
{
        uint32_t c;
        for (size_t i = 0, n; i < len; i += n)
                if (!(n = utf8_next(s + i, len - i, &c)))
                        return false;
        return true;
}

static char *base64(const uint8_t *s, size_t len)
{
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        char *ret = malloc((len + 2) / 3 * 4 + 1), *at = ret;
        for (size_t i = 0; ret && i < len; i += 3) {
                uint32_t w = (uint32_t)s[i] << 16 | (i + 1 < len ? s[i + 1] : 0u) << 8 | (i + 2 < len ? s[i + 2] : 0u);
                *at++ = digits[w >> 18];
                *at++ = digits[w >> 12 & 63];
                *at++ = i + 1 < len ? digits[w >> 6 & 63] : '=';
                *at++ = i + 2 < len ? digits[w & 63] : '=';
        }
        if (ret)
                *at = 0;
        return ret;
}

/* Who gave the sender its right: null where nobody did. */
static json_object *introducer(const struct wharf_introducer *by)
{
        if (by->known == WHARF_KNOWN_NOBODY)
                return NULL;
        json_object *o = json_object_new_object();
        json_object_object_add(o, "pid", json_object_new_int64(by->pid));
        json_object_object_add(o, "uid", by->uid == (uid_t)-1 ? NULL : json_object_new_int64(by->uid));
        json_object_object_add(o, "known", json_object_new_string(known_word(by->known)));
        return o;
}

/* 0 or a negative errno. */
static int print_json(const struct wharf_msg *m)
{
        const struct wharf_sender *from = &m->sender;
        json_object *o = json_object_new_object();
        json_object_object_add(o, "pid", json_object_new_int64(from->pid));
        json_object_object_add(o, "uid", from->uid == (uid_t)-1 ? NULL : json_object_new_int64(from->uid));
        json_object_object_add(o, "known", json_object_new_string(known_word(from->known)));
        json_object_object_add(o, "introducer", introducer(&from->introducer));
        if (from->known == WHARF_KNOWN_TOLD) {
                json_object_object_add(o, "told_pid", json_object_new_int64(from->told_pid));
                json_object_object_add(o, "told_uid", json_object_new_int64(from->told_uid));
        }
        json_object_object_add(o, "bytes", json_object_new_uint64(m->len_bytes));
        if (m->len_bytes <= INT32_MAX / 2 && is_text(m->data, m->len_bytes)) {
                json_object_object_add(o, "text", json_object_new_string_len(m->data, (int)m->len_bytes));
        } else {
                char *text = base64(m->data, m->len_bytes);
                if (!text) {
                        json_object_put(o);
                        return -ENOMEM;
                }
                json_object_object_add(o, "base64", json_object_new_string(text));
                free(text);
        }
        const char *line = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        int r = line ? output_write(line, strlen(line)) : -ENOMEM;
        json_object_put(o);
        return r < 0 ? r : output_write("\n", 1);
}

/* Piece by piece, cut between characters: escaped, it takes up to four times as much, and no size is ever shown as it came. */
static int write_escaped(const char *text, size_t len)
{
        enum { PIECE = 64 << 10, CHARACTER_MAX = 4 };
        int r = 0;
        for (size_t n; r == 0 && len; text += n, len -= n) {
                n = len < PIECE ? len : PIECE;
                for (unsigned back = 1; n < len && back < CHARACTER_MAX && ((unsigned char)text[n] & 0xc0) == 0x80;
                     back++)
                        n--;
                char *safe = text_escape(text, n, TEXT_LINES);
                r = safe ? output_write(safe, strlen(safe)) : -ENOMEM;
                free(safe);
        }
        return r;
}

static int print_lines(const struct wharf_msg *m)
{
        size_t len = m->len_bytes;
        bool open = !len || ((const char *)m->data)[len - 1] != '\n';
        int r = isatty(STDOUT_FILENO) ? write_escaped(m->data, len) : output_write(m->data, len);
        return r == 0 && open ? output_write("\n", 1) : r;
}

static int print(const struct verb *v, const char *name, const struct wharf_msg *m, enum format f)
{
        int r = f == JSON ? print_json(m) : f == LINES ? print_lines(m) : output_write(m->data, m->len_bytes);
        if (r == 0)
                return EXIT_DONE;
        return verb_fail(v, EXIT_REFUSED, "%s: a message of %llu bytes from process %d is lost: standard output: %s",
                         name, (unsigned long long)m->len_bytes, (int)m->sender.pid, standard_error(-r));
}

/*
 * One message, while keeping the name alive across a restart of wharfd. 0 or a negative errno; *ret_code is then not
 * EXIT_DONE where it has been said what is wrong.
 */
static int receive(const struct verb *v, wharf_task *task, wharf_name port, struct wharf_msg *m, int64_t deadline_ns,
                   bool *lost, int *ret_code)
{
        /* Standard output: nothing is taken that cannot be printed any more, and who cannot print does not wait. */
        struct pollfd p[3] = {{.events = POLLIN}, {.events = POLLIN}, {.fd = STDOUT_FILENO}};
        int r = wharf_port_fd(task, port, &p[0].fd);
        if (r == 0)
                r = wharf_names_fd(task, &p[1].fd);
        while (r == 0) {
                if ((*ret_code = verb_output_ready(v)) != EXIT_DONE)
                        return -EIO;
                r = wharf_recvmsg(task, port, m, 0);
                if (r != -EAGAIN && r != -ETIMEDOUT)
                        break;
                int64_t now = wharf_now_ns(), left_ns = deadline_ns - now;
                if (left_ns <= 0)
                        return -ETIMEDOUT;
                int ms = deadline_ns == WHARF_FOREVER    ? -1
                         : left_ns > 3600 * 1000000000ll ? 3600000
                                                         : (int)(left_ns / 1000000) + 1;
                if (*lost && (ms < 0 || ms > VERB_RENEW_MS))
                        ms = VERB_RENEW_MS;
                r = 0;
                int n = poll(p, 3, ms);
                if ((n == 0 && *lost) || (n > 0 && p[1].revents))
                        verb_renew(v, task, lost);
        }
        return r;
}

static int run(const struct verb *v, int argc, char **argv)
{
        int64_t timeout_ns = -1;
        uint64_t size_limit = SIZE_LIMIT_DEFAULT, count = UINT64_MAX;
        uint32_t capacity = 0;
        bool raw = false, json = false;
        const struct option_spec options[] = {
                {"count", 'n', OPTION_COUNT, &count, "COUNT", "end after so many messages", 1, INT64_MAX},
                {"timeout", 't', OPTION_DURATION, &timeout_ns, "DURATION", "end when no message comes for so long"},
                {"raw", 0, OPTION_FLAG, &raw, NULL, "print the bytes as they are, without newlines between"},
                {"json", 0, OPTION_FLAG, &json, NULL, "print a JSON object a line"},
                {"capacity", 0, OPTION_CAPACITY, &capacity, "N",
                 "1 to 65536 a sender, zero or unbounded; default 1024"},
                {"size-limit", 0, OPTION_SIZE, &size_limit, "SIZE", "refuse larger messages; default 1G"},
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        if (optind != argc - 1)
                return verb_usage(v);
        const char *name = argv[optind];
        enum format format = json ? JSON : raw ? RAW : LINES;

        wharf_task *task;
        int r = verb_output_begin(v); /* before anybody sends anything here */
        if (r == EXIT_DONE)
                r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        struct wharf_port_opts o = {.size = sizeof o,
                                    .flags = WHARF_PORT_STAYS,
                                    .capacity_records = capacity,
                                    .payload_bytes_max = size_limit};
        wharf_name port;
        int e = wharf_port_new(task, &o, &port);
        if (e < 0)
                r = verb_error(v, name, e);
        else
                r = verb_register(v, task, name, port);
        bool lost = false;
        while (r == EXIT_DONE && count) {
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC | WHARF_RECV_NO_ITEMS};
                e = receive(v, task, port, &m, deadline_in(timeout_ns), &lost, &r);
                if (r != EXIT_DONE)
                        break;
                if (e == -ETIMEDOUT)
                        r = verb_fail(v, EXIT_TIMED_OUT, "%s: no message came in time", name);
                else if (e < 0)
                        r = verb_error(v, name, e);
                if (e < 0)
                        break;
                if (!m.notice) {
                        r = print(v, name, &m, format);
                        if (m.reply != WHARF_NONE)
                                wharf_drop(task, m.reply); /* we have nothing to say; the caller learns that */
                        count--;
                }
                wharf_release(task, &m);
        }
        wharf_task_close(task);
        return r;
}

const struct verb verb_recv = {
        .name = "recv",
        .args = "[-n COUNT] [--timeout DURATION] [--raw | --json] [--capacity N] [--size-limit SIZE] NAME",
        .summary = "serve a name and print the messages that come",
        .run = run};
