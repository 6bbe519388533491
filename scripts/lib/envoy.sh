# shellcheck shell=bash disable=SC2034
# Sourced after project.sh: which Envoy runs the module. scripts/setup chooses and writes its path.

envoy_record=$tools/envoy

# Before 1.37 a callback's foreign function calls act on the wrong stream.
envoy_minimum=1.37

# The versions that are tested, oldest first: the last of each minor, of the oldest the first. The wheel of 1.38.3 was
# built without V8. ENVOY_VERSIONS names others, or fewer.
envoy_newest=1.40.0
read -r -a envoy_versions <<<"${ENVOY_VERSIONS:-1.37.0 1.38.2 1.39.3 $envoy_newest}"

chosen_envoy() { cat "$envoy_record" 2>/dev/null; }

# envoy_version BINARY : prints its version, such as 1.40.0.
envoy_version() {
  "$1" --version 2>/dev/null | sed -n 's|.*version: [^/]*/\([0-9][0-9.]*\)[^/]*/.*|\1|p'
}

# envoy_is_recent VERSION
envoy_is_recent() { version_at_least "$1" "${envoy_minimum%.*}" "${envoy_minimum#*.}"; }

# envoy_of_version VERSION : where scripts/setup puts the Envoy of one version, beside the chosen one.
envoy_of_version() { say "$venv/envoy/$1"; }

# envoy_binary DIRECTORY : the program in a directory of envoy_of_version.
envoy_binary() { say "$1/envoy/_bin/envoy"; }

# envoy_program BINARY : the program itself, where BINARY is the script of the wheel in .venv that starts it.
envoy_program() {
  case $(head -c 2 "$1") in
    '#!') say "$venv"/lib/python3*/site-packages/envoy/_bin/envoy ;;
    *) say "$1" ;;
  esac
}
