# Sourced by scripts/demo, scripts/test and .ci/run: makes .venv fit for an extra.
#
#   prepare_environment demo|dev
#
# The first run finds a Python, creates .venv and installs kacc (editable) with the versions
# of constraints.txt; later runs compare one hash. The log is .venv/setup.log.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

is_suitable() { # is_suitable PYTHON: does it run, and is it of a version that kacc supports?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${KACC_PYTHON:-}" ]; then
        is_suitable "$KACC_PYTHON" && printf '%s\n' "$KACC_PYTHON"
        return
    fi
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if is_suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    # pyenv's commands refuse to run versions that are not selected: look at its folder.
    for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[123].*/bin/python; do
        if is_suitable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

wanted_stamp() { # what the environment was made from
    "$venv/bin/python" - "$root/pyproject.toml" "$root/constraints.txt" "$root" <<'PY'
import hashlib, pathlib, sys
*files, root = sys.argv[1:]
content = b"\0".join(pathlib.Path(name).read_bytes() for name in files)
print(hashlib.sha256(content + root.encode()).hexdigest(), sys.version.split()[0])
PY
}

is_ready() { # is_ready EXTRA
    local stamp=$venv/kacc-$1.stamp wanted
    wanted=$(wanted_stamp 2>/dev/null) || return 1
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]
}

has_pip() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
        "$venv/bin/python" -m ensurepip >/dev/null 2>&1
}

create_venv() {
    local python
    python=$(find_python) || fail "needs Python 3.11, 3.12 or 3.13\
${KACC_PYTHON:+, which KACC_PYTHON=$KACC_PYTHON is not}: \
install one, or name it with KACC_PYTHON=/path/to/python"
    rm -rf "$venv" # of a set-up that was cut off
    "$python" -m venv "$venv" >/dev/null 2>&1 || {
        rm -rf "$venv"
        fail "$python cannot create a virtual environment: install its venv module \
(on Debian and Ubuntu: apt install python3-venv)"
    }
}

report_progress() { # report_progress PID TEXT: a line that counts the seconds while PID runs
    local start=$SECONDS
    if [ -t 2 ]; then
        while kill -0 "$1" 2>/dev/null; do
            printf '\r%s %d s' "$2" $((SECONDS - start)) >&2
            sleep 1
        done
        printf '\r%s %d s\n' "$2" $((SECONDS - start)) >&2
    else
        printf '%s\n' "$2" >&2
    fi
    wait "$1"
}

install_kacc() { # install_kacc EXTRA
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
        --constraint "$root/constraints.txt" --editable "$root[$1]" \
        >"$venv/setup.log" 2>&1 &
    # A background process does not get Ctrl-C.
    trap 'kill $! 2>/dev/null; exit 130' INT TERM
    report_progress $! "Setting up .venv (once, some minutes) ..." || {
        tail -n 5 "$venv/setup.log" >&2
        fail "the set-up failed; the whole log is .venv/setup.log, and a new run goes on from here"
    }
    trap - INT TERM
}

prepare_environment() {
    is_ready "$1" && return
    # pip comes into an environment last, so without it one may be half-made.
    if ! is_suitable "$venv/bin/python" || ! has_pip; then
        create_venv
    fi
    install_kacc "$1"
    wanted_stamp >"$venv/kacc-$1.stamp"
    # The extra dev contains demo.
    [ "$1" != dev ] || cp "$venv/kacc-dev.stamp" "$venv/kacc-demo.stamp"
}
