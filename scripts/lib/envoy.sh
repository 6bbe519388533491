# shellcheck shell=bash
# Sourced after project.sh: which Envoy runs the module. scripts/setup chooses and writes its path.

envoy_record=$tools/envoy

# Before 1.37 a callback's foreign function calls act on the wrong stream.
envoy_minimum=1.37

chosen_envoy() { cat "$envoy_record" 2>/dev/null; }

# envoy_version BINARY : prints its version, such as 1.40.0.
envoy_version() {
  "$1" --version 2>/dev/null | sed -n 's|.*version: [^/]*/\([0-9][0-9.]*\)[^/]*/.*|\1|p'
}

# envoy_is_recent VERSION
envoy_is_recent() { version_at_least "$1" "${envoy_minimum%.*}" "${envoy_minimum#*.}"; }
