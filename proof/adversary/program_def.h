/*
 * program_def - what moves there are: how often each is made, and what its arguments are called and may be. One table, that
 * making, writing and reading go by.
 */
#ifndef ADVERSARY_PROGRAM_DEF_H
#define ADVERSARY_PROGRAM_DEF_H

#include "program.h"

#include "wire.h"

enum arg_type {
        ARG_NONE,
        ARG_REG,
        ARG_END,     /* mostly in focus */
        ARG_LANE,    /* one that has a lane, if any does */
        ARG_OVER,    /* mostly a connection */
        ARG_REQUEST, /* mostly that to wharfd */
        ARG_WORD,    /* of `words` */
        ARG_RARE,    /* of `words`, mostly the first */
        ARG_TYPE,    /* of a frame */
        ARG_RECORD,
        ARG_NUMBER, /* one of `numbers` */
};

struct arg_def {
        const char *name;
        enum arg_type type;
        const char *const *words;
        const int *numbers; /* ends with -1; often the first. Of words: which, as often as they are here */
};

struct move_def {
        const char *name;
        unsigned weight, gentle; /* how often it is made, and in a gentle program */
        struct arg_def arg[PROGRAM_ARGS_MAX];
};
extern const struct move_def program_defs[MOVE_OPS];

/* Of frames and records, by number; NULL where there is none of that number. */
extern const char *const program_types[WH_FRAME_TYPES + 1];
extern const char *const program_records[WH_REC_KINDS + 1];

int program_count_words(const char *const *words);
/* What an argument is where nothing is said of it. */
int program_plain_value(const struct arg_def *d);

#endif
