#!/usr/bin/env bash
# What every test here stands on: a copy of the plugin at a path with spaces, a bare PATH, a wrapper like the agent's.

bats_load_library bats-support
bats_load_library bats-assert

REPOSITORY="$(cd "${BATS_TEST_DIRNAME}/.." && pwd)"

# Copies the plugin and makes a PATH with the usual tools but neither monofo nor cargo.
set_up_plugin() {
  PLUGIN="$BATS_TEST_TMPDIR/the plugin"
  TOOLS="$BATS_TEST_TMPDIR/tools"
  WORK="$BATS_TEST_TMPDIR/work folder"
  mkdir -p "$PLUGIN" "$TOOLS" "$WORK"
  cp -R "$REPOSITORY/hooks" "$PLUGIN/hooks"
  local tool
  for tool in bash env sh mkdir cp mv rm chmod sleep cat ls; do
    ln -s "$(type -P "$tool")" "$TOOLS/$tool"
  done
  cd "$WORK" || return 1
}

# Puts python3 on the bare PATH: the interpreter itself, since what PATH names may be a launcher that needs more.
link_python() {
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$(python3 -c 'import sys; print(sys.executable)')" >"$TOOLS/python3"
  chmod +x "$TOOLS/python3"
}

# A stand-in for the binary at the given path. It notes how it was called and exits with STUB_STATUS.
stub_binary() {
  mkdir -p "$(dirname "$1")"
  cat >"$1" <<'STUB'
#!/usr/bin/env bash
{
  printf '%s:' "${0##*/}" "$@"
  printf '%s\n' "$PWD"
  cat
} >>"$STUB_LOG"
[[ -z "${STUB_SAYS:-}" ]] || printf '%s\n' "$STUB_SAYS"
exit "${STUB_STATUS:-0}"
STUB
  chmod +x "$1"
}

# A cargo that takes its time to "build" the stand-in, insists on being told where to, and notes the settings it sees.
stub_cargo() {
  stub_binary "$BATS_TEST_TMPDIR/built"
  cat >"$TOOLS/cargo" <<STUB
#!/usr/bin/env bash
echo "cargo \$* in \$PWD" >>"$BATS_TEST_TMPDIR/cargo.log"
printf '%s\n' "\${!CARGO_@}" "\${!RUST@}" >>"$BATS_TEST_TMPDIR/settings.log"
[[ -z "\${STUB_CARGO_FAILS:-}" ]] || exit 101
while ((\$#)) && [[ "\$1" != --target-dir ]]; do shift; done
[[ "\$#" -gt 0 ]] || exit 102
mkdir -p "\$2/release"
cp "$BATS_TEST_TMPDIR/built" "\$2/release/.monofo.\$\$"
sleep 0.2
mv "\$2/release/.monofo.\$\$" "\$2/release/monofo"
STUB
  chmod +x "$TOOLS/cargo"
}

# Runs a hook the way the agent does: sourced by a wrapper that compares the exported variables before and after.
# Arguments after the phase are variables. Nothing else but PATH, HOME and TMPDIR is in the environment.
run_hook() {
  local phase="$1"
  shift
  cat >"$BATS_TEST_TMPDIR/wrapper" <<WRAPPER
#!/usr/bin/env bash
export -p >"$BATS_TEST_TMPDIR/before"
. "$PLUGIN/hooks/$phase"
status=\$?
pwd >"$BATS_TEST_TMPDIR/folder"
export -p >"$BATS_TEST_TMPDIR/after"
exit \$status
WRAPPER
  chmod +x "$BATS_TEST_TMPDIR/wrapper"
  rm -f "$BATS_TEST_TMPDIR/after"
  run env -i PATH="$TOOLS" HOME="$BATS_TEST_TMPDIR" TMPDIR="$BATS_TEST_TMPDIR" \
    STUB_LOG="$BATS_TEST_TMPDIR/log" "$@" "$BATS_TEST_TMPDIR/wrapper"
}

# What the stand-ins noted.
calls() {
  cat "$BATS_TEST_TMPDIR/log" 2>/dev/null || true
}

# The real binary, or the test is skipped; MONOFO_REQUIRE_BINARY turns the skip into a failure.
need_real_binary() {
  local candidate
  for candidate in "${MONOFO_TEST_BIN:-}" "$REPOSITORY/target/release/monofo" "$REPOSITORY/target/debug/monofo"; do
    if [[ -n "$candidate" && -x "$candidate" ]]; then
      mkdir -p "$PLUGIN/bin"
      cp "$candidate" "$PLUGIN/bin/monofo"
      return
    fi
  done
  [[ -z "${MONOFO_REQUIRE_BINARY:-}" ]] || fail "no built binary"
  skip "no built binary; run cargo build first"
}
