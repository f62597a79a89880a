# shellcheck shell=bash
# What the scripts of cases that run in a guest share: finding test binaries, counting, and the closing line that ci/test
# adds up. Sourced, never run.

passed=0 failed=0 skipped=0
output=$(mktemp)

# The newest test binary of that name in the target directory.
newest_test() { # NAME
    find "${CARGO_TARGET_DIR:-target}/debug/deps" -maxdepth 1 -name "$1-*" ! -name '*.d' -printf '%T@ %p\n' 2>/dev/null |
        sort -n | tail -n 1 | cut -d' ' -f2-
}

on_each_host() { # COMMAND
    local host
    bash -c "$1" || return
    for host in ${TESTBED_HOSTS#host1}; do "$TESTBED_RSH" "$host" "$1" || return; done
}

# Who is not root may neither lock any amount of memory nor open whatever there is.
as_nobody() { # COMMAND...
    setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all "$@"
}

# choose CASES... -- FILTERS...: sets `cases` to those that have one of the filters in their names; all without filters. A filter
# that fits nothing would pass for ever, so it ends the script.
choose() {
    local all=() case filter fits
    while [ "$1" != -- ]; do all+=("$1") && shift; done
    shift
    cases=()
    [ "$#" -gt 0 ] || cases=("${all[@]}")
    for filter in "$@"; do
        fits=
        for case in "${all[@]}"; do
            [[ $case != *"$filter"* ]] || fits=yes
        done
        if [ -z "$fits" ]; then
            echo "no case has $filter in its name; there are: ${all[*]}" >&2
            exit 1
        fi
    done
    for case in "${all[@]}"; do
        for filter in "$@"; do
            [[ $case != *"$filter"* ]] || { cases+=("$case") && break; }
        done
    done
}

case_passed() { # CASE [NOTE]
    printf 'ok: %s%s\n' "$1" "${2:+: $2}"
    passed=$((passed + 1))
}

# Its output is shown indented: closing lines of other programs inside must not be taken for ours.
case_failed() { # CASE [WHY]
    printf 'FAILED: %s%s\n' "$1" "${2:+: $2}"
    sed 's/^/    /' "$output"
    failed=$((failed + 1))
}

# The last line; fails if a case has failed, or none has run.
close_cases() {
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
}
