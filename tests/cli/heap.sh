# wharf heap: the classic run as the textbook draws it, what tells the policies apart, and a recorded program replayed.
traces=$(cd "$(dirname "$0")/../../bench/traces" && pwd)
. "$(dirname "$0")/says.sh"

says 0 '$W heap trace --policy buddy --size 128 --demo' <<'END'
buddy, 128 bytes in units of 8

           0               32              64              96              128
start      |                              128                              |
A 16       |###A###|  16   |      32       |              64               |
B 32       |###A###|  16   |#######B#######|              64               |
C 8        |###A###|#C#| 8 |#######B#######|              64               |
free A     |  16   |#C#| 8 |#######B#######|              64               |
free C     |      32       |#######B#######|              64               |
D 24       |#####D 24######|#######B#######|              64               |
E 20       |#####D 24######|#######B#######|#####E 20######|      32       |
F 18       |#####D 24######|#######B#######|#####E 20######|#####F 18######|
free D     |      32       |#######B#######|#####E 20######|#####F 18######|
G 12       |#G 12##|  16   |#######B#######|#####E 20######|#####F 18######|
H 14       |#G 12##|#H 14##|#######B#######|#####E 20######|#####F 18######|
I 24       |#G 12##|#H 14##|#######B#######|#####E 20######|#####F 18######|  no room

used 128 (asked for 96, internal fragmentation 25 %), free 0 (largest hole 0, external fragmentation 0 %)
peak 128, refused 1, looked at 14 holes
frames in use 1111111111111111, free blocks none
END
says 0 '$W heap trace --policy first --size 128 --demo' <<'END'
first, 128 bytes in units of 1

           0               32              64              96              128
start      |                              128                              |
A 16       |###A###|                          112                          |
B 32       |###A###|#######B#######|                  80                   |
C 8        |###A###|#######B#######|#C#|                72                 |
free A     |  16   |#######B#######|#C#|                72                 |
free C     |  16   |#######B#######|                  80                   |
D 24       |  16   |#######B#######|#####D#####|            56             |
E 20       |  16   |#######B#######|#####D#####|####E####|       36        |
F 18       |  16   |#######B#######|#####D#####|####E####|###F####|   18   |
free D     |  16   |#######B#######|    24     |####E####|###F####|   18   |
G 12       |##G##|4|#######B#######|    24     |####E####|###F####|   18   |
H 14       |##G##|4|#######B#######|##H###| 10 |####E####|###F####|   18   |
I 24       |##G##|4|#######B#######|##H###| 10 |####E####|###F####|   18   |  no room

used 96 (asked for 96, internal fragmentation 0 %), free 32 (largest hole 18, external fragmentation 44 %)
peak 96, refused 1, looked at 15 holes
END
says 0 '$W heap trace --policy next --size 128 --demo' <<'END'
next, 128 bytes in units of 1

           0               32              64              96              128
start      |                              128                              |
A 16       |###A###|                          112                          |
B 32       |###A###|#######B#######|                  80                   |
C 8        |###A###|#######B#######|#C#|                72                 |
free A     |  16   |#######B#######|#C#|                72                 |
free C     |  16   |#######B#######|                  80                   |
D 24       |  16   |#######B#######|#####D#####|            56             |
E 20       |  16   |#######B#######|#####D#####|####E####|       36        |
F 18       |  16   |#######B#######|#####D#####|####E####|###F####|   18   |
free D     |  16   |#######B#######|    24     |####E####|###F####|   18   |
G 12       |  16   |#######B#######|    24     |####E####|###F####|##G##|6 |
H 14       |##H###||#######B#######|    24     |####E####|###F####|##G##|6 |
I 24       |##H###||#######B#######|#####I#####|####E####|###F####|##G##|6 |

used 120 (asked for 120, internal fragmentation 0 %), free 8 (largest hole 6, external fragmentation 25 %)
peak 120, refused 0, looked at 11 holes
END
says 0 '$W heap trace --policy best --size 128 --demo' <<'END'
best, 128 bytes in units of 1

           0               32              64              96              128
start      |                              128                              |
A 16       |###A###|                          112                          |
B 32       |###A###|#######B#######|                  80                   |
C 8        |###A###|#######B#######|#C#|                72                 |
free A     |  16   |#######B#######|#C#|                72                 |
free C     |  16   |#######B#######|                  80                   |
D 24       |  16   |#######B#######|#####D#####|            56             |
E 20       |  16   |#######B#######|#####D#####|####E####|       36        |
F 18       |  16   |#######B#######|#####D#####|####E####|###F####|   18   |
free D     |  16   |#######B#######|    24     |####E####|###F####|   18   |
G 12       |##G##|4|#######B#######|    24     |####E####|###F####|   18   |
H 14       |##G##|4|#######B#######|    24     |####E####|###F####|##H###|4|
I 24       |##G##|4|#######B#######|#####I#####|####E####|###F####|##H###|4|

used 120 (asked for 120, internal fragmentation 0 %), free 8 (largest hole 4, external fragmentation 50 %)
peak 120, refused 0, looked at 9 holes
END
says 0 '$W heap trace --policy worst --size 128 --demo' <<'END'
worst, 128 bytes in units of 1

           0               32              64              96              128
start      |                              128                              |
A 16       |###A###|                          112                          |
B 32       |###A###|#######B#######|                  80                   |
C 8        |###A###|#######B#######|#C#|                72                 |
free A     |  16   |#######B#######|#C#|                72                 |
free C     |  16   |#######B#######|                  80                   |
D 24       |  16   |#######B#######|#####D#####|            56             |
E 20       |  16   |#######B#######|#####D#####|####E####|       36        |
F 18       |  16   |#######B#######|#####D#####|####E####|###F####|   18   |
free D     |  16   |#######B#######|    24     |####E####|###F####|   18   |
G 12       |  16   |#######B#######|##G##| 12  |####E####|###F####|   18   |
H 14       |  16   |#######B#######|##G##| 12  |####E####|###F####|##H###|4|
I 24       |  16   |#######B#######|##G##| 12  |####E####|###F####|##H###|4|  no room

used 96 (asked for 96, internal fragmentation 0 %), free 32 (largest hole 16, external fragmentation 50 %)
peak 96, refused 1, looked at 9 holes
END
says 0 '$W heap trace --policy fixed --size 128 --demo' <<'END'
fixed, 128 bytes in units of 1

           0               32              64              96              128
start      | 8 | 8 |  16   |      32       |              64               |
A 16       | 8 | 8 |###A###|      32       |              64               |
B 32       | 8 | 8 |###A###|#######B#######|              64               |
C 8        |#C#| 8 |###A###|#######B#######|              64               |
free A     |#C#| 8 |  16   |#######B#######|              64               |
free C     | 8 | 8 |  16   |#######B#######|              64               |
D 24       | 8 | 8 |  16   |#######B#######|#############D 24##############|
E 20       | 8 | 8 |  16   |#######B#######|#############D 24##############|  no room
F 18       | 8 | 8 |  16   |#######B#######|#############D 24##############|  no room
free D     | 8 | 8 |  16   |#######B#######|              64               |
G 12       | 8 | 8 |#G 12##|#######B#######|              64               |
H 14       | 8 | 8 |#G 12##|#######B#######|#############H 14##############|
I 24       | 8 | 8 |#G 12##|#######B#######|#############H 14##############|  no room

used 112 (asked for 58, internal fragmentation 48 %), free 16 (largest hole 8, external fragmentation 50 %)
peak 112, refused 3, looked at 6 holes
END

# A script of one's own: from a file, from standard input, with other sizes, and as JSON.
printf '%s\n' '# two' 'one 100' 'two 1000' '' 'one exits' >script
says 0 '$W heap trace script --size 2K --unit 64' <<'END'
buddy, 2048 bytes in units of 64

           0               512             1024            1536            2048
start      |                             2048                              |
one 100    |one|128|  256  |      512      |             1024              |
two 1000   |one|128|  256  |      512      |###########two 1000############|
free one   |             1024              |###########two 1000############|

used 1024 (asked for 1000, internal fragmentation 2 %), free 1024 (largest hole 1024, external fragmentation 0 %)
peak 1152, refused 0, looked at 6 holes
frames in use 00000000000000001111111111111111, free blocks 1 of 1024
END
says 0 'printf "a 5\nfree a\nfree a\nb 9\nc 8\n" | $W heap trace --policy fixed --partitions 8,8,16 --json' <<'END'
{"policy":"fixed","bytes":32,"unit_bytes":1,"steps":[{"step":"start","blocks":[{"start":0,"bytes":8},{"start":8,"bytes":8},{"start":16,"bytes":16}],"free_bytes":32,"largest_free_bytes":16},{"step":"a 5","blocks":[{"start":0,"bytes":8,"name":"a","requested_bytes":5},{"start":8,"bytes":8},{"start":16,"bytes":16}],"free_bytes":24,"largest_free_bytes":16},{"step":"free a","blocks":[{"start":0,"bytes":8},{"start":8,"bytes":8},{"start":16,"bytes":16}],"free_bytes":32,"largest_free_bytes":16},{"step":"free a","refused":"had none","blocks":[{"start":0,"bytes":8},{"start":8,"bytes":8},{"start":16,"bytes":16}],"free_bytes":32,"largest_free_bytes":16},{"step":"b 9","blocks":[{"start":0,"bytes":8},{"start":8,"bytes":8},{"start":16,"bytes":16,"name":"b","requested_bytes":9}],"free_bytes":16,"largest_free_bytes":8},{"step":"c 8","blocks":[{"start":0,"bytes":8,"name":"c","requested_bytes":8},{"start":8,"bytes":8},{"start":16,"bytes":16,"name":"b","requested_bytes":9}],"free_bytes":8,"largest_free_bytes":8}]}
END
says 0 '$W heap trace --demo --svg picture.svg >/dev/null; head -c 4 picture.svg; grep -c "<rect" picture.svg' <<'END'
<svg72
END

# Refusals.
says 2 '$W heap trace --policy magic' <<'END'
wharf heap trace: --policy: 'magic' is no policy: buddy, first, next, best, worst, fixed
END
says 2 'printf "A 16\nA 8\n" | $W heap trace' <<'END'
wharf heap: line 2: 'A' has memory already; free it first
END
says 2 'echo free B | $W heap trace' <<'END'
wharf heap: line 1: nothing was asked for by 'B'
END
says 2 'echo A B C | $W heap trace' <<'END'
wharf heap: line 1: a step is `NAME SIZE` or `free NAME`
END
says 2 'echo A -5 | $W heap trace' <<'END'
wharf heap: line 1: '-5' is no size above 0
END
says 3 '$W heap trace no-such-file' <<'END'
wharf heap: no-such-file: No such file or directory
END
says 2 '$W heap trace --unit 3 --demo' <<'END'
wharf heap: no such heap: buddy in units of 3 bytes: Invalid argument
END
says 2 '$W heap trace --size 0' <<'END'
wharf heap trace: --size: '0' is no size between 1 and 64M
END
says 2 '$W heap replay' <<'END'
usage: wharf heap replay TRACE [--size N] [--runs N] [--json] [--svg FILE] [--color WHEN]
END
says 1 '$W heap replay script' <<'END'
wharf heap: script: it is no trace, or only part of one
END
says 3 '$W heap replay none' <<'END'
wharf heap: none: No such file or directory
END

# Replays: figures that are the same everywhere. Speed is not.
same() {
        tr '{' '\n' | sed -n 's/.*"policy":"\([a-z]*\)".*"refused":\([0-9]*\),.*/\1 \2/p'
}
says 0 '$W heap replay $traces/git.trace.gz --runs 1 --json --svg plot.svg | same; grep -c polyline plot.svg' <<'END'
buddy 0
first 0
next 0
best 0
worst 0
fixed 0
13
END
says 0 '$W heap replay $traces/git.trace.gz --runs 1 | sed -n "1s/.*: //p;3p" | tr -s " " | cut -c 1-70' <<'END'
14609 requests (7021 allocate, 6748 free, 840 resize), at most 1.9 MiB
POLICY NS/REQUEST (MIN-MAX) HEAP PEAK USED PEAK FOOTPRINT FRAGMENTED R
END

# A program recorded now: its trace is whole, and what it did not free is seen.
recorder=$B/tools/recorder/libwharf-record.so
if [ -e "$recorder" ] && ! ldd "$W" | grep -q asan; then
        says 0 'WHARF_RECORD=now.%p LD_PRELOAD=$recorder ls / >/dev/null; ls now.* | wc -l; $W heap replay now.* --runs 1 | grep -c POLICY' <<'END'
1
1
END
        says 0 'WHARF_RECORD=taken LD_PRELOAD=$recorder ls / >/dev/null; cksum <taken >a; WHARF_RECORD=taken LD_PRELOAD=$recorder ls / >/dev/null; cksum <taken >b; cmp a b' </dev/null
fi
verdict
