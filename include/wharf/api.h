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

/*
 * Deadlines are points in time: CLOCK_MONOTONIC nanoseconds; wharf_in_ms() makes one. They mean the same to every call:
 *
 *      0              do not wait. A call that would have to is -EAGAIN (for memory of a heap: -ENOMEM)
 *      WHARF_FOREVER  no limit
 *      any other      wait until then. A deadline that has passed, as every negative one has, is no error: the call
 *                     does what it can at once, and is -ETIMEDOUT where it would have to wait (for a name that nobody
 *                     has registered: -ENOENT)
 */
#define WHARF_FOREVER INT64_MAX

#endif
