#!/usr/bin/env bats
# Hooks, the real binary and an agent that keeps artifacts in a folder: what a pipeline's author sees.

# shellcheck disable=SC2016 # backquotes in expected messages
# shellcheck disable=SC2030,SC2031 # bats runs each test in a subshell, which is where `status` is wanted

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

# A job with the cache block: the pre-command hook, the given command with what it exported, and the post-command hook.
cache_job() {
  local command="$1" status_wanted="$2"
  shift 2
  rm -rf "$BATS_TEST_TMPDIR/checkout"
  mkdir -p "$BATS_TEST_TMPDIR/checkout"
  cd "$BATS_TEST_TMPDIR/checkout" || return 1
  printf '%s' "${LOCK:-1}" >lock
  cat >"$BATS_TEST_TMPDIR/job" <<JOB
#!/usr/bin/env bash
set -eu
. "$PLUGIN/hooks/pre-command"
set +e
($command)
export BUILDKITE_COMMAND_EXIT_STATUS=\$?
set -e
. "$PLUGIN/hooks/post-command"
exit "\$BUILDKITE_COMMAND_EXIT_STATUS"
JOB
  chmod +x "$BATS_TEST_TMPDIR/job"
  run env -i PATH="$TOOLS" HOME="$BATS_TEST_TMPDIR/home" TMPDIR="$BATS_TEST_TMPDIR" "${JOB[@]}" BUILDKITE_BRANCH=main \
    BUILDKITE_PIPELINE_DEFAULT_BRANCH=main BUILDKITE_PIPELINE_SLUG=web "$@" "$BATS_TEST_TMPDIR/job"
  assert_equal "$status" "$status_wanted"
}

CACHE='{"cache":{"key":"deps-{{ checksum \"lock\" }}","restore-keys":"deps-","paths":"deps"}}'
INSTALL='echo "hit: $MONOFO_CACHE_HIT"; mkdir -p deps; echo x >deps/x'

@test "a cache entry is missed, stored, hit, and fallen back to" {
  cache_job "$INSTALL" 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE"
  assert_line "~~~ monofo: restoring 1 cache entry"
  assert_line "hit: miss"
  assert_line "~~~ monofo: storing 1 cache entry"
  assert_line --regexp '^deps: stored deps-[0-9a-f]{12}, 1 file, '
  cache_job 'echo "hit: $MONOFO_CACHE_HIT"; cat deps/x' 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE"
  assert_line "hit: exact"
  refute_line --partial "monofo: storing"
  LOCK=2 cache_job "$INSTALL" 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE"
  assert_line --partial 'checksum "lock" changed since'
  assert_line --partial "deps: partial hit deps-"
  assert_line "hit: partial"
}

@test "a failed command keeps its status and stores nothing, unless told to" {
  cache_job "$INSTALL; exit 5" 5 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE"
  assert_line "deps: not stored, the command failed"
  cache_job "$INSTALL; exit 5" 5 BUILDKITE_PLUGIN_CONFIGURATION="${CACHE%\}\}},\"save\":\"always\"}}"
  assert_line --partial "deps: stored"
}

@test "a cancelled job and a fork store nothing" {
  cache_job "$INSTALL" 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE" BUILDKITE_JOB_CANCELLED=true
  assert_line "deps: not stored, the job was cancelled"
  cache_job "$INSTALL" 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE" BUILDKITE_PULL_REQUEST=3 BUILDKITE_REPO=ours \
    BUILDKITE_PULL_REQUEST_REPO=theirs
  assert_line --partial "a fork's pull request, which stores nothing"
  cache_job "$INSTALL" 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE"
  assert_line "hit: miss"
}

@test "trouble with the cache is a warning, and an error when soft-fail is off" {
  mkdir -p "$BATS_TEST_TMPDIR/home/.cache/monofo"
  touch "$BATS_TEST_TMPDIR/home/.cache/monofo/keyed"
  cache_job "$INSTALL" 0 BUILDKITE_PLUGIN_CONFIGURATION="$CACHE"
  assert_line --partial "warning: deps: "
  assert_line "hit: miss"
  cache_job "$INSTALL" 6 BUILDKITE_PLUGIN_CONFIGURATION="${CACHE%\}\}},\"soft-fail\":false}}"
  assert_line --partial "error: deps: "
  refute_line --partial "hit:"
}

@test "a null in the cache block is named, and the entry kept all the same" {
  local plugins='[{"monofo#v1":{"cache":{"key":"a","paths":"deps","save":null}}}]'
  cache_job "$INSTALL" 0 BUILDKITE_PLUGINS="$plugins"
  assert_line --partial 'holds null at `cache.save`'
  cache_job "$INSTALL" 0 BUILDKITE_PLUGINS="$plugins"
  assert_line "hit: exact"
}
