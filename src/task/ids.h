/*
 * ids - which numbers of users mean somebody.
 *
 * The kernel's word for an id that it cannot show in this user namespace is none, and is the same for all of them.
 */
#ifndef WH_TASK_IDS_H
#define WH_TASK_IDS_H

#include <stdbool.h>
#include <stdint.h>

void wh_ids_look(void); /* before a sandbox may forbid to look */
bool wh_id_known(uint32_t id);
/* Does a number mean the same user to others as it does here? */
bool wh_ids_shared(void);

#endif
