/*
 * wharf/wharf.h - all of wharf, but for wharf/mach.h, which brings Mach's names with it: include that by itself.
 */
#ifndef WHARF_WHARF_H
#define WHARF_WHARF_H

#include "api.h"
#include "buffer.h"
#include "direct.h"
#include "heap.h"
#include "memory.h"
#include "message.h"
#include "names.h"
#include "port.h"
#include "segment.h"
#include "spawn.h"
#include "sync.h"
#include "task.h"

#endif
