/* Segments of every kind, and opening and using buffers: the world refuses. */
#include "memory.h"

static struct memory_state *st(struct proof *p)
{
        return p->state;
}

/* The operation's name is the kind of segment. */
static void setup(struct proof *p)
{
        memory_map(p);
        if (!strcmp(p->op->name, "file"))
                snprintf(st(p)->name, sizeof st(p)->name, "file:/tmp/wharf-proof-%d", (int)getpid());
        else if (!strcmp(p->op->name, "sysv"))
                snprintf(st(p)->name, sizeof st(p)->name, "sysv:%#x", 0x70000000u + (unsigned)getpid());
        else if (!strcmp(p->op->name, "anon"))
                strcpy(st(p)->name, "anon:proof");
}

static int create(struct proof *p)
{
        wharf_segment *seg = NULL;
        int r = wharf_segment_create(st(p)->name, MEMORY_SEGMENT, NULL, &seg);
        PROOF_CHECK(p, (r == 0) == (seg != NULL));
        st(p)->segment = seg;
        return r;
}

static void not_there(struct proof *p)
{
        wharf_segment *seg;
        if (strcmp(p->op->name, "anon"))
                PROOF_EQ(p, wharf_segment_open(st(p)->name, WHARF_SEGMENT_READ, &seg), -ENOENT);
}

static void setup_made(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, create(p), 0);
        st(p)->segment = wharf_segment_close(st(p)->segment);
}

static int open_it(struct proof *p)
{
        return wharf_segment_open(st(p)->name, WHARF_SEGMENT_WRITE, &st(p)->segment);
}

static void setup_open(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, create(p), 0);
}

static int attach(struct proof *p)
{
        return wharf_segment_attach(st(p)->segment, WHARF_SEGMENT_WRITE, NULL);
}

static void setup_attached(struct proof *p)
{
        setup_open(p);
        PROOF_EQ(p, attach(p), 0);
        memset(wharf_segment_at(st(p)->segment, 0, MEMORY_SEGMENT), 7, MEMORY_SEGMENT);
}

static int grow(struct proof *p)
{
        return wharf_segment_resize(st(p)->segment, 4 * MEMORY_SEGMENT);
}

static void as_before(struct proof *p)
{
        PROOF_EQ(p, wharf_segment_bytes(st(p)->segment), MEMORY_SEGMENT);
        const uint8_t *at = wharf_segment_at(st(p)->segment, 0, MEMORY_SEGMENT);
        PROOF_CHECK(p, at);
        for (int i = 0; i < MEMORY_SEGMENT; i++)
                PROOF_EQ(p, at[i], 7);
}

static void teardown(struct proof *p)
{
        const bool anonymous = !strncmp(st(p)->name, "anon", 4);
        st(p)->segment = wharf_segment_close(st(p)->segment);
        if (!anonymous)
                PROOF_EQ(p, wharf_segment_remove(st(p)->name), 0);
        munmap(st(p)->shared, sizeof *st(p)->shared);
}

static void setup_formatted(struct proof *p)
{
        memory_map(p);
        memory_format(p);
}

static int open_buffer(struct proof *p)
{
        return wharf_buffer_open(st(p)->shared->buffer, MEMORY_BUFFER, &st(p)->buffer);
}

static const int errors[] = {-EACCES, 0}; /* EPERM of mmap() says that it is sealed against writing */
#define SEGMENT_OP .state_bytes = sizeof(struct memory_state), .teardown = teardown
static const struct proof_op ops[] = {
        {.name = "posix", .setup = setup, .victim = create, .unchanged = not_there, SEGMENT_OP},
        {.name = "file", .setup = setup, .victim = create, .unchanged = not_there, SEGMENT_OP},
        {.name = "sysv", .setup = setup, .victim = create, .unchanged = not_there, SEGMENT_OP},
        {.name = "anon", .setup = setup, .victim = create, SEGMENT_OP},
        {.name = "open", .setup = setup_made, .victim = open_it, SEGMENT_OP},
        {.name = "attach", .setup = setup_open, .victim = attach, .errors = errors, SEGMENT_OP},
        {.name = "resize", .setup = setup_attached, .victim = grow, .unchanged = as_before, SEGMENT_OP},
#define BUFFER_OP(kind)                                                                                     \
        {                                                                                                   \
                .name = kind, .setup = setup_formatted, .victim = open_buffer, .teardown = memory_teardown, \
                .state_bytes = sizeof(struct memory_state)                                                  \
        }
        BUFFER_OP("bounded"),
        BUFFER_OP("unbounded"),
        BUFFER_OP("circular"),
        {0},
};
PROOF_FAIL("memory", ops)
