# valgrind finds nothing to say about a program that uses the library, nor about one that it spawns.
# usage: sh valgrind.sh TOUR WHARFD
set -u
if ! command -v valgrind >/dev/null; then
        echo "  skipped valgrind: all of it (needs valgrind)"
        exit 0
fi
dir=$(mktemp -d "${TMPDIR:-/tmp}/wharf-valgrind-XXXXXX")
export WHARF_DOMAIN="$dir/domain" WHARFD="$2"
"$2" --domain "$WHARF_DOMAIN" --foreground --linger forever 2>/dev/null &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$dir"' EXIT
n=0
until [ -S "$WHARF_DOMAIN/bootstrap" ] || [ $n -gt 600 ]; do
        n=$((n + 1))
        sleep 0.05
done
# Once as it is, too: a valgrind that does not know all system calls goes other ways.
"$1" || exit 1
if timeout 100 valgrind -q --error-exitcode=9 --trace-children=yes "$1"; then
        echo "valgrind: 1 passed, 0 failed"
else
        echo "valgrind: 0 passed, 1 failed: exit code $?"
        exit 1
fi
