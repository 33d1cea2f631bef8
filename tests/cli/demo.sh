# The demonstration, on a tree of what a tree may hold: names with spaces, nothing at all, no newline at the end, bytes
# that are no text, one endless word, a file that is cut into parts, links, a FIFO, what cannot be read.
name=demo
. "$(dirname "$0")/lib.sh"
demo=$(cd "$(dirname "$0")/../.." && pwd)/scripts/demo
tree="$dir/a tree"
mkdir -p "$tree/a b" "$dir/nothing"
printf 'Hello hello\nWORLD' >"$tree/a b/one two"
printf 'no newline at the end' >"$tree/a b/three"
: >"$tree/empty"
head -c 100000 /dev/urandom >"$tree/bytes"
head -c 3000000 /dev/zero | tr '\0' x >"$tree/one word"
yes 'the quick brown fox jumps over the lazy dog' | head -c 5000001 >"$tree/large"
printf 'secret' >"$tree/unreadable"
chmod 000 "$tree/unreadable"
ln -s large "$tree/link"
ln -s nowhere "$tree/dangling"
mkfifo "$tree/fifo"
for turn in 1 2; do
        run 0 "$demo" "$build" "$tree"
        same "one worker was killed, and its work done again" 1 "$(printf '%s\n' "$out" | grep -c 'one was killed')"
        same "the counts agree" 1 "$(printf '%s\n' "$out" | grep -c ': the same$')"
done
run 0 "$demo" "$build" "$dir/nothing"
same "nothing to count" 1 "$(printf '%s\n' "$out" | grep -c '^0 files, 0 bytes: 0 words')"
run 1 "$demo" "$build" "$dir/missing"
same "what is missing is said" 1 "$(printf '%s\n' "$err" | grep -c 'missing: No such file or directory')"
finish
