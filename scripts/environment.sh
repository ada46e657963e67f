# Sourced by scripts/test and scripts/quickstart, never run by itself. `prepare_environment run|test` makes sure that everything they
# need is here: system packages (installed when root, else named), and .venv with this project installed in it, editable.
# `prepare_ceph` does it for the packages of `scripts/test --s3 ceph`, which nothing else needs.
# The second time it only compares a stamp. `run` is what users need; `test` adds the test tools.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

# Prints the first Python ≥ 3.11 on the PATH; a name may be there and still not run (version managers leave such stubs), so each is tried.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}

has_headers() { "$1" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' 2>/dev/null; }

# Prints the Debian packages whose work is not being done here. It looks for what is used, not for what is called so:
# a Python from elsewhere brings its own headers and venv. The compiler is for pyfuse3, which has no wheel.
missing_packages() { # run|test
  local python
  if python=$(find_python); then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$python-venv"
    has_headers "$python" || echo "$python-dev"
  else
    printf '%s\n' python3 python3-venv python3-dev
  fi
  command -v fusermount3 >/dev/null || echo fuse3
  command -v gcc >/dev/null || echo gcc
  [[ -e /usr/include/stdio.h ]] || echo libc6-dev
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists fuse3 2>/dev/null || echo libfuse3-dev
  if [[ $1 == test ]]; then
    command -v git >/dev/null || echo git
    command -v rsync >/dev/null || echo rsync
    command -v getfattr >/dev/null || echo attr
    command -v strace >/dev/null || echo strace
    # Who is not root can go without: the tests that need it are skipped, and say so.
    (( EUID )) || command -v systemd-analyze >/dev/null || echo systemd
  fi
}

# Runs a command without its chatter; when it fails, the chatter is what matters.
quietly() {
  local output status=0
  output=$("$@" 2>&1) || status=$?
  if (( status )); then
    say "$output"
    say "failed ($status): $*"
  fi
  return "$status"
}

# A whole Ceph of one machine, without a manager, which is not needed.
missing_ceph_packages() {
  command -v radosgw >/dev/null || echo radosgw
  command -v ceph-mon >/dev/null || echo ceph-mon
  command -v ceph-osd >/dev/null || echo ceph-osd
  { command -v ceph && command -v radosgw-admin && command -v ceph-authtool; } >/dev/null || echo ceph-common
}

prepare_ceph() { install_packages ceph; }

install_packages() { # run|test|ceph
  local missing list=missing_packages
  [[ $1 != ceph ]] || list=missing_ceph_packages
  mapfile -t missing < <("$list" "$1")
  (( ${#missing[@]} )) || return 0
  if (( EUID )) || ! command -v apt-get >/dev/null; then
    say "Some system packages are missing: ${missing[*]}"
    say "Please install them (on Debian and Ubuntu: sudo apt-get install ${missing[*]}) and run this again."
    return 1
  fi
  say "Installing system packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  quietly apt-get update
  quietly apt-get install --yes --no-install-recommends "${missing[@]}"
  mapfile -t missing < <("$list" "$1")
  if (( ${#missing[@]} )); then
    say "Still missing after the installation: ${missing[*]} (Python 3.11 or newer is needed)"
    return 1
  fi
}

# A test trains with PyTorch, which PyPI has for this only at 540 MB and more, with CUDA. Debian's is 150 MB with all it needs, 650 MB on the
# disk, and takes a minute and a half. It is not worth a failure: where it cannot be had, that test is skipped, and says so. It is tried once for
# each .venv; to try again: rm .venv/no-pytorch.
has_pytorch() { [[ -e /usr/lib/python3/dist-packages/torch ]]; }

install_pytorch() {
  (( EUID == 0 )) && command -v apt-get >/dev/null && ! has_pytorch && [[ ! -e $ROOT/.venv/no-pytorch ]] || return 0
  say "Installing python3-torch for one test (once, a minute or two)"
  export DEBIAN_FRONTEND=noninteractive
  { quietly apt-get update && quietly apt-get install --yes --no-install-recommends python3-torch python3-pil python3-numpy; } || {
    say "It could not be installed: the test that trains with it is skipped"
    : > "$ROOT/.venv/no-pytorch"
  }
}

# What an installation was made for. Another Python, other dependencies or another place need another one.
fingerprint() {
  "$ROOT/.venv/bin/python" -c 'import sys; print(sys.version_info >= (3, 11), *sys.version_info[:3], sys.prefix)' 2>/dev/null &&
    sha256sum < "$ROOT/pyproject.toml"
}

is_prepared() { # run|test
  local stamp now
  now=$(fingerprint) || return 1
  for stamp in "$ROOT/.venv/prepared-$1" "$ROOT/.venv/prepared-test"; do
    [[ -e $stamp && $now == "$(<"$stamp")" ]] && return 0
  done
  return 1
}

make_environment() { # run|test
  local venv=$ROOT/.venv extra=
  if [[ $(fingerprint) != True* || ! -x $venv/bin/pip ]]; then
    say "Making the virtual environment .venv"
    quietly "$(find_python)" -m venv --clear "$venv"
  fi
  [[ $1 == run ]] || extra="[$1]"
  say "Installing artifactmount$extra and what it needs into .venv (once, a minute or so)"
  quietly "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$ROOT$extra"
  fingerprint > "$venv/prepared-$1"
}

prepare_environment() { # run|test
  is_prepared "$1" && return
  # One at a time: a second one waits here and then finds the work done. The lock is on the folder itself, so it leaves no file.
  (
    set -e
    flock 9
    if ! is_prepared "$1"; then
      install_packages "$1"
      make_environment "$1"
      [[ $1 != test ]] || install_pytorch
    fi
  ) 9< "$ROOT"
}

# Opening it is the only honest test: in a container the file is often there and refused.
fuse_is_usable() { (: <> /dev/fuse) 2>/dev/null; }
