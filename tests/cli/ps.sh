#!/bin/sh
# wharf ps: who waits for whom, and the textbook's two deadlocks.
. "$(dirname "$0")/lib.sh"
ex=$build/examples

run 0 wharf ps
same "an empty domain" "" "$out"
same "an empty domain is told" "wharf ps: $WHARF_DOMAIN: no task is known here" "$err"
run 0 wharf ps --json
same "an empty domain in JSON" '{ "tasks":[ ], "deadlocks":[ ] }' "$(printf '%s' "$out" | tr -s ' \n' ' ')"

# Of a line of the table: the columns but the last, with one space between.
row() { wharf ps | awk -v p="$1" '$1 == p { $NF = ""; sub(/ +$/, ""); sub(/^[^ ]+ +[^ ]+ +/, ""); gsub(/ +/, " "); print }'; }
row_is() { [ "$(row "$1")" = "$2" ]; }
pids_of() { wharf ps | awk -v c="$1" '$2 == c { print $1 }' | sort -n | tr '\n' ' '; }
two_of() { [ "$(pids_of "$1" | wc -w)" = 2 ]; }
deadlocked() { wharf ps | grep -q '^deadlock: '; }

# A task without a name of its own, that waits for a name nobody has: for wharfd, which runs on.
start wharf call --wait --timeout=50s --data x nobody
waiter=$!
await sh -c "wharf ps | grep -q '^ *$waiter .*reply from'"
same "a look-up that waits is for wharfd" "$(servers)" "$(row $waiter | awk '{ print $NF }')"
run 0 wharf ps
slay $waiter
run 0 wharf ps
same "the dead are gone at once" "" "$out"

# A client waits for a server that has been stopped: seen though neither does anything any more.
start wharf serve slow -- cat
server=$!
await served slow
kill -STOP $server
start wharf call --timeout=50s --data x slow 2>/dev/null
client=$!
await row_is $client "reply from slow $server"
run 0 wharf ps
same "no deadlock" "" "$(printf '%s\n' "$out" | grep deadlock)"
slay $client
slay $server

# The textbook's deadlocks. Each is ended from outside, as the command says who is in it.
for form in receive send; do
        start "$ex/deadlock-$form" 2>/dev/null
        command=$(printf 'deadlock-%s' $form | cut -c 1-15)
        await two_of "$command"
        await deadlocked
        set -- $(pids_of "$command")
        run 3 wharf ps
        [ $form = receive ] && how='both receive first' || how='both send at capacity zero'
        same "the deadlock of $form is named" "deadlock: $1 -> $2 -> $1: $how" "$(printf '%s\n' "$out" | grep '^deadlock')"
        case $form in
        receive) same "what the first waits for" "receive on $(printf '%s' "$(row $1)" | awk '{ print $3 }') $2" "$(row $1)" ;;
        send) same "what the first waits for" "$2" "$(row $1 | awk '{ print $NF }')" ;;
        esac
        run 3 wharf ps --json
        same "the deadlock of $form in JSON" "{\"pids\":[$1,$2],\"how\":\"$how\"}" \
                "$(printf '%s' "$out" | tr -d '\n' | sed 's/.*"deadlocks":\[ *//; s/ *\] *} *$//; s/": *\[ */":[/; s/, */,/g; s/{ */{/; s/ *\]/]/; s/ *}$/}/')"
        kill -9 "$1"
        await sh -c '! wharf ps | grep -q deadlock:'
        run 0 wharf ps
        kill -9 "$2" 2>/dev/null
        wait
        run 0 wharf ps
        same "both are gone" "" "$out"
done

run 2 wharf ps x
same "an argument" "usage: wharf ps [--json] [--color WHEN]" "$err"
run 2 wharf ps --jason
finish
