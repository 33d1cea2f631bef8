/* wharf/wharf.h - all of wharf. */
#ifndef WHARF_WHARF_H
#define WHARF_WHARF_H

#include "direct.h"
#include "memory.h"
#include "message.h"
#include "names.h"
#include "port.h"
#include "spawn.h"
#include "task.h"

#endif
