/*
 * wordcount - what coordinator and workers say to each other.
 *
 *      worker  > coordinator  HELLO  a send right to the worker's port: "this is where I take work"
 *      coordinator  > worker  TEXT   the text itself, in memory that both map: count it where it lies
 *      coordinator  > worker  FILE   an open file, and which part of it
 *      worker  > coordinator         the reply to either: the words of that piece (words_pack())
 *      thread  > coordinator  DONE   nothing is left to do
 */
#ifndef DEMO_DEMO_H
#define DEMO_DEMO_H

#include <stdint.h>

#define COORDINATOR "wordcount" /* the name under which workers look it up */

enum { HELLO = 1, TEXT, FILE_PART, DONE };

/* Words that begin in [offset, offset + len) are to be counted; the last may end behind it. */
struct part {
        uint64_t offset, len;
};

int worker(void);

#endif
