# shellcheck shell=bash disable=SC2034
# Sourced after project.sh: which compiler builds WebAssembly, and how it is called.
#
#   rustup        the user's own cargo, whose standard library for the wasm targets is installed
#   distribution  Debian's rustc-web and cargo-web, which build that library from source
#
# scripts/setup chooses and writes the name to .tools/toolchain. Native code is always built by the
# user's own cargo. docs/development.md has the reasons.

module_target=wasm32-wasip1
core_test_target=wasm32-unknown-unknown
toolchain_record=$tools/toolchain

chosen_toolchain() { cat "$toolchain_record" 2>/dev/null; }

# wasm_cargo TARGET SUBCOMMAND ARGUMENTS... : cargo of the chosen toolchain.
wasm_cargo() {
  local target=$1 subcommand=$2
  shift 2
  case $(chosen_toolchain) in
    rustup) cargo "$subcommand" --target "$target" "$@" ;;
    distribution) distribution_cargo "$target" "$subcommand" "$@" ;;
    *) fail "no toolchain for WebAssembly is chosen" "run: make setup" ;;
  esac
}

distribution_cargo() {
  local target=$1 subcommand=$2 flags=
  shift 2
  # Debian ships WASI's C library outside of rustc's own tree.
  [ "$target" != "$module_target" ] || flags="-Clink-self-contained=no -L/usr/lib/wasm32-wasi"
  # `cargo clippy` would start the user's clippy, which cannot read what this compiler wrote.
  local command=(/usr/bin/cargo "$subcommand")
  [ "$subcommand" != clippy ] || command=(/usr/bin/cargo-clippy clippy)
  # -Zbuild-std is unstable; RUSTC_BOOTSTRAP lets a stable compiler take it.
  RUSTC_BOOTSTRAP=1 CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc RUSTFLAGS=$flags \
    "${command[@]}" --target "$target" -Zbuild-std=std,panic_abort "$@"
}

# wasm_bindgen_version : the version of the crate; the test runner must be of exactly this one.
wasm_bindgen_version() {
  awk '/^name = "wasm-bindgen"$/ { getline; gsub(/"/, "", $3); print $3 }' "$root/Cargo.lock"
}

# wasm_bindgen_runner VERSION : path of a test runner of that version, on PATH or in .tools.
wasm_bindgen_runner() {
  local runner
  for runner in "$(command -v wasm-bindgen-test-runner)" "$tools/bin/wasm-bindgen-test-runner"; do
    if [ -x "$runner" ] && [ "$("$runner" --version 2>/dev/null | awk '{ print $2 }')" = "$1" ]; then
      say "$runner"
      return
    fi
  done
  return 1
}
