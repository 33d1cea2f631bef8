/*
 * server_impl - what the files of the server share. See server.h for what is always true.
 */
#ifndef WH_WHARFD_SERVER_IMPL_H
#define WH_WHARFD_SERVER_IMPL_H

#include "base/list.h"
#include "task/account.h"
#include "names/proto.h"
#include "wharfd/rules.h"
#include "wharfd/server.h"
#include "wharfd/store.h"

#include <poll.h>

struct wh_port_status;

struct named {
        char name[WHARF_NAME_MAX + 1];
        wharf_name right;                     /* kept (right/kept.h) */
        struct named *next, **at;             /* in its bucket by right, */
        struct named *next_by_id, **at_by_id; /* ... and by the port's id, which many may have */
        uint64_t port_id;                     /* of the port; 0 where it is not known */
        uint64_t serial;                      /* never that of another one, nor of an earlier wharfd */
        const struct wh_port_status *page;    /* NULL where its owner could not make one */
        struct wh_cookie cookie;              /* S2 */
        uint32_t slot;                        /* in the store */
        pid_t pid;
        uid_t uid;
        uint32_t known; /* enum wharf_known: how these two are */
        bool told;      /* to watchers */
        uint64_t full;  /* the last pass in which no more could be introduced to its owner */
        /* Those who looked it up, and whom its owner has not read of: charged to `uid`, and so many at most, */
        uint32_t introduced;
        uid_t *askers;              /* ... by the user who asked, the oldest first; NULL where there are none */
        struct wh_list introducing; /* of s->introducing, where there are some */
};

/* A lookup that waits. */
struct waiter {
        struct wh_list node; /* of s->waiters, the one whose asker was looked at last behind */
        struct wh_list at;   /* of s->awaited[], by its name; or of turn->due, once it is to be answered */
        struct turn *turn;   /* of its user */
        bool due, over;      /* it is to be answered; its time is over, */
        uint32_t place;      /* ... and until then it is there in s->deadlines */
        wharf_name reply;
        uint64_t link;
        uid_t uid;
        int64_t deadline_ns;
        char name[WHARF_NAME_MAX + 1];
};

/* How much of everything each user has. */
struct users {
        struct wh_accounts accounts;
};
#define WH_USERS_ANY UINT32_MAX /* `total` for what was granted once: by the wharfd before us */
/* One more for this user, of `total` for all: 0, -ENOMEM, or -EDQUOT when it has its share. */
int wh_users_take(struct users *u, uid_t uid, enum wh_limit what, uint32_t total);
/* The same of what costs descriptors: of those that wharfd may have there is a share for each kind. */
int wh_users_take_fds(struct wh_server *s, uid_t uid, enum wh_limit what);
void wh_users_give(struct users *u, uid_t uid, enum wh_limit what);
/* `n` descriptors more that the holder keeps for this user, of `total`; what the last wharfd had kept is granted. 0, -EDQUOT, -ENOMEM */
int wh_users_keep(struct users *u, uid_t uid, unsigned n, uint64_t total, bool granted);
void wh_users_keep_no_more(struct users *u, uid_t uid, unsigned n);
/*
 * One more, who asked as `uid`, is introduced to the owner of `e`, whose end of the pair is on its way until that one reads.
 * -EAGAIN: it has not read so many, `uid` has its share of them, or the owner's user has its share of what wharfd may have on
 * its way. Then: who asked was not answered, so perhaps it was not introduced after all.
 */
int wh_users_introduce(struct wh_server *s, struct named *e, uid_t uid);
void wh_users_introduced_not(struct wh_server *s, struct named *e);
/* `e` is no more: as many are charged still, until wh_users_introductions_read(). */
uint32_t wh_users_introduce_done(struct wh_server *s, struct named *e);
void wh_users_introductions_read(struct users *u, uid_t uid, uint32_t n);

/* A task that has handed its page over. It goes with its process, not with its link: a look-up's ends at once. */
struct tasked {
        struct wh_list node; /* of s->tasks, by serial */
        uint64_t serial;
        const struct wh_task_page *page;
        int pidfd;
        pid_t pid;
        uid_t uid;
};

/* A question whose answer is work, and waits for its user's turn. */
struct job {
        struct wh_list node;
        wharf_name reply;
        uint64_t link;
        enum wh_names_op op;
        uint64_t after;
        struct wh_who who;
};
struct turn {
        struct wh_list node; /* of s->turns */
        uid_t uid;
        struct wh_list jobs;
        uint32_t n_jobs;
        struct wh_list due; /* waiters that are to be answered, */
        size_t n_waiters;   /* among all that it has */
        uint32_t n_watches;
        uint32_t left;      /* what its watchers may still be told, */
        uint64_t told_pass; /* ... in that pass */
};

enum {
        WH_REQUEST_ITEMS_MAX = 3,             /* a right, its port's page, its task's page */
        WH_SPARES = WH_REQUEST_ITEMS_MAX + 1, /* and what looks whether all have come (os/receive.c) */
};

#define WH_SHORTAGE_PAUSE_NS ((int64_t)20 * 1000000) /* no memory or descriptors: let others give some back */
enum { WH_AWAITED = 256 };                           /* buckets of names that are waited for: a power of two */
enum { WH_POLLS_OWN = 4 };                           /* its port, the word to stop, its keeper, the ends of tasks */

struct wh_server {
        wharf_task *task;
        wharf_name port;
        uint64_t port_id;
        int listen_fd; /* borrowed */
        int port_fd;   /* borrowed: readable while something is to be received */
        struct wh_rules *rules;
        struct wh_store *store; /* NULL: nothing is kept */
        size_t n_unkept;        /* names and watches that have no slot there */
        bool restore_owed;      /* the last wharfd left more than could be taken up so far */
        int64_t keep_at_ns;     /* when they are put there again, at the earliest */
        struct users users;
        struct named **names; /* S3 */
        struct named **by_serial;
        struct named **by_id;
        struct named **by_right; /* as many buckets as there is room for names: a power of two */
        size_t n_names, room_names;
        struct wh_list
                introducing;   /* names with introductions that are unread, the one that was looked at last behind */
        struct wh_list unread; /* unread.c */
        int64_t unread_at_ns, unread_pause_ns;
        bool ends; /* what it has goes, and stays with whoever keeps it for the next one */
        struct wh_list waiters;
        struct wh_list awaited[WH_AWAITED];
        size_t n_waiters;
        struct waiter **deadlines; /* those whose time is not over: a heap, the earliest first */
        uint32_t n_deadlines, room_deadlines;
        struct wh_list tasks;
        size_t n_tasks;
        struct wh_list *tasks_next;    /* whose life is looked at next */
        int tasks_end;                 /* an epoll of their processes: those that have ended; -1 until there is one */
        uint64_t serial_first, serial; /* of this wharfd; the last one that was given */
        struct wh_list turns;          /* users with jobs, with look-ups that wait, or with watches */
        uint64_t pass;                 /* of wh_server_run(): a batch of requests, and a part for each user */
        uint64_t all_fds, all_fds_at;  /* RLIMIT_NOFILE, and the pass in which it was asked for */
        struct wh_list watches;
        size_t n_watches, n_behind; /* those that are not told everything yet */
        uint32_t confined;          /* what wh_names_state says of it */
        int spare[WH_SPARES];       /* S13 */
        unsigned n_spares;
        unsigned short_tries; /* of what a sender has and there is too little for, in a row */
        bool shortage;        /* of memory or descriptors: try again a little later */
        struct pollfd *polls; /* the server's own, and room for all watches */
        size_t room_polls;
};

/* An entry that has a slot, or none, from now on. */
static inline void wh_server_slot_set(struct wh_server *s, uint32_t *slot, uint32_t to)
{
        *slot = to;
        s->n_unkept += to == WH_STORE_NONE;
}

/* ---- named.c ---- */

/* The index of `name`, or where it would stand, with *ret_found. */
size_t wh_named_find(const struct wh_server *s, const char *name, bool *ret_found);
/* The entry of that name whose port lives; one whose notice is still under way is removed here (S1). */
struct named *wh_named_get(struct wh_server *s, const char *name);
struct named *wh_named_of_right(const struct wh_server *s, wharf_name right); /* NULL: it is none of these */
int wh_named_insert(struct wh_server *s, struct named *e);
void wh_named_remove(struct wh_server *s, size_t i);
void wh_named_free(struct wh_server *s, struct named *e);
bool wh_named_alive(struct wh_server *s, const struct named *e);

/* ---- answers.c ---- */

/* Answers with no more than an errno. 0, or -EPIPE when the asker is gone. */
int wh_answer(struct wh_server *s, wharf_name reply, enum wh_names_op op, int err);
/* The rules say no. Which line of them only who may see the name is told. */
void wh_answer_refused(struct wh_server *s, const struct wharf_msg *m, const struct wh_names_request *req,
                       const struct wh_who *who, uint32_t line);
/* Answers a lookup of that user with a right of its own; with -EAGAIN while its owner has to be told more first (W5). */
void wh_answer_right(struct wh_server *s, wharf_name reply, uid_t uid, struct named *e);
bool wh_is_shortage(int r);

/* ---- requests.c ---- */

/* Who asks, as rules take it. */
struct wh_who wh_request_who(struct wh_server *s, const struct wharf_msg *m);
/* Does what the message asks, and answers it. Items that are kept are taken out of it. */
void wh_request_serve(struct wh_server *s, struct wharf_msg *m);

/* ---- turns.c ---- */

/* Kept until it is over and has nothing for this user. NULL: there is no memory for it. */
struct turn *wh_turn_of(struct wh_server *s, uid_t uid);
/* S14: is nobody there who could read the answer? Then the right to it is dropped. */
bool wh_asker_gone(struct wh_server *s, uint64_t link, wharf_name reply);
/* S10. It is one that waits, and counts as such. */
void wh_job_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m);
/* One part for each user that waits for one, and then requests again. True: there is more to do. */
bool wh_turns_run(struct wh_server *s);
/* The last ones: nobody waits or watches any more. */
void wh_turns_drop(struct wh_server *s);

/* ---- waiters.c ---- */

/* A look-up that waits, of the message that asks. -EDQUOT, -ENOMEM */
int wh_waiter_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m);
void wh_waiter_free(struct wh_server *s, struct waiter *w);
/* The name that they wait for is there. */
void wh_waiters_wake(struct wh_server *s, const struct named *e);
/* Those whose time is over are due; returns when the next one's is. */
int64_t wh_waiters_expire(struct wh_server *s);
/* Answers a few of this user's that are due, by what there is now. Where the name has gone again, it is waited for still. */
void wh_waiters_part(struct wh_server *s, struct turn *t);

/* ---- lists.c ---- */

/* Answers a job with the part that it asks for: of all names, and of who waits for what. */
void wh_part_of_names(struct wh_server *s, const struct job *j);
void wh_part_of_waits(struct wh_server *s, const struct job *j);

/* ---- unread.c ---- */

/* Ends of pairs that were left, while what was sent there has a descriptor and is unread. */
enum { WH_LEFT_MAX = 9 };
struct wh_left {
        unsigned n;
        int sock[WH_LEFT_MAX];
};
/* Lets go of those that were read: how many. */
unsigned wh_left_look(struct wh_left *l);
void wh_left_done(struct wh_left *l);

/*
 * A name or a watch is over; takes its rights, and the second is WHARF_NONE where there is none. Its share is given back, with
 * what was `introduced`, and what it had `left`, when all is read (U1). `left` is NULL for a name.
 */
void wh_unread_keep(struct wh_server *s, enum wh_limit what, uid_t uid, wharf_name kept, wharf_name right,
                    uint32_t introduced, const struct wh_left *left);
/* Looks at some of them, at more where somebody is short of something. */
void wh_unread_look(struct wh_server *s, bool is_short);
/* Looks at them now and then; when to come back for it. */
int64_t wh_unread_again(struct wh_server *s, int64_t now);
void wh_unread_done(struct wh_server *s);

/* ---- tasks.c ---- */

/* The asker's page. Whoever hands over nonsense, or more than its share, is not shown, and that is all. */
void wh_tasks_add(struct wh_server *s, const struct wharf_msg *m, int fd);
/* S7: of those whose processes have ended, some at a time. */
void wh_tasks_ended(struct wh_server *s);
void wh_tasked_free(struct wh_server *s, struct tasked *k);
bool wh_tasked_alive(const struct tasked *k);

/* ---- kept.c ---- */

/* Put an entry into the store, as far as its user has a share of what the holder has room for: its slot, or none. */
uint32_t wh_keep(struct wh_server *s, const struct wh_stored *e, int sock, int page);
/* The entry of this user that had that slot, or none, is no more. */
void wh_keep_no_more(struct wh_server *s, uint32_t slot, uid_t uid);
/* What was not kept, or not handed over, is tried again now and then. When to come back for it. */
int64_t wh_keep_again(struct wh_server *s, int64_t now);
/* What the holder of our descriptors says of what it was given. */
void wh_kept_hear(struct wh_server *s);

/* ---- watchers.c ---- */

/*
 * Add a watch of this process (0: not known) whose events go over `right`, which it takes on success. -EDQUOT, -ENOMEM,
 * -EPROTO, -EPIPE
 */
int wh_watch_add(struct wh_server *s, const char *pattern, const struct wh_cookie *cookie, const struct wh_who *who,
                 pid_t pid, wharf_name right);
/* The same for one that the last wharfd had; takes `sock` in any case. Also -EEXIST */
int wh_watch_restore(struct wh_server *s, const struct wh_stored *e, uint32_t slot, int sock);
/* What has no slot is put into the store, as long as there is room. False: some could not be. */
bool wh_watches_keep(struct wh_server *s);
/* It is kept no more. False: it is none of these; *ret_uid: whose it is. */
bool wh_watch_unkept(struct wh_server *s, uint32_t slot, uid_t *ret_uid);
/* -ENOENT */
int wh_watch_remove(struct wh_server *s, const struct wh_cookie *cookie);
/* The watcher behind this right is gone. False: it is none. */
bool wh_watch_dead(struct wh_server *s, wharf_name right);
/* What happened to a name: WHARF_NAME_IS or WHARF_NAME_GONE. */
void wh_watches_tell(struct wh_server *s, enum wharf_name_what what, const struct named *e);
/* Tell those who are behind what there is room for. True when there is more to tell that needs no waiting. */
bool wh_watches_pump(struct wh_server *s);
/* Is a watch of the process that registered this name behind, and told of things at the same port? (watchers.W5) */
bool wh_watches_behind_at(struct wh_server *s, const struct named *e);
/* Everybody is told everything anew: the rules changed. */
void wh_watches_anew(struct wh_server *s);
/* Fills in what to poll for those who are behind; how many. */
unsigned wh_watches_poll(struct wh_server *s, struct pollfd *ret);
/* Something has happened: those who had no room may have some. */
void wh_watches_look_again(struct wh_server *s);
void wh_watches_done(struct wh_server *s);

#endif
