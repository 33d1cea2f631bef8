#include "words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *need(void *memory)
{
        if (memory)
                return memory;
        fprintf(stderr, "wordcount: out of memory\n");
        exit(1);
}

/* 0 for what is no letter, otherwise the letter in lower case. */
static unsigned char lower(unsigned char c)
{
        c |= 0x20;
        return c >= 'a' && c <= 'z' ? c : 0;
}

bool words_letter(unsigned char c)
{
        return lower(c) != 0;
}

void words_free(struct words *w)
{
        for (size_t i = 0; i < w->n_slots; i++)
                free(w->slot[i]);
        free(w->slot);
        free(w->part);
        *w = (struct words){0};
}

/* FNV-1a (Fowler, Noll, Vo). */
static uint64_t hash_of(const char *text, size_t len)
{
        uint64_t h = 0xcbf29ce484222325u;
        for (size_t i = 0; i < len; i++)
                h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
        return h;
}

static struct word **slot_of(const struct words *w, const char *text, size_t len, uint64_t hash)
{
        size_t i = hash & (w->n_slots - 1);
        for (struct word *k; (k = w->slot[i]); i = (i + 1) & (w->n_slots - 1))
                if (k->hash == hash && k->len == len && !memcmp(k->text, text, len))
                        break;
        return &w->slot[i];
}

static void grow(struct words *w)
{
        struct words old = *w;
        w->n_slots = old.n_slots ? old.n_slots * 2 : 1024;
        w->slot = need(calloc(w->n_slots, sizeof(struct word *)));
        for (size_t i = 0; i < old.n_slots; i++)
                if (old.slot[i])
                        *slot_of(w, old.slot[i]->text, old.slot[i]->len, old.slot[i]->hash) = old.slot[i];
        free(old.slot);
}

void words_add(struct words *w, const char *text, size_t len, uint64_t count)
{
        if (w->n_words * 2 >= w->n_slots)
                grow(w);
        uint64_t hash = hash_of(text, len);
        struct word **at = slot_of(w, text, len, hash);
        if (!*at) {
                *at = need(malloc(sizeof **at + len));
                **at = (struct word){.hash = hash, .len = len};
                memcpy((*at)->text, text, len);
                w->n_words++;
        }
        (*at)->count += count;
        w->total += count;
}

void words_text(struct words *w, const void *text, size_t len)
{
        const unsigned char *p = text;
        for (size_t i = 0; i < len; i++) {
                unsigned char c = lower(p[i]);
                if (!c) {
                        words_end(w);
                        continue;
                }
                if (w->part_len == w->part_room)
                        w->part = need(realloc(w->part, w->part_room = w->part_room * 2 + 64));
                w->part[w->part_len++] = (char)c;
        }
}

void words_end(struct words *w)
{
        if (w->part_len)
                words_add(w, w->part, w->part_len, 1);
        w->part_len = 0;
}

/* Each word: its count and its length, eight bytes each, then its letters. */
void *words_pack(const struct words *w, size_t *ret_len)
{
        size_t len = 0;
        for (size_t i = 0; i < w->n_slots; i++)
                len += w->slot[i] ? 16 + w->slot[i]->len : 0;
        char *packed = need(malloc(len + 1)), *p = packed;
        for (size_t i = 0; i < w->n_slots; i++) {
                const struct word *k = w->slot[i];
                if (!k)
                        continue;
                uint64_t head[2] = {k->count, k->len};
                memcpy(p, head, sizeof head);
                memcpy(p + sizeof head, k->text, k->len);
                p += sizeof head + k->len;
        }
        *ret_len = len;
        return packed;
}

bool words_unpack(struct words *w, const void *packed, size_t len)
{
        const char *p = packed;
        while (len) {
                uint64_t head[2];
                if (len < sizeof head)
                        return false;
                memcpy(head, p, sizeof head);
                p += sizeof head;
                len -= sizeof head;
                if (head[1] == 0 || head[1] > len)
                        return false;
                words_add(w, p, head[1], head[0]);
                p += head[1];
                len -= head[1];
        }
        return true;
}
