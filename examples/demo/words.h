/*
 * words - how often each word occurs. A word is a longest run of ASCII letters, in lower case:
 *
 *      tr A-Z a-z | tr -cs a-z '\n'
 */
#ifndef DEMO_WORDS_H
#define DEMO_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct words {
        struct word **slot; /* open addressing; n_slots is a power of two, or 0 */
        size_t n_slots, n_words;
        uint64_t total;
        char *part; /* a word that was cut by the end of the last piece of text */
        size_t part_len, part_room;
};

struct word {
        uint64_t count, hash;
        size_t len;
        char text[];
};

void words_free(struct words *w);
void words_add(struct words *w, const char *text, size_t len, uint64_t count);

/* Count the text in pieces of any size; a word may be cut anywhere. words_end() says that there is no more of it. */
void words_text(struct words *w, const void *text, size_t len);
void words_end(struct words *w);
/* Is the text in the middle of a word? */
static inline bool words_inside(const struct words *w)
{
        return w->part_len > 0;
}
bool words_letter(unsigned char c);

/* All of it in one block of memory, to be sent; free() it. And the other way round: false when that is malformed. */
void *words_pack(const struct words *w, size_t *ret_len);
bool words_unpack(struct words *w, const void *packed, size_t len);
/* Like malloc() and realloc(), but there is no way to count without memory: says so and exits. */
void *need(void *memory);

#endif
