/*
 * program - what the adversary does in one case, as data: a world and a list of moves. It is made from a seed, written
 * and read as text, and made shorter by leaving moves out.
 *
 *      world descriptors=0 limits=0 domain=0 receive=0
 *      connect r0 to=v                         a register has two ends, a and b; a connection has an a only
 *      pair r2
 *      adopt over=r0a give=r2a
 *      message on=r2b id=1 call=7              what is not said is the plainest
 *
 * Always true: a program means the same whatever is left out of it. Moves name registers, never positions; one whose
 * register is empty does nothing. So a shorter program is a program, and the same seed is the same program.
 */
#ifndef ADVERSARY_PROGRAM_H
#define ADVERSARY_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
        PROGRAM_MOVES_MAX = 64,
        PROGRAM_ARGS_MAX = 12,
        PROGRAM_REGISTERS = 12,
        PROGRAM_SERVICES = 2,
        PROGRAM_PEERS = 3,
};

enum move_op {
        MOVE_CONNECT,
        MOVE_PAIR,
        MOVE_CLOSE,
        MOVE_OPTION,
        MOVE_ADOPT,
        MOVE_MESSAGE,
        MOVE_FRAME,
        MOVE_ATTACH,
        MOVE_RECORDS,
        MOVE_FLOOD,
        MOVE_READ,
        MOVE_SNATCH,
        MOVE_DIRECT,
        MOVE_CARRIER,
        MOVE_REQUEST,
        MOVE_REPEAT,
        MOVE_SETTLE,
        MOVE_STOP,
        MOVE_DIE,
        MOVE_BIND,
        MOVE_ASK,
        MOVE_LARGE,
        MOVE_OPS
};

/* Names at wharfd; what it is asked for, as it stands in a request. */
extern const char *const program_names[];
extern const int program_requests[];
enum { NAME_APP, NAME_OF_V, NAME_OF_ROOT, NAME_NOWHERE, NAMES };

/* Values of the arguments that are words. */
enum program_peer { PEER_V, PEER_R, PEER_W };
enum program_option {
        OPTION_PASSCRED,
        OPTION_PASSPIDFD,
        OPTION_TIMESTAMP,
        OPTION_PEEK_OFF,
        OPTION_RCVBUF,
        OPTION_SNDBUF,
        OPTION_LINGER,
        OPTION_SHUT_RD,
        OPTION_SHUT_WR,
        OPTION_PASSSEC,
        OPTION_PASSRIGHTS,
        OPTIONS
};
enum program_body { BODY_WORDS, BODY_ZERO, BODY_FRAME, BODY_NOISE, BODIES };
enum program_item { ITEM_NONE, ITEM_END, ITEM_WHAT, ITEM_ONCE, ITEM_MEMORY, ITEMS };
enum program_what {
        WHAT_NULL,
        WHAT_LINGER,
        WHAT_FULL_PIPE,
        WHAT_MEMORY,
        WHAT_MEMORY_UNSEALED,
        WHAT_LISTENER,
        WHAT_STREAM,
        WHAT_EVENT,
        WHAT_FOLDER,
        WHATS
};
enum { RECEIVE_IN_PLACE = 1, RECEIVE_FROM_SET = 2, RECEIVES = 4 };
enum program_who { WHO_NOBODY, WHO_OWN, WHO_INIT, WHO_V, WHO_R, WHOS };
enum program_where { WHERE_V, WHERE_R, WHERE_OWN, WHERE_NOWHERE };

struct move {
        enum move_op op;
        int arg[PROGRAM_ARGS_MAX];
};

/* Which arguments there are, by op. In the order of arg[]. */
enum { CONNECT_REG, CONNECT_TO };
enum { PAIR_REG };
enum { CLOSE_END };
enum { OPTION_END, OPTION_WHICH, OPTION_VALUE };
enum { ADOPT_OVER, ADOPT_GIVE };
enum {
        MESSAGE_ON,
        MESSAGE_AS,
        MESSAGE_SEQ,
        MESSAGE_LIE,
        MESSAGE_ID,
        MESSAGE_CALL,
        MESSAGE_BODY,
        MESSAGE_LEN,
        MESSAGE_ITEM,
        MESSAGE_GIVE,
        MESSAGE_WHAT,
        MESSAGE_COUNT
};
enum { FRAME_ON, FRAME_AS, FRAME_TYPE, FRAME_LIE, FRAME_ARG, FRAME_LEN, FRAME_GIVE, FRAME_WHAT, FRAME_COUNT };
enum { BIND_ON, BIND_AS, BIND_INTO, BIND_WHO };
enum { ATTACH_ON, ATTACH_LINES, ATTACH_SEQ };
enum { RECORDS_ON, RECORDS_KIND, RECORDS_COUNT, RECORDS_CALL, RECORDS_BODY, RECORDS_LEN };
enum { FLOOD_ON, FLOOD_AS, FLOOD_KIND, FLOOD_FRAME, FLOOD_LEN, FLOOD_LINES, FLOOD_LINKS, FLOOD_MS };
enum { READ_ON, READ_INTO };
enum { SNATCH_ON, SNATCH_INTO };
enum { DIRECT_ON, DIRECT_WINDOW, DIRECT_WHERE, DIRECT_LEN, DIRECT_CALL };
enum { CARRIER_ON, CARRIER_GIVE, CARRIER_WHO };
enum { REQUEST_ON, REQUEST_OP, REQUEST_NAME, REQUEST_CALL, REQUEST_GIVE, REQUEST_PAGE, REQUEST_WAIT, REQUEST_AFTER };
enum { ASK_ON, ASK_OP, ASK_NAME, ASK_PAGE, ASK_UNREAD, ASK_LINKS, ASK_MS };
enum { LARGE_ON, LARGE_LEN, LARGE_TIMES, LARGE_LINKS };
enum { REPEAT_MOVES, REPEAT_TIMES };
enum { STOP_MS };

struct program {
        uint64_t seed;
        int descriptors; /* of each honest party: 0 for 1024 */
        int limits;      /* 1: small limits at the ports */
        int domain;      /* 1: there is a wharfd, which all may use */
        int receive;     /* RECEIVE_* */
        unsigned n_moves;
        struct move move[PROGRAM_MOVES_MAX];
};

/* An end is a register and which of its two. */
static inline int program_end(int reg, int which)
{
        return reg * 2 + which;
}

/* `gentle`: only moves that an honest stranger makes too, for the test of the engine itself. */
void program_make(struct program *ret, uint64_t seed, bool gentle);
void program_write(const struct program *p, FILE *to);
/* 0, or the number of the line that is none. */
int program_read(struct program *ret, FILE *from);
void program_move_write(const struct move *m, FILE *to);
/* Makes an argument the plainest that it can be; false when it is so already, or names a register. */
bool program_arg_plain(struct move *m, unsigned at);
const char *program_move_name(enum move_op op);

uint64_t program_random(uint64_t *state);
uint64_t program_hash(uint64_t h, const void *bytes, size_t len);

#endif
