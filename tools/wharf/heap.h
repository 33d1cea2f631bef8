/*
 * heap - what the files of `wharf heap` share.
 */
#ifndef WHARF_TOOL_HEAP_H
#define WHARF_TOOL_HEAP_H

#include "options.h"

#include <wharf/heap.h>

/* Each answers an exit code, after the complaint if there is one. argv[0] is the command's name. */
int heap_trace(const struct verb *v, int argc, char **argv);
int heap_replay(const struct verb *v, int argc, char **argv);

/* Memory for a heap of these options, formatted and opened. 0 or a negative errno. heap_drop() gives all back. */
struct heap_memory {
        wharf_heap *heap;
        void *base;
        uint64_t len_bytes;
};
int heap_make(const struct wharf_heap_opts *opts, struct heap_memory *ret);
void heap_drop(struct heap_memory *m);

#endif
