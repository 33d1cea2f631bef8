/*
 * wharf/api.h - what every public header needs: how symbols are exported, and C++.
 */
#ifndef WHARF_API_H
#define WHARF_API_H

/*
 * Inside the library a public function is protected: the library calls its own, also where a process holds a second
 * copy (another version, or one linked into a plug-in), whose functions of the same names came first.
 */
#ifdef WHARF_BUILDING
#define WHARF_API __attribute__((visibility("protected")))
#else
#define WHARF_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
#define WHARF_BEGIN extern "C" {
#define WHARF_END }
#else
#define WHARF_BEGIN
#define WHARF_END
#endif

/* A deadline that never comes. Deadlines are CLOCK_MONOTONIC nanoseconds; 0 means do not wait. */
#define WHARF_FOREVER INT64_MAX

#endif
