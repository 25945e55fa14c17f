#!/bin/sh
# Install a Debian package, unless a command shows that it is already there:
#   ./install_package.sh PACKAGE COMMAND [ARGUMENT...]
set -eu
package=$1
shift
if "$@" >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root=sudo
else
    echo "missing: $package. Run: sudo apt-get install $package" >&2
    exit 1
fi
# apt-get's output goes to stderr, to keep make's own readable.
$as_root apt-get -qq update >&2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$package" >&2
"$@" >/dev/null
