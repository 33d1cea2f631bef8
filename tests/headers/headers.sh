# Every public header compiles alone, and all together, in every C and C++ that people use, with warnings as errors; and
# a C++ program links and runs. With the compilers of this build, and with clang too where there is one.
# usage: sh headers.sh INCLUDE_DIR BUILD_DIR CC CXX
set -u
here=$(dirname "$0") include=$1 build=$2 cc=$3 cxx=$4
passed=0 failed=0
dir=$(mktemp -d "${TMPDIR:-/tmp}/wharf-headers-XXXXXX")
trap 'rm -rf "$dir"' EXIT

try() {
        if "$@"; then
                passed=$((passed + 1))
        else
                failed=$((failed + 1))
                echo "failed: $*"
        fi
}

# Through a file that includes it twice: what is compiled is what a user writes.
all=$dir/all.c
for h in "$include"/wharf/*.h; do
        name=wharf/${h##*/}
        printf '#include <%s>\n#include <%s>\n' "$name" "$name" >"$dir/${h##*/}.c"
        printf '#include <%s>\n' "$name" >>"$all"
done
# wharf.h is all of it, but for Mach's names.
for h in "$include"/wharf/*.h; do
        name=${h##*/}
        case $name in wharf.h | mach.h) continue ;; esac
        try grep -q "^#include \"$name\"" "$include/wharf/wharf.h"
done
# All of them in the other order too: none may lean on what came before it.
sed '1!G;h;$!d' "$all" >"$dir/all-backwards.c"
cs=$cc cxxs=$cxx
command -v clang >/dev/null && [ "$(basename "$cc")" != clang ] && cs="$cs clang"
command -v clang++ >/dev/null && [ "$(basename "$cxx")" != clang++ ] && cxxs="$cxxs clang++"
for one in "$dir"/*.c; do
        for c in $cs; do
                for std in c11 gnu17 c17 c2x; do
                        try "$c" -std=$std -Wall -Wextra -Werror -fsyntax-only -I"$include" -x c "$one"
                done
        done
        for c in $cxxs; do
                for std in c++11 c++17 c++20; do
                        try "$c" -std=$std -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I"$include" -x c++ "$one"
                done
        done
done
for c in $cxxs; do
        for std in c++11 c++20; do
                rm -f "$dir/cxx"
                try "$c" -std=$std -Wall -Wextra -Werror -I"$include" -o "$dir/cxx" "$here/cxx.cpp" -L"$build" -lwharf
                LD_LIBRARY_PATH=$build try "$dir/cxx"
        done
done
echo "headers: $passed passed, $failed failed"
[ $failed = 0 ]
