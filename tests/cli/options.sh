#!/bin/sh
# --help explains every option, and the manual has the same ones: no more, no fewer.
. "$(dirname "$0")/lib.sh"
man=$(dirname "$0")/../../docs/man

# The options in the table of --help, and those of the list in a page.
helped() { "$@" --help | sed -n 's/^  \(-.,\|   \) --\([a-z-]*\) .*/\2/p'; }
described() { sed -n '/^\.It /{s/Fl Fl /--/g; s/Fl -/--/g; p;}' "$man/$1" | grep -o -e '--[a-z][a-z-]*' | sed 's/^--//' | sort -u; }
# In a usage line: everything in it is explained below.
usage() { "$@" --help | sed '/^$/,$d' | grep -o -e '--[a-z][a-z-]*' | sed 's/^--//' | sort -u; }
explained() { "$@" --help | awk '/^  (-.,|   ) --/ && substr($0, 30) ~ /^[^ ]/' | wc -l; }

verbs=$(wharf help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
same "verbs" "ls ps send recv call serve run shm heap bench doctor" "$(echo $verbs)"
for v in $verbs; do
        case $v in
        shm | heap)
                all=$(for c in $(wharf $v --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p'); do helped wharf $v "$c"; done)
                ;;
        *)
                all=$(helped wharf $v)
                same "wharf $v: every option has a text" "$(echo "$all" | wc -l)" "$(explained wharf $v)"
                same "wharf $v: the usage line" "" "$(usage wharf $v | while read -r o; do
                        echo "$all" | grep -q -x -e "$o" || echo "$o"
                done)"
                ;;
        esac
        same "wharf-$v(1) has the options of --help" "$(echo "$all" | grep -v -x help | sort -u)" "$(described wharf-$v.1)"
done
same "wharf(1) has those of the command" "$(helped wharf | sort)" "$(described wharf.1)"
same "wharfd(8) has those of wharfd" "$(helped wharfd | sort)" "$(described wharfd.8)"
same "wharf VERB --help is wharf help VERB" "$(wharf call --help)" "$(wharf help call)"
finish
