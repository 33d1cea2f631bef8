#!/bin/sh
# The manual: every verb has a page, every public function too, and mandoc has nothing to say.
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

# Nothing that a header says is lost in the pages: every error below ERRORS (or RETURN VALUE), every word somewhere.
# scripts/man3 asks for the same of itself while it writes them; this reads the pages as they are on disk.
run 0 python3 - "$build/docs/man3" "$include"/*.h <<'END'
import re, sys
pages, headers = sys.argv[1], sys.argv[2:]
n = 0
for header in headers:
    parts = re.split(r"^(/\*.*?\*/)", open(header).read(), flags=re.M | re.S)
    for comment, code in zip(parts[1::2], parts[2::2]):
        names = re.findall(r"^WHARF_API\b[^;{]*?\b(wharf_\w+)\(", code, re.M)
        if not names or comment.startswith("/* ----"):
            continue
        page = open("%s/%s.3" % (pages, names[0])).read()
        page = page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")
        lost = set(re.findall(r"\w+", comment)) - set(re.findall(r"\w+", page)) - {"Errors", "Answers"}
        listed = re.search(r"Errors:(.*?)(?=\n \* \S|\*/)", comment, re.S)
        below = page.partition(".SH ERRORS")[2]
        lost |= {e for e in re.findall(r"-E[A-Z0-9]{2,}", listed[1] if listed else "") if not re.search(e + r"\b", below)}
        if ".SH RETURN VALUE" not in page:
            lost.add("RETURN VALUE")
        for e in sorted(lost):
            print("%s: %s is lost" % (names[0], e))
        n += 1
assert n > 100, n
END
same "what pages have lost" "" "$out$err"
for t in $(sed -n -e 's/^struct \(wharf_[a-z_]*\) {$/\1/p' -e 's/^} \(wharf_[a-z_]*\);$/\1/p' "$include"/*.h | sort -u); do
        [ -s "$build/docs/man3/$t.3" ] || same "a page for $t" "$t.3" ""
done
same "an example that is compiled" 1 "$(grep -c 'SH EXAMPLES' "$build/docs/man3/wharf_sendmsg.3")"

# What a list looks like that was taken for running text is refused, and so is an error that stands in a sentence.
sed 's/^ \* *\(are lost\. Rights in them\)/ * \1/' "$include/task.h" >"$dir/task.h"
run 1 "$docs/../../scripts/man3" 0 "$dir/man3" /dev/null "$dir/task.h"
same "a list that was reflowed is refused" 1 "$(echo "$err" | grep -c 'a list goes on in the first column: are lost')"
sed 's/-EINVAL      0 bytes/& -ENOSPC  none/' "$include/memory.h" >"$dir/memory.h"
run 1 "$docs/../../scripts/man3" 0 "$dir/man3" /dev/null "$dir/memory.h"
same "an error in a sentence is refused" 1 "$(echo "$err" | grep -c 'an error of a list stands in the middle')"

if command -v mandoc >/dev/null; then
        cd "$build/docs" || exit 1 # where .so finds man3/
        same "mandoc has nothing to say of what is written" "" "$(mandoc -T lint -W warning "$docs"/*.[158] 2>&1 | head -n 5)"
        same "mandoc has nothing to say of what is generated" "" \
                "$(mandoc -T lint -W style man3/*.3 2>&1 | grep -v -e '\.so is fragile' | head -n 5)"
        same "what a page looks like" "int wharf_lookup(wharf_task *task, const char *name, int64_t deadline_ns, wharf_name *ret);" \
                "$(mandoc -T ascii man3/wharf_lookup.3 | sed "s/.$(printf '\b')//g" | grep -o 'int wharf_lookup(.*;')"
else
        echo "  skipped cli-man: lint (needs mandoc)"
fi
finish
