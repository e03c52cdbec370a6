#!/usr/bin/env bash
# Finds the binary and hands over to it. All rules live in the binary; this file only looks for it.
#
# The agent sources a hook in a shell of its own and carries what it exports, and the folder it leaves behind, over to
# the command. So nothing here exports but what the binary says of the `cache` block, by names that begin with
# MONOFO_CACHE_, and every change of folder happens in a subshell.

monofo_root="$(CDPATH='' cd -- "${BASH_SOURCE[0]%/*}/.." && pwd)"

monofo_say() {
  printf '%s\n' "$*" >&2
}

# Sets monofo_binary, always an absolute path, and monofo_how to a binary that is there already; fails without one.
monofo_find() {
  if [[ -n "${MONOFO_BIN:-}" ]]; then
    # Whoever names a binary wants that one and no other.
    monofo_how="MONOFO_BIN"
    monofo_choose
    monofo_is_program "$monofo_binary"
  elif monofo_is_program "$monofo_root/bin/monofo"; then
    monofo_binary="$monofo_root/bin/monofo" monofo_how="the plugin's bin folder"
  elif monofo_binary="$(type -P monofo)"; then
    monofo_how="PATH"
    monofo_make_absolute
  else
    return 1
  fi
}

# Sets monofo_binary to the file that MONOFO_BIN means: a path, or a bare name that is in this folder or else on PATH.
monofo_choose() {
  monofo_binary="$MONOFO_BIN"
  if [[ "$MONOFO_BIN" != */* ]] && ! monofo_is_program "./$MONOFO_BIN"; then
    monofo_binary="$(type -P -- "$MONOFO_BIN")" || monofo_binary="$MONOFO_BIN"
  fi
  monofo_make_absolute
}

# What was checked is what is run: bash would look a bare name up on PATH.
monofo_make_absolute() {
  [[ "$monofo_binary" == /* ]] || monofo_binary="${PWD%/}/$monofo_binary"
}

monofo_is_program() {
  [[ -s "$1" && -f "$1" && -x "$1" ]]
}

# Builds the binary in the plugin's folder, which the agent keeps between jobs. Two jobs may build at once: cargo lets
# one wait for the other, and the result appears by a rename, so that a half-written file is never run. Everything is
# named explicitly and done in the plugin's folder.
monofo_build() {
  local staged="$monofo_root/bin/.monofo.$$.$RANDOM"
  monofo_say "~~~ monofo: building the plugin's binary, once for this agent"
  if (
    monofo_forget_settings &&
      cd "$monofo_root" &&
      cargo build --release --locked --bin monofo --target-dir "$monofo_root/target" &&
      mkdir -p bin &&
      cp target/release/monofo "$staged" &&
      chmod 755 "$staged" &&
      mv -f "$staged" bin/monofo
  ) </dev/null >&2; then
    monofo_binary="$monofo_root/bin/monofo" monofo_how="cargo build"
    return 0
  fi
  rm -f "$staged"
  return 1
}

# Unsets the job's own settings for cargo, rustc and rustup, which would build another binary, or in another place, or
# none. Call it in a subshell. Where cargo and rustup live is the agent's matter and stays.
monofo_forget_settings() {
  local name
  for name in "${!CARGO_@}" "${!RUSTC@}" RUSTFLAGS RUSTDOCFLAGS RUSTUP_TOOLCHAIN; do
    [[ "$name" == CARGO_HOME ]] || unset -v "$name" || return
  done
}

# Says why there is no binary; $1 is how bad that is and $2 what came of building one.
monofo_explain() {
  monofo_say "^^^ +++"
  monofo_say "$1: cannot find the monofo binary; looked at"
  monofo_say "  1. MONOFO_BIN: ${MONOFO_BIN:-not set}${MONOFO_BIN:+ (not an executable file)}"
  if [[ -z "${MONOFO_BIN:-}" ]]; then
    monofo_say "  2. $monofo_root/bin/monofo: not an executable file"
    monofo_say "  3. PATH: no monofo on it"
    monofo_say "  4. cargo build in $monofo_root: $2"
    monofo_say "hint: install monofo on the agent's PATH, set MONOFO_BIN to it, or install Rust so that it can be built"
  else
    monofo_say "  2. to 4. (the plugin's bin folder, PATH, cargo build): not tried, since MONOFO_BIN is set"
    monofo_say "hint: correct MONOFO_BIN, or unset it"
  fi
}

# Runs one hook of the binary. Its status is the hook's status; 2 when there is no binary. After a command that failed
# the status is always 0: the agent would take any other for the job's, and the command's would be lost.
monofo_hook() {
  local status=0 worst="error" failed="${BUILDKITE_COMMAND_EXIT_STATUS:-0}"
  [[ "$1" == post-command ]] || failed=0
  [[ "$failed" == 0 ]] || worst="warning"
  monofo_attempt "$1" "$worst" || status=$?
  if [[ "$failed" != 0 && "$status" != 0 ]]; then
    monofo_say "warning: the $1 hook failed with status $status; the job keeps its command's status $failed"
    status=0
  fi
  return "$status"
}

# Finds the binary, builds it if it must, and runs its hook $1; $2 is how bad it is when there is none.
monofo_attempt() {
  local monofo_binary="" monofo_how="" monofo_exports="" status=0
  if ! monofo_find; then
    if [[ -n "${MONOFO_BIN:-}" ]]; then
      monofo_explain "$2" ""
      return 2
    elif ! type -P cargo >/dev/null; then
      monofo_explain "$2" "no cargo on PATH"
      return 2
    elif ! monofo_build; then
      monofo_explain "$2" "failed, see above"
      return 2
    fi
  fi
  case "${MONOFO_VERBOSE:-}" in
    "" | 0 | false) ;;
    *) monofo_say "monofo: using $monofo_binary (found by $monofo_how)" ;;
  esac
  # A signal goes to the whole process group. Bash must outlive the binary, which stops cleanly by itself, or the agent
  # would go on while it still cleans up.
  trap ':' INT TERM
  if [[ "$1" == pre-command ]] && monofo_make_exports; then
    MONOFO_HOOK_EXPORTS="$monofo_exports" "$monofo_binary" hook "$1" </dev/null || status=$?
    [[ "$status" != 0 ]] || monofo_export "$monofo_exports"
    rm -f -- "$monofo_exports"
  else
    MONOFO_HOOK_EXPORTS="" "$monofo_binary" hook "$1" </dev/null || status=$?
  fi
  trap - INT TERM
  # The binary itself never ends with these two: they are the shell's.
  if [[ "$status" == 126 || "$status" == 127 ]]; then
    monofo_say "^^^ +++"
    monofo_say "$2: $monofo_binary (found by $monofo_how) cannot be run on this machine"
    monofo_say "hint: it must be monofo, built for this system and processor ($HOSTTYPE, $OSTYPE); replace or remove it"
    status=2
  fi
  return "$status"
}

# Sets monofo_exports to a new file that only this user can read, empty; fails when there can be none. Bash alone makes it,
# since an image need not have mktemp: with noclobber it opens a file only if that is new.
monofo_make_exports() {
  local try folder
  # A job may have a TMPDIR that is not there, and an image no /tmp.
  for folder in "${TMPDIR:-/tmp}" /tmp "${PWD%/}/.git" "$monofo_root"; do
    for try in 1 2 3; do
      monofo_exports="$folder/monofo-exports.$$.$try.$RANDOM$RANDOM"
      if (umask 077 && set -o noclobber && : >"$monofo_exports") 2>/dev/null; then
        return 0
      fi
    done
  done
  monofo_exports=""
  return 1
}

# Exports what the binary wrote to that file: NAME=VALUE, each ended by a NUL. Values are taken as they are.
monofo_export() {
  local monofo_line
  while IFS= read -r -d '' monofo_line; do
    if [[ "${monofo_line%%=*}" =~ ^MONOFO_CACHE_[A-Z0-9_]+$ ]]; then
      export "${monofo_line%%=*}=${monofo_line#*=}"
    fi
  done <"$1"
}

# Runs pre-exit with a binary that is there already, and succeeds whatever happens.
monofo_clean_up() {
  local monofo_binary="" monofo_how=""
  if monofo_find; then
    "$monofo_binary" hook pre-exit </dev/null || true
  fi
}
