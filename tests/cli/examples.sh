# The programs of examples/ check themselves: each ends 0 when what it shows is so. Twice, for nothing is to be left over.
name=examples
. "$(dirname "$0")/lib.sh"
ex=$build/examples
for turn in 1 2; do
        for e in notices gone events revoke direct-asymmetric direct-symmetric rights call-reply contents mach epoll sandboxed-child sets full \
                rendezvous later noone capacity; do
                run 0 "$ex/$e"
                same "$e says nothing on standard error" "" "$err"
        done
done
run 0 "$ex/order"
same "what order prints" "of A: 12345
of B: 12345" "$out"
run 0 "$ex/contents"
same "what contents prints" "kind 1: 8 bytes, 0 items
kind 2: 18 bytes, 0 items
kind 3: 0 bytes, 2 items" "$out"
run 0 "$ex/direct-symmetric"
same "what direct-symmetric prints" "received RRRQQQ; and from R after that: no sender is left, and none can come (ENOTCONN)" "$out"
run 0 "$ex/direct-asymmetric"
same "what direct-asymmetric prints" "from Q: \"Q here\"
from R: \"R here\"
from S: \"S here\"" "$(echo "$out" | sort)"
run 0 "$ex/call-reply"
same "what call-reply prints" "hello: HELLO
die: the server died before it replied (ECONNRESET)" "$out"
run 0 "$ex/epoll"
same "what epoll prints" "500 messages and 500 bytes of the pipe" "$out"
run 0 "$ex/sandboxed-child"
same "what sandboxed-child prints" "the child says: I cannot open a file
the child answered: served
it returned 0" "$out"
run 0 "$ex/sets"
same "what sets prints" "the even ones make 6, the odd ones 9" "$out"
run 0 "$ex/rendezvous"
same "what rendezvous prints" "received: there you are
and before that: the deadline passed (ETIMEDOUT)" "$out"
run 0 "$ex/later"
same "what later prints" "3 queued; then: left to be sent later
received of the dead: 4" "$out"
run 0 "$ex/noone"
same "what noone prints" "receiving where nobody can send: no sender is left, and none can come (ENOTCONN)
sending to the dead: the receiver is gone (EPIPE)" "$out"
for e in copy-on-write three-ways; do
        run 0 "$ex/$e"
        same "$e says nothing on standard error" "" "$err"
        eval "out_$(echo $e | tr - _)=\$out"
done
same "what copy-on-write prints" "received 256 pages, copied 0
wrote to 3 pages, copied 3
the sender still sees what it sent: yes" "$out_copy_on_write"
same "what three-ways prints" "     200 bytes: copied into the ring
  262144 bytes: a section
33554432 bytes: read from the sender's address space
33554432 bytes: written into the caller's address space" "$out_three_ways"
run 0 "$ex/notices"
same "what notices prints" "2 messages; 1 send-once right unused; no sender left of 1" "$out"
run 0 "$ex/gone"
same "what gone prints" "2 spoke, 2 are gone" "$out"
run 0 "$ex/events"
same "what events prints" "upper: HELLO
dies: the server died before it replied (ECONNRESET)" "$out"
run 0 "$ex/moved-mailbox"
same "what moved-mailbox prints" "the owner received 1 to 500
the heir received 501 to 1000" "$out"
run 0 "$ex/revoke"
same "what revoke prints" "the right: the receiver has revoked this right (EKEYREVOKED)
its copy: the receiver has revoked this right (EKEYREVOKED)
another one: done" "$out"
finish
