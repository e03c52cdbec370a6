#!/usr/bin/env bats
# Hooks, the real binary and an agent that keeps artifacts in a folder: what a pipeline's author sees.

# shellcheck disable=SC2016 # backquotes in expected messages

load helper

setup() {
  set_up_plugin
  need_real_binary
  link_python
  ln -s "$BATS_TEST_DIRNAME/fakes/buildkite-agent" "$TOOLS/buildkite-agent"
  JOB=(BUILDKITE_JOB_ID=job-1 BUILDKITE_BUILD_ID=build-1 BUILDKITE_STEP_KEY=first
    FAKE_AGENT_STORE="$BATS_TEST_TMPDIR/store" FAKE_AGENT_LOG="$BATS_TEST_TMPDIR/agent.log")
}

# Runs a hook of the next job in a fresh folder.
in_next_job() {
  WORK="$BATS_TEST_TMPDIR/next folder"
  mkdir -p "$WORK"
  cd "$WORK" || return 1
  run_hook "$1" "${JOB[@]}" BUILDKITE_JOB_ID=job-2 "${@:2}"
}

# Names of the artifacts that the agent keeps.
kept() {
  [[ ! -e "$BATS_TEST_TMPDIR/store/index" ]] ||
    python3 -c 'import json, sys; print(*sorted(json.loads(line)["path"] for line in sys.stdin))' \
      <"$BATS_TEST_TMPDIR/store/index"
}

@test "what one job uploads the next one downloads, in every format" {
  mkdir -p "data/deep/empty folder"
  printf 'x' >"data/a b"
  printf '#!/bin/sh\n' >data/run
  chmod 755 data/run
  ln -s run data/link
  local suffix
  for suffix in tar tar.gz tgz tar.lz4 tar.zst; do
    cd "$BATS_TEST_TMPDIR/work folder"
    run_hook post-command "${JOB[@]}" BUILDKITE_COMMAND_EXIT_STATUS=0 \
      BUILDKITE_PLUGIN_CONFIGURATION="{\"upload\":{\"data.$suffix\":[\"data/**\"]}}"
    assert_success
    assert_line "~~~ monofo: uploading 1 artifact"
    assert_line --regexp "^data\.$suffix: [0-9]+ files?, .* to .* \([0-9]+ %\), .* s, "
    rm -rf "$BATS_TEST_TMPDIR/next folder"
    in_next_job pre-command BUILDKITE_PLUGIN_CONFIGURATION="{\"download\":[\"data.$suffix\"]}"
    assert_success
    assert_line "~~~ monofo: downloading 1 artifact"
    diff -r --no-dereference "$BATS_TEST_TMPDIR/work folder/data" data
    [[ -x data/run && -L data/link && -d "data/deep/empty folder" ]]
  done
}

@test "a null in the configuration is named, and the artifact moves all the same" {
  touch a
  local plugins='[{"docker#v5":{}},{"vital-software/monofo#v1.0.0":{"upload":{"a.b.tar":{"globs":["a"],"when":null}}}}]'
  run_hook pre-command "${JOB[@]}" BUILDKITE_PLUGINS="$plugins"
  assert_success
  assert_line --partial 'holds null at `upload["a.b.tar"].when`'
  run_hook post-command "${JOB[@]}" BUILDKITE_PLUGINS="$plugins" BUILDKITE_COMMAND_EXIT_STATUS=0
  assert_success
  assert_equal "$(kept)" a.b.tar
}

@test "two listings that both hold null cannot be told apart" {
  run_hook pre-command "${JOB[@]}" \
    BUILDKITE_PLUGINS='[{"monofo":{"download":null}},{"monofo":{"upload":{"a":{"globs":"x","when":null}}}}]'
  assert_failure 2
  assert_line --partial "the step lists this plugin 2 times, each with a null"
  assert_line --partial "hint:"
}

@test "after a failed command our failure is a warning and the status stays" {
  run_hook post-command "${JOB[@]}" BUILDKITE_COMMAND_EXIT_STATUS=3 FAKE_AGENT_FAIL=upload \
    BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":{"globs":"none","when":"always","if-empty":"error"}}}'
  assert_success
  assert_line "^^^ +++"
  assert_line --partial "warning: a.tar:"
}

@test "when decides after which commands an artifact is uploaded" {
  touch x
  local config='{"upload":{"s.tar":"x","f.tar":{"globs":"x","when":"failure"},"b.tar":{"globs":"x","when":"always"}}}'
  run_hook post-command "${JOB[@]}" BUILDKITE_COMMAND_EXIT_STATUS=-1 BUILDKITE_PLUGIN_CONFIGURATION="$config"
  assert_success
  assert_equal "$(kept)" "b.tar f.tar"
  rm -r "$BATS_TEST_TMPDIR/store"
  run_hook post-command "${JOB[@]}" BUILDKITE_COMMAND_EXIT_STATUS=0 BUILDKITE_PLUGIN_CONFIGURATION="$config"
  assert_success
  assert_equal "$(kept)" "b.tar s.tar"
}

@test "a failing agent fails the job with what to do, and soft-fail makes it a warning" {
  touch x
  run_hook post-command "${JOB[@]}" FAKE_AGENT_FAIL=upload BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":"x"}}'
  assert_failure 8
  assert_line --partial "error: a.tar:"
  run_hook post-command "${JOB[@]}" FAKE_AGENT_FAIL=upload \
    BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":{"globs":"x","soft-fail":true}}}'
  assert_success
  assert_line --partial "warning: a.tar:"
}

@test "a missing artifact exits 3 and the others still arrive" {
  touch x
  run_hook post-command "${JOB[@]}" BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":"x"}}'
  assert_success
  in_next_job pre-command BUILDKITE_PLUGIN_CONFIGURATION='{"download":["missing.tar","a.tar"]}'
  assert_failure 3
  assert_line --partial "error: missing.tar:"
  [[ -e x ]]
}

@test "a download with a flipped byte exits 7 and leaves nothing behind" {
  printf '%1000s' x >x
  run_hook post-command "${JOB[@]}" BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.bin":"x"}}'
  assert_success
  in_next_job pre-command FAKE_AGENT_CORRUPT=1 BUILDKITE_PLUGIN_CONFIGURATION='{"download":["a.bin"]}'
  assert_failure 7
  assert_equal "$(ls -A)" ""
}

@test "an artifact comes from the step that is named" {
  printf one >x
  run_hook post-command "${JOB[@]}" BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":"x"}}'
  printf two >x
  run_hook post-command "${JOB[@]}" BUILDKITE_JOB_ID=job-3 BUILDKITE_STEP_KEY=second \
    BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":"x"}}'
  in_next_job pre-command BUILDKITE_PLUGIN_CONFIGURATION='{"download":[{"name":"a.tar","step":"first","into":"1"},"a.tar"]}'
  assert_success
  assert_equal "$(cat 1/x x)" onetwo
}

@test "a bad path exits 6 before anything moves" {
  run_hook pre-command "${JOB[@]}" BUILDKITE_PLUGIN_CONFIGURATION='{"download":[{"name":"a.tar","into":"../x"}]}'
  assert_failure 6
  [[ ! -e "$BATS_TEST_TMPDIR/agent.log" ]]
}

@test "MONOFO_VERBOSE says where artifacts are kept and what is left out" {
  touch x
  run_hook post-command "${JOB[@]}" MONOFO_VERBOSE=1 BUILDKITE_COMMAND_EXIT_STATUS=1 \
    BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":"x","b.tar":{"globs":"x","when":"failure"}}}'
  assert_success
  assert_line --partial "(found by the plugin's bin folder)"
  assert_line "a.tar: not uploaded, the command failed"
  assert_line --partial "artifacts"
}

@test "nothing of the job is left in the temporary folder" {
  touch x
  mkdir -p "$BATS_TEST_TMPDIR/monofo-job-job-1/half"
  run_hook post-command "${JOB[@]}" BUILDKITE_PLUGIN_CONFIGURATION='{"upload":{"a.tar":"x"}}'
  run_hook pre-exit "${JOB[@]}"
  assert_success
  assert_output ""
  run ls "$BATS_TEST_TMPDIR"
  refute_output --partial monofo-job
}
