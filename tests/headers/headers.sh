# Every public header compiles alone, as C and as C++, with warnings as errors; and a C++ program links and runs.
# usage: sh headers.sh INCLUDE_DIR BUILD_DIR CC CXX
set -u
here=$(dirname "$0") include=$1 build=$2 cc=$3 cxx=$4
passed=0 failed=0
dir=$(mktemp -d /tmp/wharf-headers-XXXXXX)
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
for h in "$include"/wharf/*.h; do
        name=wharf/${h##*/}
        printf '#include <%s>\n#include <%s>\n' "$name" "$name" >"$dir/one.c"
        for std in c11 gnu17; do
                try "$cc" -std=$std -Wall -Wextra -Werror -fsyntax-only -I"$include" -x c "$dir/one.c"
        done
        for std in c++11 c++17; do
                try "$cxx" -std=$std -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I"$include" -x c++ "$dir/one.c"
        done
done
try "$cxx" -std=c++17 -Wall -Wextra -Werror -I"$include" -o "$dir/cxx" "$here/cxx.cpp" -L"$build" -lwharf
LD_LIBRARY_PATH=$build try "$dir/cxx"
echo "headers: $passed passed, $failed failed"
[ $failed = 0 ]
