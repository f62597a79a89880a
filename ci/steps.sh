# shellcheck shell=bash
# What the scripts of this folder share: where things are, packages, headings with the time, and `step`, which runs one
# command with its output in a log. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
logs=$CARGO_TARGET_DIR/ci-logs
started=$SECONDS

# rustup puts cargo where a shell that was open before does not look yet.
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# A container has no other user than root, and mpirun refuses root unless told twice. Only our own children see this.
allow_root_mpirun() {
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}

heading() {
    printf '\n== [%02d:%02d] %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$*"
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Where what is made once and used by every checkout lies: outside the tree.
user_cache() { # WHAT
    printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/ironband-$1"
}

# ---- packages --------------------------------------------------------------------------------------------------------

missing_packages() {
    local package
    for package in "$@"; do
        # `Status-Status` is "installed" only for what is really there; "config-files" is a package that was removed.
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s\n' "$package"
    done
}

# apt-get as root. Its log is only of interest when it fails. sudo asks for a password on the terminal, not on stdin.
apt_get() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "not root and no sudo; ask the administrator for: apt-get $*"
        as_root=(sudo)
    fi
    mkdir -p "$logs"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" \
        >"$logs/setup.log" 2>&1 </dev/null || {
        cat "$logs/setup.log" >&2
        die "apt-get $1 failed; to do it by hand: apt-get update && apt-get $*"
    }
}

install_packages() {
    local missing
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        printf 'This is not Debian or Ubuntu. Install what your system calls these packages:\n' >&2
        printf '    %s\n' "$@" >&2
        die "and run this again with IRONBAND_SKIP_PACKAGES=1"
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    printf 'installing: %s\n' "${missing[*]}"
    apt_get update
    apt_get install --no-install-recommends "${missing[@]}"
}

# Downloads packages into $1 and unpacks them there; installs nothing.
unpack() { # FOLDER PACKAGE...
    local folder=$1
    shift
    mkdir -p "$folder/deb"
    (cd "$folder/deb" && apt-get -q download "$@" >"$folder/download.log" 2>&1) || {
        cat "$folder/download.log" >&2
        die "apt-get download failed for: $*; try: apt-get update"
    }
    for package in "$folder"/deb/*.deb; do dpkg-deb -x "$package" "$folder"; done
    rm -rf "$folder/deb"
}

# ---- steps: each runs on after a failure; `summary` closes -----------------------------------------------------------

step_names=() step_results=() step_seconds=() step_notes=()
step_limit_seconds=${IRONBAND_STEP_LIMIT_SECONDS:-1200}
running_pid=

record() { # NAME RESULT SECONDS NOTE
    step_names+=("$1") step_results+=("$2") step_seconds+=("$3") step_notes+=("$4")
}

skip() { # NAME WHY
    printf '\nskipped: %s: %s\n' "$1" "$2"
    record "$1" skipped 0 "$2"
}

# `timeout` leads a process group of its own, so that a hanging mpirun goes with all its ranks; therefore Ctrl-C has to
# be handed on.
interrupted() {
    [ -z "$running_pid" ] || kill -TERM "$running_pid" 2>/dev/null || true
    exit 130
}

# What a failed step has to say: of a log of libtest's its failures, without what passed (--show-output prints that, too); of
# another, all. A binary that a signal ended has no list of failures: the end of the log tells which it was.
explain_failure() { # LOG
    if grep -q '^failures:$' "$1"; then
        awk '/^failures:$/ { shown = 1 } /^successes:$/ { shown = 0 } /^test result: / { if (shown) print; shown = 0 } shown' "$1"
        printf '    the end of the log:\n'
        tail -n 15 "$1"
    else
        grep -vE '^ *(Checking|Compiling|Documenting|Downloading|Downloaded) ' "$1" || true
    fi
}

# step NAME COMMAND...: a heading, the output into NAME.log; the lines that matter on success, what explains it on failure.
step() {
    local name=$1 log=$logs/$1.log began=$SECONDS status=0 note=
    shift
    heading "$name: $*"
    mkdir -p "$logs"
    trap interrupted INT TERM
    timeout --kill-after=10 "$step_limit_seconds" "$@" >"$log" 2>&1 </dev/null &
    running_pid=$!
    wait "$running_pid" || status=$?
    running_pid=
    trap - INT TERM
    if [ "$status" -eq 0 ]; then
        # Each line once: 20 test binaries say the same thing, and "0 passed" says nothing.
        grep -E '^(test result: |skipped: |instructions |warning: |[0-9]+ (passed|files)|    +[0-9.]+  [a-z])' "$log" |
            awk '!/ ok\. 0 passed/ && !seen[$0]++ { print "    " $0 }' || true
        record "$name" ok $((SECONDS - began)) ""
    else
        [ "$status" -ne 124 ] || note="stopped after $step_limit_seconds s"
        explain_failure "$log"
        printf '    %s failed with status %s %s\n' "$name" "$status" "$note"
        record "$name" failed $((SECONDS - began)) "$note"
    fi
    return "$status"
}

# The same for a test runner: a filter that matches nothing any more would pass for ever.
step_tests() { # NAME COMMAND...
    local ran last
    step "$@" || return
    # shellcheck disable=SC2046 # three numbers
    ran=$(($(printf '%s+' $(count_tests "$logs/$1.log"))0))
    if [ "$ran" -eq 0 ]; then
        last=$((${#step_names[@]} - 1))
        step_results[last]=failed
        step_notes[last]="no test ran"
        printf '    %s failed: no test ran\n' "$1"
        return 1
    fi
}

# Adds up what the test runners say of themselves. A libtest test cannot report that it skipped itself: it prints
# `skipped: NAME: why` and passes, so the log is read (--show-output prints it under the test's own heading) and such a
# test moves from passed to skipped.
count_tests() { # LOG...; prints: passed failed skipped
    # A test binary that a signal ends prints no `test result`: its lines are counted one by one, and the crash as a failure.
    awk '
        function crashed() {
            if (running) { passed += ok; failed += bad + 1; skipped += ignored }
            running = ok = bad = ignored = 0
        }
        /^running [0-9]+ tests?$/ { crashed(); running = 1 }
        /^test .* \.\.\. ok$/ { ok++ }
        /^test .* \.\.\. FAILED$/ { bad++ }
        /^test .* \.\.\. ignored/ { ignored++ }
        /^test result: / {
            running = ok = bad = ignored = 0
            for (i = 2; i <= NF; i++) {
                if ($i == "passed;") passed += $(i - 1)
                if ($i == "failed;") failed += $(i - 1)
                if ($i == "ignored;") skipped += $(i - 1)
            }
        }
        /^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { passed += $1; failed += $3; skipped += $5 } # our own scripts
        /^successes:/ { successes = 1 }
        /^(failures:|test result: )/ { successes = 0 }
        /^---- .* stdout ----$/ { fresh = 1 }
        /^skipped: / && successes && fresh { fresh = 0; passed--; skipped++ }
        END { crashed(); print passed + 0, failed + 0, skipped + 0 }
    ' "$@" /dev/null
}

# The table, then the counts alone on the last line. A step without a test runner (formatting, say) that fails counts
# as one failure, so that the line never says `0 failed` of a run that failed.
summary() {
    local index name passed failed skipped step_failed failures=0 steps_failed=0 log_list=() failed_tests
    printf '\n%-22s %-8s %8s  %s\n' step result seconds ''
    for index in "${!step_names[@]}"; do
        name=${step_names[$index]}
        printf '%-22s %-8s %8s  %s\n' "$name" "${step_results[$index]}" "${step_seconds[$index]}" "${step_notes[$index]}"
        [ "${step_results[$index]}" != skipped ] || continue
        log_list+=("$logs/$name.log")
        if [ "${step_results[$index]}" = failed ]; then
            steps_failed=$((steps_failed + 1))
            read -r _ step_failed _ < <(count_tests "$logs/$name.log")
            [ "$step_failed" -gt 0 ] || failures=$((failures + 1))
        fi
    done
    failed_tests=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "${log_list[@]}" /dev/null | sort -u)
    [ -z "$failed_tests" ] || printf '\nfailed tests:\n%s\n' "$failed_tests"
    read -r passed failed skipped < <(count_tests "${log_list[@]}")
    failed=$((failed + failures))
    printf '\ntotal %d min %02d s, logs in %s\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$logs"
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$steps_failed" -eq 0 ] && [ "$failed" -eq 0 ]
}
