/*
 * spawn - how a program is given rights at its start.
 *
 * What is given travels as the items of one message (message/carrier.h), whose payload is their names, each ended by a 0.
 * The variable WHARF_RIGHTS says PID:FD:INODE: for which process (0: for whoever asks first), on which descriptor, and
 * which socket that is, so that a descriptor of that number which is something else by now is not taken for it.
 *
 * Always true:
 *   S1  A process takes its carrier at most once: the first task that asks holds everything, and the socket is closed.
 *   S2  What was given is moved only when the program runs (exec has happened); until then it can be taken back.
 */
#ifndef WH_PATTERN_SPAWN_H
#define WH_PATTERN_SPAWN_H

#include "message/carrier.h"
#include "wharf/spawn.h"

#include <assert.h>

#define VARIABLE "WHARF_RIGHTS"

enum {
        ID_PLAIN = 0, /* the id of the message: what its last item is */
        ID_TALK = 1,  /* the owner's end of a link for the port WHARF_SELF */
        NAMES_MAX = WHARF_ITEMS_MAX * (WHARF_GIVEN_NAME_MAX + 1),
};
static_assert((int)NAMES_MAX <= (int)WH_COLD_MAX, "the names are one frame");

#endif
