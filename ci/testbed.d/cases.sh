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

# What all hosts' devices have sent, at most, in bytes. Soft-RoCE counts packets, which are at most as long as its MTU; below
# Soft-iWARP only the network devices count.
sent_bytes_max() {
    local name counters=() packet_bytes=1 counts
    for name in $TESTBED_DEVS; do counters+=("/sys/class/infiniband/$name/ports/1/hw_counters/sent_pkts"); done
    if [ -e "${counters[0]}" ]; then
        packet_bytes=$(ibv_devinfo -d "$TESTBED_DEV" | sed -n 's/.*active_mtu:[[:space:]]*\([0-9]*\) .*/\1/p')
        [ -n "$packet_bytes" ] || return
    else
        counters=()
        # Two ranks of one host that share a device talk over the loopback interface.
        for name in $TESTBED_NETDEVS lo; do counters+=("/sys/class/net/$name/statistics/tx_bytes"); done
    fi
    counts=$(on_each_host "cat ${counters[*]}") || return
    awk -v each="$packet_bytes" '{ sum += $1 } END { printf "%.0f\n", sum * each }' <<<"$counts"
}

# Before a case whose output will say `carried N bytes`; check_carried then compares.
count_sent() {
    sent_before=$(sent_bytes_max) || sent_before=
}

# check_carried CASE: fails, and prints why, unless the devices have sent what the case says it has carried.
check_carried() {
    local sent carried
    sent=$(sent_bytes_max) || sent=
    carried=$(sed -n 's/^carried \([0-9]*\) bytes.*/\1/p' "$output" | tail -n 1)
    if [ -z "$sent_before" ] || [ -z "$sent" ]; then
        echo "a host does not tell what its devices have sent"
    elif [ -z "$carried" ] || { [ "$carried" -eq 0 ] && [[ $1 != *silent* ]]; }; then
        echo "nothing went over the device"
    elif [ $((sent - sent_before)) -lt "$carried" ]; then
        echo "$carried bytes were carried, it is said, and the devices have sent no more than $((sent - sent_before))"
    else
        return 0
    fi
    return 1
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
