#!/usr/bin/env bats
# Where the hooks find the binary, and what they say when they do not.

# shellcheck disable=SC2016 # the inner shell is the one to expand it

load helper

setup() {
  set_up_plugin
}

@test "MONOFO_BIN comes first" {
  stub_binary "$BATS_TEST_TMPDIR/my own/chosen"
  stub_binary "$PLUGIN/bin/monofo"
  stub_binary "$TOOLS/monofo"
  run_hook pre-command MONOFO_BIN="$BATS_TEST_TMPDIR/my own/chosen"
  assert_success
  assert_equal "$(calls)" "chosen:hook:pre-command:$WORK"
}

@test "the plugin's own bin folder comes before PATH" {
  stub_binary "$PLUGIN/bin/monofo"
  stub_binary "$TOOLS/monofo"
  run_hook pre-command MONOFO_VERBOSE=1
  assert_success
  assert_output "monofo: using $PLUGIN/bin/monofo (found by the plugin's bin folder)"
}

@test "PATH comes before cargo" {
  stub_binary "$TOOLS/monofo"
  stub_cargo
  run_hook post-command MONOFO_VERBOSE=1
  assert_success
  assert_output "monofo: using $TOOLS/monofo (found by PATH)"
  assert_equal "$(calls)" "monofo:hook:post-command:$WORK"
}

@test "cargo builds it in the plugin's folder, once" {
  stub_cargo
  run_hook pre-command MONOFO_VERBOSE=1 CARGO_TARGET_DIR=/nonexistent
  assert_success
  assert_line --partial "(found by cargo build)"
  run_hook post-command
  assert_success
  assert_output ""
  assert_equal "$(cat "$BATS_TEST_TMPDIR/cargo.log")" \
    "cargo build --release --locked --bin monofo --target-dir $PLUGIN/target in $PLUGIN"
  assert_equal "$(calls)" "monofo:hook:pre-command:$WORK
monofo:hook:post-command:$WORK"
}

@test "the job's own settings for cargo do not reach the build" {
  stub_cargo
  run_hook pre-command CARGO_HOME="$BATS_TEST_TMPDIR/cargo" RUSTUP_HOME="$BATS_TEST_TMPDIR/rustup" \
    CARGO_BUILD_TARGET=wasm32-unknown-unknown CARGO_TARGET_DIR=/nonexistent CARGO_ENCODED_RUSTFLAGS=-x \
    CARGO_PROFILE_RELEASE_LTO=off RUSTFLAGS=-x RUSTDOCFLAGS=-x RUSTC=/nonexistent RUSTC_WRAPPER=/nonexistent \
    RUSTUP_TOOLCHAIN=none
  assert_success
  assert_equal "$(cat "$BATS_TEST_TMPDIR/settings.log")" "CARGO_HOME
RUSTUP_HOME"
  run diff "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
  assert_output ""
}

@test "two jobs may build at once" {
  stub_cargo
  local environment=(env -i PATH="$TOOLS" HOME="$BATS_TEST_TMPDIR" STUB_LOG="$BATS_TEST_TMPDIR/log")
  "${environment[@]}" bash -c '. "$1/hooks/pre-command"' job "$PLUGIN" &
  local first=$!
  "${environment[@]}" bash -c '. "$1/hooks/pre-command"' job "$PLUGIN" &
  local second=$!
  wait "$first"
  wait "$second"
  assert_equal "$(ls -A "$PLUGIN/bin")" monofo
  assert_equal "$(calls | wc -l)" 2
  cmp "$PLUGIN/bin/monofo" "$BATS_TEST_TMPDIR/built"
}

@test "without any of the four the error names them all and what to do" {
  run_hook pre-command
  assert_failure 2
  assert_line --partial "1. MONOFO_BIN: not set"
  assert_line --partial "2. $PLUGIN/bin/monofo"
  assert_line --partial "3. PATH"
  assert_line --partial "4. cargo build in $PLUGIN: no cargo on PATH"
  assert_line --partial "hint: install monofo"
}

@test "a build that fails is an error and leaves nothing behind" {
  stub_cargo
  run_hook pre-command STUB_CARGO_FAILS=1
  assert_failure 2
  assert_line --partial "4. cargo build in $PLUGIN: failed, see above"
  run ls -A "$PLUGIN/bin"
  refute_output --partial monofo
}

@test "a wrong MONOFO_BIN is an error, not a reason to take another" {
  stub_binary "$PLUGIN/bin/monofo"
  run_hook pre-command MONOFO_BIN="$BATS_TEST_TMPDIR/missing"
  assert_failure 2
  assert_line --partial "1. MONOFO_BIN: $BATS_TEST_TMPDIR/missing (not an executable file)"
  assert_equal "$(calls)" ""
}

@test "a relative MONOFO_BIN starts at the folder of the job" {
  stub_binary "$WORK/tools/chosen"
  run_hook pre-command MONOFO_VERBOSE=1 MONOFO_BIN=tools/chosen
  assert_success
  assert_output "monofo: using $WORK/tools/chosen (found by MONOFO_BIN)"
}

@test "a bare MONOFO_BIN is a file here, or else one on PATH" {
  stub_binary "$TOOLS/chosen"
  run_hook pre-command MONOFO_VERBOSE=1 MONOFO_BIN=chosen
  assert_success
  assert_output "monofo: using $TOOLS/chosen (found by MONOFO_BIN)"
  stub_binary "$WORK/chosen"
  run_hook pre-command MONOFO_VERBOSE=1 MONOFO_BIN=chosen
  assert_success
  assert_output "monofo: using $WORK/chosen (found by MONOFO_BIN)"
  run_hook pre-command MONOFO_BIN=missing
  assert_failure 2
  assert_line --partial "1. MONOFO_BIN: missing (not an executable file)"
}

@test "an empty file, as a cut copy leaves it, is no binary" {
  : >"$BATS_TEST_TMPDIR/empty"
  chmod +x "$BATS_TEST_TMPDIR/empty"
  run_hook pre-command MONOFO_BIN="$BATS_TEST_TMPDIR/empty"
  assert_failure 2
  assert_line --partial "1. MONOFO_BIN: $BATS_TEST_TMPDIR/empty (not an executable file)"
}

@test "a folder named monofo on the way is no binary" {
  mkdir -p "$PLUGIN/bin/monofo"
  stub_binary "$TOOLS/monofo"
  run_hook pre-command
  assert_success
  assert_equal "$(calls)" "monofo:hook:pre-command:$WORK"
}
