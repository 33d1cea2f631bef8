#!/bin/sh
# The manual: every verb has a page, every public function too, and mandoc sees no error.
. "$(dirname "$0")/lib.sh"
docs=$(cd "$(dirname "$0")/../../docs/man" && pwd)
include=$(cd "$docs/../../include/wharf" && pwd)

for v in ls ps send recv call serve shm heap bench doctor; do
        same "a page for $v" 1 "$(ls "$docs" | grep -c -x "wharf-$v.1")"
        usage=$(wharf $v --help | head -n 1 | grep -o -e '--[a-z][a-z-]*' | sort -u)
        for o in $usage; do
                same "$v: $o is described" yes "$(grep -q -e "Fl Fl ${o#--}" -e "${o#--}" "$docs/wharf-$v.1" && echo yes)"
        done
done
functions=$(sed -n 's/^WHARF_API [^;(]*[ *]\(wharf_[a-z0-9_]*\)(.*/\1/p' "$include"/*.h | sort -u)
same "functions were found" yes "$([ "$(echo "$functions" | wc -l)" -gt 40 ] && echo yes)"
for f in $functions libwharf; do
        [ -s "$build/docs/man3/$f.3" ] || same "a page for $f" "$f.3" ""
done
passed=$((passed + 1))
if command -v mandoc >/dev/null; then
        cd "$build/docs" || exit 1 # where .so finds man3/
        same "mandoc sees no error" "" \
                "$(mandoc -T lint -W error "$docs"/*.[18] man3/*.3 2>&1 | grep -v -e '\.so is fragile' | head -n 5)"
        same "what a page looks like" "int wharf_lookup(wharf_task *task, const char *name, int64_t deadline_ns, wharf_name *ret);" \
                "$(mandoc -T ascii man3/wharf_lookup.3 | col -b | grep -o 'int wharf_lookup(.*;')"
else
        echo "  skipped cli-man: lint (needs mandoc)"
fi
finish
