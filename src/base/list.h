/*
 * list - doubly linked, intrusive, circular. The head is a node of its own, so nothing is special at the ends. A node
 * that is in no list points at itself: removing it twice is harmless, and wh_list_linked() is false.
 */
#ifndef WH_BASE_LIST_H
#define WH_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct wh_list {
        struct wh_list *next, *prev;
};

#define wh_container(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void wh_list_init(struct wh_list *l)
{
        l->next = l->prev = l;
}

static inline bool wh_list_linked(const struct wh_list *l)
{
        return l->next != l;
}

static inline bool wh_list_empty(const struct wh_list *l)
{
        return l->next == l;
}

static inline void wh_list_insert_before(struct wh_list *at, struct wh_list *node)
{
        node->prev = at->prev;
        node->next = at;
        at->prev->next = node;
        at->prev = node;
}

static inline void wh_list_push_back(struct wh_list *head, struct wh_list *node)
{
        wh_list_insert_before(head, node);
}

static inline void wh_list_push_front(struct wh_list *head, struct wh_list *node)
{
        wh_list_insert_before(head->next, node);
}

static inline void wh_list_remove(struct wh_list *node)
{
        node->prev->next = node->next;
        node->next->prev = node->prev;
        wh_list_init(node);
}

/* NULL when empty. */
static inline struct wh_list *wh_list_pop_front(struct wh_list *head)
{
        struct wh_list *n = head->next;
        if (n == head)
                return NULL;
        wh_list_remove(n);
        return n;
}

#define wh_list_for(pos, head) for (struct wh_list *pos = (head)->next; pos != (head); pos = pos->next)
#define wh_list_for_safe(pos, head) \
        for (struct wh_list *pos = (head)->next, *wh_n_ = pos->next; pos != (head); pos = wh_n_, wh_n_ = pos->next)

#endif
