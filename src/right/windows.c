/*
 * The caller's side of direct replies (direct.h): the memory that they are written into.
 */
#include "link/direct.h"
#include "right/held.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

enum { SPARE_BYTES_MAX = 64 << 20 };

int wh_window_take(struct wh_link *l, uint64_t len, struct wh_window **ret)
{
        struct wh_window *w = wh_held(l)->window_spare;
        if (w && w->map_len >= len) {
                wh_held(l)->window_spare = NULL;
        } else {
                w = wh_os_calloc(1, sizeof *w);
                if (!w)
                        return wh_trace(-ENOMEM);
                w->map_len = wh_round_up(len, WH_PAGE);
                int r = wh_os_mmap(NULL, w->map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
                                   &w->map);
                if (r < 0) {
                        free(w);
                        return wh_trace(r);
                }
        }
        w->len = len;
        w->told = false;
        *ret = w;
        return 0;
}

static void window_free(struct wh_window *w)
{
        wh_os_munmap(w->map, w->map_len);
        free(w);
}

/* The larger one is kept. */
static void window_keep(struct wh_link *l, struct wh_window *w)
{
        struct wh_window *spare = wh_held(l)->window_spare;
        if (w->map_len > SPARE_BYTES_MAX || (spare && spare->map_len >= w->map_len)) {
                window_free(w);
                return;
        }
        if (spare)
                window_free(spare);
        wh_held(l)->window_spare = w;
}

void wh_window_give(struct wh_link *l, void *map, uint64_t map_len)
{
        struct wh_window *w = map_len <= SPARE_BYTES_MAX ? wh_os_calloc(1, sizeof *w) : NULL;
        if (!w) {
                wh_os_munmap(map, map_len);
                return;
        }
        w->map = map;
        w->map_len = map_len;
        window_keep(l, w);
}

void wh_window_done(struct wh_link *l, struct wh_window *w, bool settled)
{
        void *at;
        if (!w)
                return;
        if (settled || !w->told || l->in.sock_ended) {
                window_keep(l, w);
                return;
        }
        /* In one step, so that nothing else is ever mapped there. Where that fails the memory stays as it is. */
        (void)wh_os_mmap(w->map, w->map_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0,
                         &at);
        w->next = wh_held(l)->windows_aside;
        wh_held(l)->windows_aside = w;
}

void wh_window_settle(struct wh_link *l, uint32_t call)
{
        for (struct wh_window **at = &wh_held(l)->windows_aside; *at; at = &(*at)->next) {
                struct wh_window *w = *at;
                if (w->call != call)
                        continue;
                *at = w->next;
                window_free(w);
                return;
        }
}

void wh_windows_done(struct wh_link *l)
{
        struct wh_held *h = wh_held(l);
        if (h->window_spare)
                window_free(h->window_spare);
        h->window_spare = NULL;
        while (h->windows_aside) {
                struct wh_window *w = h->windows_aside;
                h->windows_aside = w->next;
                if (l->in.sock_ended)
                        window_free(w);
                else
                        free(w); /* D4: the addresses stay */
        }
}

const char *wh_window_why(int err)
{
        switch (err) {
        case -EPERM:
                return "not answered directly: the kernel does not let the server write to this process's memory "
                       "(Yama, a "
                       "process that is not dumpable, or a sandbox)";
        case -EACCES:
                return "not answered directly: the server is another user";
        case -ESRCH:
                return "not answered directly: the kernel does not tell the server which process this is (another pid "
                       "namespace)";
        case -ENOSYS:
                return "not answered directly: the server's kernel or sandbox has no process_vm_writev()";
        case -ENOPROTOOPT:
                return "not answered directly: the server's port was made without WHARF_PORT_DIRECT";
        case -EMSGSIZE:
                return "not answered directly: the reply is larger than the memory that the caller set apart";
        case -EINVAL:
                return "not answered directly: the caller did not ask for that";
        case -EOPNOTSUPP:
                return "not answered directly: this link has no shared memory (yet)";
        case 0:
                return "not answered directly: the server has answered in another way";
        default:
                return "not answered directly: the server could not write it";
        }
}
