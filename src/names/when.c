#include "names/when.h"

#include "os/os.h"
#include "wharf/names.h"

/* For whoever gave no deadline. wharfd never waits for anybody, so one that is silent so long will not speak. */
#define ALL_NS ((int64_t)WHARF_NAMES_START_MS * 1000000)     /* all of a call, with the start of a wharfd */
#define ANSWER_NS ((int64_t)WHARF_NAMES_ANSWER_MS * 1000000) /* one answer of a wharfd that is there */
#define PASSED_NS ((int64_t)100 * 1000000)                   /* for one answer, where the deadline has passed already */

struct when wh_when(int64_t deadline_ns)
{
        int64_t now = wh_os_now_ns();
        if (deadline_ns == 0)
                return (struct when){.until_ns = now + ALL_NS, .short_ns = now + ANSWER_NS};
        int64_t until_ns = deadline_ns > now ? deadline_ns : now + PASSED_NS;
        return (struct when){.until_ns = until_ns, .short_ns = until_ns, .chosen = true};
}

void wh_when_answered(struct when *w)
{
        if (!w->chosen)
                *w = wh_when(0);
}

int64_t wh_when_answer(const struct when *w)
{
        int64_t now = wh_os_now_ns();
        return !w->chosen && w->until_ns > now + ANSWER_NS ? now + ANSWER_NS : w->until_ns;
}

bool wh_when_pause(const struct when *w)
{
        int64_t now = wh_os_now_ns(), next = now + WH_WHEN_RETRY_NS;
        if (now >= w->until_ns)
                return false;
        wh_os_poll(NULL, 0, next < w->until_ns ? next : w->until_ns);
        return true;
}

bool wh_when_short_pause(const struct when *w)
{
        const struct when until = {.until_ns = w->short_ns};
        return wh_when_pause(&until);
}
