#!/usr/bin/env bash
# Stands in for the agent's artifact commands, with artifacts in the folder $STUB_STORE.
# $STUB_MODE makes it misbehave: old, mute, deaf, deny, slow, damage, cut, vanish.
set -eu
mode=${STUB_MODE:-}
[[ $1 == artifact ]] || exit 1
verb=$2
shift 2
build=${BUILDKITE_BUILD_ID:-} step='' format='%j %p %c\n' empty='' arguments=()

unknown() {
  echo "fatal: flag provided but not defined: -$1" >&2
  exit 1
}
log() {
  [[ $mode == mute ]] || echo $'\e[38;5;48m2026-01-01 00:00:00 INFO  \e[0m \e[0m'"$1"$'\e[0m' >&2
}
while (($#)); do
  case $1 in
    --build) build=$2; shift ;;
    --step) step=$2; shift ;;
    --format) format=$2; shift ;;
    --allow-empty-results) [[ $mode != old ]] || unknown "$1"; empty=1 ;;
    --sha256) ;;
    --*) unknown "$1" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
name=${arguments[0]}
home=$STUB_STORE/$(printf %s "$build" | sha256sum | cut -c 1-16)
mkdir -p "$home"

matches() {
  local path
  for path in "$home"/*.path; do
    [[ -e $path && $(< "$path") == "$name" ]] || continue
    [[ -z $step || $(< "${path%.path}.step") == "$step" ]] || continue
    echo "${path%.path}"
  done
}

case $mode in
  deny)
    echo "fatal: POST refused for token $BUILDKITE_AGENT_ACCESS_TOKEN: 401" >&2
    exit 1
    ;;
  slow) exec sleep 60 ;;
esac

case $verb in
  upload)
    if [[ ! -f $name || $mode == deaf ]]; then
      log "No files matched paths: $name"
      exit 0
    fi
    at=$home/$(date +%s%N)-$$
    cp -- "$name" "$at.data"
    printf %s "${BUILDKITE_STEP_KEY:-}" > "$at.step"
    printf %s "$BUILDKITE_JOB_ID" > "$at.job"
    printf %s "$name" > "$at.path"
    log "Artifact uploads completed successfully"
    ;;
  search)
    found=''
    while read -r at; do
      found=1
      line=$format
      [[ $mode == old ]] || line=${line//%T/$(sha256sum < "$at.data" | cut -d ' ' -f 1)}
      line=${line//%s/$(stat -c %s "$at.data")}
      line=${line//%j/$(< "$at.job")}
      printf %s "${line//%p/"$name"}"
    done < <(matches)
    if [[ -z $found && -z $empty ]]; then
      echo "fatal: no matches found for \"$name\"" >&2
      exit 1
    fi
    ;;
  shasum)
    newest=$(matches | tail -n 1)
    sha256sum < "$newest.data" | cut -d ' ' -f 1
    ;;
  download)
    newest=$(matches | tail -n 1)
    if [[ -z $newest || $mode == vanish ]]; then
      echo "fatal: failed to download artifacts: No artifacts found for downloading" >&2
      exit 1
    fi
    target=${arguments[1]}/$name
    mkdir -p "$(dirname -- "$target")"
    cp -- "$newest.data" "$target"
    [[ $mode != damage ]] || printf X | dd of="$target" bs=1 conv=notrunc status=none
    [[ $mode != cut ]] || truncate -s -1 "$target"
    ;;
esac
