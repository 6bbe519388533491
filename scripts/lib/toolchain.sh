# shellcheck shell=bash disable=SC2034
# Sourced after project.sh: which compiler builds WebAssembly, and how it is called.
#
#   rustup        the user's own cargo, whose standard library for the wasm target is installed
#   distribution  Debian's rustc-web and cargo-web, which build that library from source
#
# scripts/setup chooses and writes the name to .tools/toolchain. Native code is always built by the
# user's own cargo. docs/internals/development.md has the reasons.

module_target=wasm32-wasip1
toolchain_record=$tools/toolchain
wasi_libc=/usr/lib/wasm32-wasi # Debian's
binaryen_version=132
# What rustc allows itself for this target, and the vectors below. wasm-opt must know it, and uses nothing else.
module_features=(bulk-memory bulk-memory-opt call-indirect-overlong extended-const multivalue mutable-globals
  nontrapping-float-to-int reference-types sign-ext simd)

chosen_toolchain() { cat "$toolchain_record" 2>/dev/null; }

# wasm_cargo TARGET SUBCOMMAND ARGUMENTS... : cargo of the chosen toolchain. The user's own RUSTFLAGS have no say.
wasm_cargo() {
  local target=$1 subcommand=$2
  shift 2
  case $(chosen_toolchain) in
    rustup)
      CARGO_ENCODED_RUSTFLAGS=$(encoded_flags rustc) cargo "$subcommand" --target "$target" "$@"
      ;;
    distribution) distribution_cargo "$target" "$subcommand" "$@" ;;
    *) fail "no toolchain for WebAssembly is chosen" "run: make setup" ;;
  esac
}

distribution_cargo() {
  local target=$1 subcommand=$2 flags=()
  shift 2
  # Debian ships WASI's C library outside of rustc's own tree.
  [ "$target" != "$module_target" ] || flags=(-Clink-self-contained=no "-L$wasi_libc")
  # The tests are a program, which starts in an object of that library. The library has no threads: the test harness
  # names them, and starts none in WASI.
  [ "$subcommand" != test ] ||
    flags+=("-Clink-arg=$wasi_libc/crt1-command.o" -Clink-arg=--unresolved-symbols=ignore-all)
  # `cargo clippy` would start the user's clippy, which cannot read what this compiler wrote.
  local command=(/usr/bin/cargo "$subcommand")
  [ "$subcommand" != clippy ] || command=(/usr/bin/cargo-clippy clippy)
  # -Zbuild-std is unstable; RUSTC_BOOTSTRAP lets a stable compiler take it.
  RUSTC_BOOTSTRAP=1 CARGO=/usr/bin/cargo RUSTC=/usr/bin/rustc \
    CARGO_ENCODED_RUSTFLAGS=$(encoded_flags /usr/bin/rustc ${flags[@]+"${flags[@]}"}) \
    "${command[@]}" --target "$target" -Zbuild-std=std,panic_abort "$@"
}

# What LLVM inlines by itself, as a cost in its own units: little, so that the module stays small although it is optimized
# for speed. What every request passes says by #[inline] that it is worth more.
module_inline_cost=60

# Vectors of 128 bits, which WebAssembly 2.0 has: V8 takes them on every processor that Envoy is built for. Most copies become
# a few of them, so the module is smaller, and texts are looked through sixteen bytes at a time.
module_vectors=+simd128

# encoded_flags RUSTC FLAG... : the flags for CARGO_ENCODED_RUSTFLAGS, and those by which no path of this machine gets
# into what is built. So two builds with one compiler are equal, wherever they are made. Of two that match a path the
# later one counts.
encoded_flags() {
  local rustc=$1 folder
  local flags=("${@:2}")
  flags+=("-Cllvm-args=-inline-threshold=$module_inline_cost" "-Ctarget-feature=$module_vectors")
  flags+=("--remap-path-prefix=$root=." "--remap-path-prefix=$CARGO_TARGET_DIR=target")
  flags+=("--remap-path-prefix=$("$rustc" --print sysroot)/lib/rustlib/src/rust=/rust")
  # The folder's name tells from where the crates were downloaded.
  for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
    flags+=("--remap-path-prefix=${folder%/}=/crates")
  done
  (IFS=$'\x1f' && printf '%s' "${flags[*]}")
}

# wasm_opt ARGUMENTS... : Binaryen's optimizer, which scripts/setup has put into .tools.
wasm_opt() { PATH=$tools/node:$PATH node "$tools/wasm-opt/bin/wasm-opt" "$@"; }

# wasm_opt_version : of the one in .tools, if any.
wasm_opt_version() { wasm_opt --version 2>/dev/null | awk '{ print $3 }'; }
