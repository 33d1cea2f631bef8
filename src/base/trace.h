/*
 * trace - where an error first appeared. wh_trace(-ENOMEM) returns its argument; with WHARF_TRACE=1 in the environment
 * it also writes file, line and the error to standard error. Library code prints nothing else, ever.
 */
#ifndef WH_BASE_TRACE_H
#define WH_BASE_TRACE_H

int wh_trace_at(const char *file, int line, int err);
#define wh_trace(err) wh_trace_at(__FILE__, __LINE__, (err))

#endif
