# Completion of wharf(1) and wharfd(8) for bash.
#
# Verbs and options are those that `wharf help` and --help list, so this file is never behind the command. Names that
# others have chosen are offered only where they need no quoting: what stands in a line is what the shell runs.

# _wharf_options COMMAND...: its long options; with VALUES=1 only those that take a value.
_wharf_options() {
        if [ "${VALUES:-}" ]; then
                "$@" --help 2>/dev/null | sed -n 's/^  ...\{0,1\} *\(--[a-z-]*\) [^ ].*/\1/p'
        else
                "$@" --help 2>/dev/null | sed -n 's/^  ...\{0,1\} *\(--[a-z-]*\) .*/\1/p'
        fi
}

# The words in the first column below the usage lines: of `wharf help` the verbs, of `wharf shm --help` the commands.
_wharf_verbs() {
        "$@" 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p'
}

# The names in JSON, without those that hold more than plain characters. Nobody waits longer than two seconds for them.
_wharf_names() {
        timeout "${WHARF_COMPLETE_TIMEOUT:-2}" "$@" --json 2>/dev/null | grep -o '"name":"[A-Za-z0-9._/:@#+,=-]*"' | sed 's/^"name":"//; s/"$//'
}

# The lines that COMMAND... prints are what can be chosen.
_wharf_can() {
        local lines
        lines=$("$@")
        can=()
        [[ ! $lines ]] || mapfile -t can <<<"$lines"
}

# What the value of an option may be; files and directories are completed by bash itself.
_wharf_value() {
        case $1 in
        --color) can=(auto always never) ;;
        --policy) can=(buddy first next best worst fixed) ;;
        --cores) can=(pinned free one) ;;
        --capacity) can=(zero unbounded) ;;
        --linger) can=(forever 500ms) ;;
        --send) _wharf_can _wharf_names "${command[@]}" ls ;;
        --svg | --config) _wharf_can compgen -f -- "$cur" && compopt -o filenames 2>/dev/null ;;
        --domain) _wharf_can compgen -d -- "$cur" && compopt -o filenames 2>/dev/null ;;
        esac
}

_wharf() {
        local line=${COMP_LINE:0:COMP_POINT} words=() can=() command=("$1") cur prev c i=1 verb= sub= args=0 ended=
        read -ra words <<<"$line"
        [[ $line == *[[:space:]] ]] && words+=("")
        local n=$((${#words[@]} - 1))
        cur=${words[n]} prev=${words[n - 1]}
        COMPREPLY=()
        # What stands before the verb says of which domain it is.
        if [[ $1 != *wharfd ]]; then
                while ((i < n)); do
                        case ${words[i]} in
                        --domain) command+=(--domain "${words[i + 1]}") && i=$((i + 2)) ;;
                        --domain=* | --system) command+=("${words[i]}") && i=$((i + 1)) ;;
                        *) break ;;
                        esac
                done
                ((i < n)) && verb=${words[i]} && i=$((i + 1))
                [[ $verb == shm || $verb == heap ]] && ((i < n)) && sub=${words[i]} && i=$((i + 1))
        fi
        local asked=("$1" ${verb:+"$verb"} ${sub:+"$sub"}) valued=
        [[ $verb || $1 == *wharfd ]] && valued=" $(VALUES=1 _wharf_options "${asked[@]}" | tr '\n' ' ')"
        for (( ; i < n; i++)); do
                case ${words[i]} in
                --) ended=1 && break ;;
                --*=*) ;;
                -*) [[ $valued == *" ${words[i]} "* ]] && i=$((i + 1)) ;;
                *) args=$((args + 1)) ;;
                esac
        done
        if [[ $cur == --*=* && ! $ended ]]; then
                prev=${cur%%=*} cur=${cur#*=}
                _wharf_value "$prev"
                [[ $COMP_WORDBREAKS == *=* ]] || can=("${can[@]/#/$prev=}") cur=$prev=$cur
        elif [[ $valued == *" $prev "* || $prev == --domain ]] && [[ ! $ended ]]; then
                _wharf_value "$prev"
        elif [[ ! $verb && $1 != *wharfd ]]; then
                _wharf_can _wharf_verbs "$1" help
                can+=(help --domain --system --version --help)
        elif [[ $cur == -* && ! $ended ]]; then
                _wharf_can _wharf_options "${asked[@]}"
        else
                case $verb in
                help) _wharf_can _wharf_verbs "$1" help ;;
                send | call) ((args)) || _wharf_can _wharf_names "${command[@]}" ls ;;
                ls) _wharf_can _wharf_names "${command[@]}" ls ;;
                run | serve) [[ $verb == serve && $args == 0 ]] || _wharf_can compgen -c -- "$cur" ;;
                heap)
                        [[ $sub ]] || can=(trace replay)
                        [[ $sub ]] && _wharf_can compgen -f -- "$cur" && compopt -o filenames 2>/dev/null
                        ;;
                shm)
                        case $sub in
                        '') _wharf_can _wharf_verbs "$1" shm --help ;;
                        create) ((args)) || can=(posix: sysv: file:) ;;
                        chmod) ((args)) && _wharf_can _wharf_names "${command[@]}" shm ls ;;
                        rm | ls) _wharf_can _wharf_names "${command[@]}" shm ls ;;
                        *) ((args)) || _wharf_can _wharf_names "${command[@]}" shm ls ;;
                        esac
                        ;;
                esac
        fi
        for c in "${can[@]}"; do
                [[ $c == "$cur"* ]] || continue
                # bash takes what stands behind a colon for a word of its own, and replaces that alone.
                [[ $COMP_WORDBREAKS == *:* && $cur == *:* ]] && c=${c#"${cur%:*}:"}
                COMPREPLY+=("$c")
        done
}
complete -F _wharf wharf wharfd
