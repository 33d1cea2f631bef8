/*
 * heir - a port that is dropped goes over a send right to somebody else, where its owner has said so.
 */
#ifndef WH_MESSAGE_HEIR_H
#define WH_MESSAGE_HEIR_H

#include "task/task.h"

/* Send the port to its heir, if it has one. False when there is none or it cannot go: then it is closed like any other. */
bool wh_port_inherited(wharf_task *t, struct wh_object *port, wharf_name name);

#endif
