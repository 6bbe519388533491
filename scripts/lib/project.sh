# shellcheck shell=bash disable=SC2034
# Sourced by every script: where the project is, how to speak, how to install what is missing.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tools=$root/.tools
venv=$root/.venv
cargo_deny_record=$tools/cargo-deny # the path of the one to use; scripts/setup writes it
image_readers=(skopeo umoci docker-registry) # programs, and the names of Debian's packages
kubectl_record=$tools/kubectl-program # likewise

# One target directory for everything, whatever the user's cargo configuration says.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}

# rustup's directory is missing from PATH in shells that read no profile.
command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin

# test_program NAME ARGUMENTS... : builds and runs one program of tests. Features and workspace are the same for all, whatever a
# program needs, so that no crate is built again for the next one.
test_program() {
  local features=test-chaos,test-clients,test-envoy,test-manifests,test-ops,test-page,test-synapse,test-workers
  cargo test --workspace --features "$features" --no-fail-fast --test "$@"
}

say() { printf '%s\n' "$@"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# fail MESSAGE... : each argument is one line; the last ones say what to do next.
fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# chromium_program : the browser of the tests, or nothing.
chromium_program() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name"; then return; fi
  done
}

# qemu_program : QEMU's user mode for programs of this machine.
qemu_program() { say "qemu-$(uname -m)"; }

# version_at_least VERSION MAJOR MINOR : compares the first two numbers of VERSION.
version_at_least() {
  local major=${1%%.*} rest=${1#*.}
  local minor=${rest%%[!0-9]*}
  [ "$major" -gt "$2" ] || { [ "$major" -eq "$2" ] && [ "${minor:-0}" -ge "$3" ]; }
}

# time_limit SECONDS COMMAND... : macOS has no timeout(1), but both systems ship perl.
time_limit() {
  perl -e '
    my ($seconds, @command) = @ARGV;
    my $child = fork // die "fork: $!";
    if (!$child) { exec @command or exit 127 }
    $SIG{ALRM} = sub { kill TERM => $child; waitpid $child, 0; warn "    gave up after $seconds s\n"; exit 124 };
    alarm $seconds;
    waitpid $child, 0;
    exit($? >> 8 || $? & 127);
  ' "$@"
}

can_apt() { have apt-get && { [ "$(id -u)" -eq 0 ] || have sudo; }; }

# apt_install PACKAGE... : installs Debian packages, as root or through sudo. Fails without either.
apt_install() {
  can_apt || return 1
  say "    installing with apt: $*"
  apt_get install "$@" || { apt_get update && apt_get install "$@"; }
}

apt_get() {
  local as_root=(env DEBIAN_FRONTEND=noninteractive)
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo "${as_root[@]}")
    [ -t 0 ] || as_root=(sudo -n "${as_root[@]:1}") # nobody is there to type a password
  fi
  "${as_root[@]}" apt-get --quiet=2 --yes --no-install-recommends "$@"
}
