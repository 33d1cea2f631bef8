/*
 * program_text - a program as text, written and read.
 */
#include "program_def.h"

#include <stdlib.h>
#include <string.h>

/* Has it a meaning, and is it not what it would be anyway? */
static bool is_said(const struct move *m, unsigned at)
{
        const struct arg_def *d = &program_defs[m->op].arg[at];
        const int item = m->op == MOVE_MESSAGE ? m->arg[MESSAGE_ITEM] : -1;
        if (item >= 0 && at == MESSAGE_GIVE)
                return item == ITEM_END || item == ITEM_ONCE;
        if (item >= 0 && (at == MESSAGE_WHAT || at == MESSAGE_COUNT))
                return item == ITEM_WHAT;
        if (m->op == MOVE_FRAME && (at == FRAME_WHAT || at == FRAME_GIVE))
                return m->arg[FRAME_COUNT] > 0;
        return (d->type != ARG_RARE && d->type != ARG_NUMBER) || m->arg[at] != program_plain_value(d);
}

void program_move_write(const struct move *m, FILE *to)
{
        fprintf(to, "%s", program_defs[m->op].name);
        for (unsigned i = 0; i < PROGRAM_ARGS_MAX && program_defs[m->op].arg[i].type; i++) {
                const struct arg_def *d = &program_defs[m->op].arg[i];
                const int v = m->arg[i];
                if (!is_said(m, i))
                        continue;
                fprintf(to, *d->name ? " %s=" : " ", d->name);
                switch (d->type) {
                case ARG_REG:
                        fprintf(to, "r%d", v);
                        break;
                case ARG_END:
                case ARG_LANE:
                case ARG_OVER:
                case ARG_REQUEST:
                        fprintf(to, "r%d%c", v / 2, "ab"[v % 2]);
                        break;
                case ARG_WORD:
                case ARG_RARE:
                        fprintf(to, "%s", d->words[v]);
                        break;
                case ARG_TYPE:
                        if (program_types[v])
                                fprintf(to, "%s", program_types[v]);
                        else
                                fprintf(to, "%d", v);
                        break;
                case ARG_RECORD:
                        fprintf(to, "%s", program_records[v]);
                        break;
                default:
                        fprintf(to, "%d", v);
                }
        }
        fprintf(to, "\n");
}

void program_write(const struct program *p, FILE *to)
{
        fprintf(to, "world descriptors=%d limits=%d domain=%d receive=%d\n", p->descriptors, p->limits, p->domain,
                p->receive);
        for (unsigned i = 0; i < p->n_moves; i++)
                program_move_write(&p->move[i], to);
}

static int word_at(const char *const *words, int n, const char *word)
{
        for (int i = 0; i < n; i++)
                if (words[i] && !strcmp(words[i], word))
                        return i;
        char *end;
        long v = strtol(word, &end, 10);
        return *word && !*end && v >= 0 && v < n ? (int)v : -1;
}

/* The value of an argument from its text, or -1. */
static int read_arg(const struct arg_def *d, const char *text)
{
        char *end;
        long v;
        switch (d->type) {
        case ARG_REG:
        case ARG_END:
        case ARG_LANE:
        case ARG_OVER:
        case ARG_REQUEST:
                if (*text++ != 'r')
                        return -1;
                v = strtol(text, &end, 10);
                if (end == text || v < 0 || v >= PROGRAM_REGISTERS)
                        return -1;
                if (d->type == ARG_REG)
                        return *end ? -1 : (int)v;
                return (*end == 'a' || *end == 'b') && !end[1] ? program_end((int)v, *end == 'b') : -1;
        case ARG_WORD:
        case ARG_RARE:
                return word_at(d->words, program_count_words(d->words), text);
        case ARG_TYPE:
                return word_at(program_types, WH_FRAME_TYPES, text);
        case ARG_RECORD:
                return word_at(program_records, WH_REC_KINDS, text);
        default:
                v = strtol(text, &end, 10);
                return *text && !*end && v >= 0 && v <= 1 << 30 ? (int)v : -1;
        }
}

/* Arguments may be left out, and are then the plainest; their order does not matter. */
static bool read_move(struct move *m, char *words)
{
        char *word = strtok(words, " \t\n");
        int op = 0;
        while (op < MOVE_OPS && strcmp(program_defs[op].name, word))
                op++;
        if (op == MOVE_OPS)
                return false;
        *m = (struct move){.op = (enum move_op)op};
        for (unsigned i = 0; i < PROGRAM_ARGS_MAX && program_defs[op].arg[i].type; i++)
                m->arg[i] = program_plain_value(&program_defs[op].arg[i]);
        while ((word = strtok(NULL, " \t\n"))) {
                char *value = strchr(word, '=');
                const char *name = value ? word : "";
                if (value)
                        *value++ = 0;
                else
                        value = word;
                unsigned i = 0;
                while (i < PROGRAM_ARGS_MAX && program_defs[op].arg[i].type &&
                       strcmp(program_defs[op].arg[i].name, name))
                        i++;
                if (i == PROGRAM_ARGS_MAX || !program_defs[op].arg[i].type ||
                    (m->arg[i] = read_arg(&program_defs[op].arg[i], value)) < 0)
                        return false;
        }
        return true;
}

int program_read(struct program *ret, FILE *from)
{
        char line[512];
        *ret = (struct program){0};
        for (int n = 1; fgets(line, sizeof line, from); n++) {
                if (line[strspn(line, " \t\n")] == 0 || *line == '#')
                        continue;
                if (sscanf(line, "world descriptors=%d limits=%d domain=%d receive=%d", &ret->descriptors, &ret->limits,
                           &ret->domain, &ret->receive) >= 2)
                        continue;
                if (ret->n_moves == PROGRAM_MOVES_MAX || !read_move(&ret->move[ret->n_moves], line))
                        return n;
                ret->n_moves++;
        }
        return 0;
}
