#!/bin/sh
# What others have named is printed in one form: nothing moves the cursor or begins a line, and all of it is UTF-8.
. "$(dirname "$0")/lib.sh"
esc=$(printf '\033')
evil="wharf-cli-$$ ${esc}[2J
posix:forged  1 GiB"
evil_shown="wharf-cli-$$ \\x1b[2J\\x0aposix:forged  1 GiB"
bytes=$(printf 'wharf-cli-%s-\377\\\302\233\342\200\256\303\274' $$)
bytes_shown=$(printf 'wharf-cli-%s-\\xff\\\\\\xc2\\x9b\\xe2\\x80\\xae\303\274' $$)
trap 'rm -f "/dev/shm/$evil" "/dev/shm/$bytes"; for p in $pids; do kill -9 $p 2>/dev/null; done; rm -rf "$dir"' EXIT
: >"/dev/shm/$evil"
: >"/dev/shm/$bytes"

# The bytes below, with those that a terminal obeys: none.
controls() { tr -d '\n' <"$dir/$1" | tr -cd '\000-\037\177' | od -An -c; }

run 0 wharf shm ls "posix:wharf-cli-$$*"
same "segments: one line each, and the heading" 3 "$(wc -l <"$dir/out")"
same "segments: no control character" "" "$(controls out)"
same "a name with an escape and a newline" 1 "$(grep -c -F "posix:$evil_shown " "$dir/out")"
same "a name that is no UTF-8, and one that turns the direction" 1 "$(grep -c -F "posix:$bytes_shown " "$dir/out")"
run 0 wharf shm ls --json "posix:wharf-cli-$$*"
same "JSON is UTF-8" 0 "$(iconv -f UTF-8 -t UTF-8 "$dir/out" >/dev/null 2>&1; echo $?)"
same "JSON has the same form" 2 \
        "$(grep -o -F -e "\"posix:$(printf '%s' "$evil_shown" | sed 's/\\/\\\\/g')\"" \
                -e "\"posix:$(printf '%s' "$bytes_shown" | sed 's/\\/\\\\/g')\"" "$dir/out" | wc -l)"
same "undone, it is what it was" "posix:$evil" \
        "$(printf '%b' "$(wharf shm ls "posix:wharf-cli-$$ *" | sed -n 's/^\(.*GiB\)  .*/\1/p' | sed 's/\\x\(..\)/\\0x\1/g' |
                sed 's/\\0x1b/\\033/g; s/\\0x0a/\\012/g')")"
run 0 wharf shm stat "posix:$evil"
same "stat" "name       posix:$evil_shown" "$(head -n 1 "$dir/out")"
run 3 wharf shm stat "posix:$evil-not"
same "an error" "wharf shm: posix:$evil_shown-not: there is none of that name" "$err"
run 2 wharf "frob${esc}[2J"
same "an argument" "wharf: there is no verb 'frob\\x1b[2J'; \`wharf help\` lists them" "$err"
run 2 wharfd --linger "${esc}x"
same "wharfd" "wharfd: --linger: '\\x1bx' is no duration; 500ms and 2s are" "$err"
rm "/dev/shm/$evil" "/dev/shm/$bytes"

# A program that calls itself what a terminal obeys, and a domain.
WHARF_DOMAIN="$dir/do${esc}main"
export WHARF_DOMAIN
run 0 wharf ls
same "a domain" "wharf ls: $dir/do\\x1bmain: no name is registered" "$err"
run 1 sh -c 'wharf doctor | grep -c "$(printf "\033")"'
WHARF_DOMAIN=$dir/domain
own="a${esc}[2J
b"
cp "$build/wharf" "$dir/bin/$own"
start "$own" recv box
await served box
run 0 wharf ps
same "a program: no control character" "" "$(controls out)"
same "a program" 1 "$(grep -c -F ' a\x1b[2J\x0ab ' "$dir/out")"
run 0 wharf ps --json
same "a program in JSON" 1 "$(grep -c -F '"command":"a\\x1b[2J\\x0ab"' "$dir/out")"

# Messages are printed as they are, but for people at a terminal.
printf '%s' "x${esc}[2Jy" >"$dir/message"
script -qec "wharf recv -n 1 shown" /dev/null </dev/null >"$dir/shown" &
pids="$pids $!"
await served shown
run 0 sh -c "wharf send shown <'$dir/message'"
wait $!
same "a message on a terminal" 'x\x1b[2Jy' "$(tr -d '\r' <"$dir/shown")"
wharf recv -n 1 as-it-is >"$dir/shown" &
pids="$pids $!"
await served as-it-is
run 0 sh -c "wharf send as-it-is <'$dir/message'"
wait $!
same "a message elsewhere" "$(cat "$dir/message")" "$(cat "$dir/shown")"
finish
