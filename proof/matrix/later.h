/*
 * later - the library as a later version of wharf would be, for the matrix: put in front of its sources.
 *
 * What may grow is longer. Of the versions in front of what others read, the one that $WHARF_PROOF_LATER names is the
 * next, at run time; `all` names all of them.
 */
#ifndef MATRIX_LATER_H
#define MATRIX_LATER_H

enum { LATER_FRAME, LATER_LANE, LATER_MOVE, LATER_NAMES, LATER_PAGE, LATER_STATUS, LATER_JOURNAL, LATER_VERSIONS };
extern unsigned wh_later[LATER_VERSIONS]; /* 0 or 1 */

#define WH_LATER_BYTES 24
#define WH_FRAME_VERSION (3u + wh_later[LATER_FRAME])
#define WH_LANE_VERSION (3u + wh_later[LATER_LANE])
#define MOVE_VERSION (3u + wh_later[LATER_MOVE])
#define WH_NAMES_VERSION (3u + wh_later[LATER_NAMES])
#define WH_TASK_PAGE_VERSION (1u + wh_later[LATER_PAGE])
#define WH_STATUS_VERSION (1u + wh_later[LATER_STATUS])
#define JOURNAL_VERSION (2u + wh_later[LATER_JOURNAL])

#endif
