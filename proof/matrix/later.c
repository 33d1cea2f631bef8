#include "later.h"

#include <stdlib.h>
#include <string.h>

unsigned wh_later[LATER_VERSIONS];

static const char *const names[] = {"frame", "lane", "move", "names", "page", "status", "journal"};

__attribute__((constructor)) static void choose(void)
{
        const char *what = getenv("WHARF_PROOF_LATER");
        for (unsigned i = 0; what && i < LATER_VERSIONS; i++)
                wh_later[i] = !strcmp(what, "all") || !strcmp(what, names[i]);
}
