#!/usr/bin/env bats
# The seam between the agent's shell and the binary.

# shellcheck disable=SC2016 # the inner shell is the one to expand it

load helper

setup() {
  set_up_plugin
  stub_binary "$PLUGIN/bin/monofo"
}

@test "each hook runs its own phase in the folder it was called in" {
  local phase
  for phase in pre-command post-command pre-exit; do
    run_hook "$phase"
    assert_success
  done
  assert_equal "$(calls)" "monofo:hook:pre-command:$WORK
monofo:hook:post-command:$WORK
monofo:hook:pre-exit:$WORK"
}

@test "the binary's exit status is the hook's" {
  local status_wanted
  for status_wanted in 1 2 7 143; do
    run_hook pre-command STUB_STATUS="$status_wanted"
    assert_failure "$status_wanted"
    run_hook post-command STUB_STATUS="$status_wanted"
    assert_failure "$status_wanted"
  done
}

@test "after a command that failed no failure of the hook takes its place" {
  local status_of_hook
  for status_of_hook in 1 2 137; do
    run_hook post-command BUILDKITE_COMMAND_EXIT_STATUS=7 STUB_STATUS="$status_of_hook"
    assert_success
    assert_output "warning: the post-command hook failed with status $status_of_hook; the job keeps its command's status 7"
  done
  run_hook post-command BUILDKITE_COMMAND_EXIT_STATUS=0 STUB_STATUS=2
  assert_failure 2
  run_hook pre-command BUILDKITE_COMMAND_EXIT_STATUS=7 STUB_STATUS=2
  assert_failure 2
}

@test "nor does a binary that is killed, cannot run, or is missing" {
  printf '#!/usr/bin/env bash\nkill -KILL $$\n' >"$PLUGIN/bin/monofo"
  run_hook post-command BUILDKITE_COMMAND_EXIT_STATUS=7
  assert_success
  assert_output --partial "failed with status 137"
  printf '#!/nonexistent/interpreter\n' >"$PLUGIN/bin/monofo"
  run_hook post-command BUILDKITE_COMMAND_EXIT_STATUS=7
  assert_success
  assert_output --partial "warning: $PLUGIN/bin/monofo (found by"
  assert_output --partial "cannot be run on this machine"
  assert_output --partial "warning: the post-command hook failed with status 2"
  run_hook post-command BUILDKITE_COMMAND_EXIT_STATUS=0
  assert_failure 2
  assert_output --partial "error: $PLUGIN/bin/monofo (found by"
  assert_output --partial "hint: it must be monofo, built for this system and processor"
  rm "$PLUGIN/bin/monofo"
  run_hook post-command BUILDKITE_COMMAND_EXIT_STATUS=7
  assert_success
  assert_line --partial "warning: cannot find the monofo binary"
  refute_output --partial "error:"
}

@test "nothing is exported and the folder stays" {
  local phase
  for phase in pre-command post-command pre-exit; do
    run_hook "$phase"
    assert_success
    run diff "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
    assert_output ""
    assert_equal "$(cat "$BATS_TEST_TMPDIR/folder")" "$WORK"
  done
}

@test "nothing is exported when the binary was built, either" {
  rm "$PLUGIN/bin/monofo"
  stub_cargo
  run_hook pre-command
  assert_success
  run diff "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
  assert_output ""
}

# A stand-in that asks for these exports.
stub_exports() {
  printf '%s' "$1" >"$BATS_TEST_TMPDIR/wanted"
  cat >"$PLUGIN/bin/monofo" <<STUB
#!/usr/bin/env bash
printf '%s\n' "\${MONOFO_HOOK_EXPORTS:-none}" >>"\$STUB_LOG"
[[ -z "\${MONOFO_HOOK_EXPORTS:-}" ]] || tr '\n' '\0' <"$BATS_TEST_TMPDIR/wanted" >"\$MONOFO_HOOK_EXPORTS"
[[ -z "\${MONOFO_HOOK_EXPORTS:-}" ]] || ls -l "\$MONOFO_HOOK_EXPORTS" >>"\$STUB_LOG"
exit "\${STUB_STATUS:-0}"
STUB
}

@test "only names of the cache block are exported, and values are never evaluated" {
  ln -s "$(type -P tr)" "$TOOLS/tr"
  local wanted='MONOFO_CACHE_HIT=exact
MONOFO_CACHE_A_1_HIT=$(touch evil)`touch evil`"'"'"' = x\
PATH=/evil
MONOFO_BIN=/evil
MONOFO_CACHE_=x
MONOFO_CACHE_a=x
MONOFO_CACHE_A[0]=x
XMONOFO_CACHE_B=x
 MONOFO_CACHE_C=x
'
  stub_exports "$wanted"
  run_hook pre-command
  assert_success
  assert_output ""
  run diff "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
  assert_output --partial 'MONOFO_CACHE_HIT="exact"'
  assert_output --partial 'MONOFO_CACHE_A_1_HIT="\$(touch evil)'
  refute_output --partial "/evil"
  assert_equal "$(grep -c '^> declare' <<<"$output")" 2
  [[ ! -e evil ]]
}

@test "the file for exports is private, and gone afterwards, whatever the binary does" {
  ln -s "$(type -P tr)" "$TOOLS/tr"
  stub_exports 'MONOFO_CACHE_HIT=exact
'
  local status_wanted
  for status_wanted in 0 3; do
    run_hook pre-command STUB_STATUS="$status_wanted"
    assert_equal "$status" "$status_wanted"
  done
  assert_equal "$(grep -c '^-rw-------' <<<"$(calls)")" 2
  run ls -d "$BATS_TEST_TMPDIR"/monofo-exports.*
  assert_failure
  run_hook post-command
  assert_equal "$(calls | tail -n 1)" none
}

@test "where TMPDIR is not there the file is made elsewhere and removed" {
  stub_exports ""
  run_hook pre-command TMPDIR=/nonexistent
  assert_success
  local file
  file="$(calls | head -n 1)"
  assert_regex "$file" '/monofo-exports\.[0-9.]+$'
  assert_equal "$(calls | grep -c '^-rw-------')" 1
  assert [ ! -e "$file" ]
}

@test "the binary gets no standard input" {
  run_hook pre-command < <(echo "not for monofo")
  assert_success
  assert_equal "$(calls)" "monofo:hook:pre-command:$WORK"
}

@test "pre-exit succeeds whatever the binary does" {
  run_hook pre-exit STUB_STATUS=9
  assert_success
}

@test "pre-exit neither builds nor complains without a binary" {
  rm "$PLUGIN/bin/monofo"
  stub_cargo
  run_hook pre-exit
  assert_success
  assert_output ""
  [[ ! -e "$BATS_TEST_TMPDIR/cargo.log" ]]
  run_hook pre-exit MONOFO_BIN=/nonexistent
  assert_success
  assert_output ""
}

@test "CDPATH leads nowhere else" {
  mkdir -p "$BATS_TEST_TMPDIR/elsewhere/hooks"
  run env -i PATH="$TOOLS" CDPATH="$BATS_TEST_TMPDIR/elsewhere" STUB_LOG="$BATS_TEST_TMPDIR/log" \
    bash -c 'cd "$1" >/dev/null && . hooks/pre-command' job "$PLUGIN"
  assert_success
  assert_equal "$(calls)" "monofo:hook:pre-command:$PLUGIN"
}

@test "a signal lets the binary clean up before the hook ends, with its status" {
  link_python
  cat >"$PLUGIN/bin/monofo" <<'STUB'
#!/usr/bin/env bash
trap 'sleep 0.3; echo cleaned >>"$STUB_LOG"; exit 143' TERM
echo started >>"$STUB_LOG"
while :; do sleep 0.05; done
STUB
  run env -i PATH="$TOOLS" STUB_LOG="$BATS_TEST_TMPDIR/log" PLUGIN="$PLUGIN" python3 - <<'PYTHON'
import os, signal, subprocess, time
log = os.environ["STUB_LOG"]
hook = subprocess.Popen(["bash", "-c", '. "$PLUGIN/hooks/post-command"'], start_new_session=True)
while not os.path.exists(log):
    time.sleep(0.02)
os.killpg(hook.pid, signal.SIGTERM)
print("status", hook.wait(), "log", open(log).read().split())
PYTHON
  assert_line "status 143 log ['started', 'cleaned']"
}
