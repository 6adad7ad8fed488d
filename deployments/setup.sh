#!/usr/bin/env bash
# Sets up ./.venv from pinned versions: `setup.sh [cpu|gpu] [test]`. A second call finds its stamp and does nothing.
# Torch's CPU build is looked for where pip is configured to look, then in PyTorch's own index of CPU wheels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=${1:-cpu}
with_tests=${2:-}
torch_index=${FEM_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
needed_gib=8

fail() {
  printf 'setup: %s\n' "$1" >&2
  exit 2
}

[ "$device" = cpu ] || [ "$device" = gpu ] || fail "unknown device '$device'. Use cpu or gpu."

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3 python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "Python 3.11 is needed and was not found. Install it, or name it: PYTHON=/path/to/python3.11 make setup"
}

digest_of() { cat "$@" | cksum | tr -d ' '; }

if [ "$device" = cpu ]; then
  wanted="cpu $(digest_of requirements/cpu.lock pyproject.toml)"
else
  wanted="gpu $(digest_of requirements/gpu.txt pyproject.toml)"
fi
stamp=.venv/.fem-setup
test_stamp=.venv/.fem-setup-test
test_wanted=$(digest_of requirements/test.lock)

case "$(cat "$stamp" 2>/dev/null || true)" in
  "" | "$device "*) ;;
  *) fail ".venv holds the other device's packages, and vLLM's two builds exclude each other. Use a checkout of its own, or remove .venv." ;;
esac

if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module. Install it (Debian: python3-venv)."
  free_gib=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1024 / 1024))
  [ -s "$stamp" ] || [ "$free_gib" -ge "$needed_gib" ] ||
    fail "$needed_gib GiB of free disk are needed for the environment, the model and a store; here are $free_gib. Free some."
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv # also after an interrupted one
  pip=(.venv/bin/python -m pip --disable-pip-version-check)
  echo "setup: installing the pinned packages into .venv (a few minutes, once)"
  if [ "$device" = cpu ]; then
    torch=$(grep -o '^torch==[^ ]*' requirements/cpu.lock)
    "${pip[@]}" install --quiet --no-deps "$torch" 2>/dev/null ||
      "${pip[@]}" install --quiet --no-deps --index-url "$torch_index" "$torch" ||
      fail "$torch was found neither where pip is configured to look nor in $torch_index. Check the network."
    "${pip[@]}" install --quiet --no-deps -r requirements/cpu.lock || fail "pip could not install requirements/cpu.lock; its message is above."
    "${pip[@]}" install --quiet --no-deps --no-build-isolation -e .
  else
    "${pip[@]}" install --quiet -c requirements/gpu.txt -e '.[gpu]' || fail "pip could not resolve the gpu extra; its message is above."
  fi
  printf '%s' "$wanted" >"$stamp"
fi

if [ "$with_tests" = test ] && [ "$(cat "$test_stamp" 2>/dev/null || true)" != "$test_wanted" ]; then
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements/test.lock ||
    fail "pip could not install requirements/test.lock; its message is above."
  printf '%s' "$test_wanted" >"$test_stamp"
fi
