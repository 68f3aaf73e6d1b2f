#!/usr/bin/env bash
# Set-up on Debian 12 (or alike): the system packages that are missing, .venv, the project in it with exact versions.
# Running it again costs nothing; it does its work again when it, pyproject.toml or constraints.txt has changed.
#
#   deploy/setup.sh            everything (demo, tests, checks)
#   PYTHON=python3.12 deploy/setup.sh
#   MEDPIPE_NO_APT=1           never touch system packages, only say what is missing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

stamp=.venv/.medpipe-setup
fingerprint() {
  { cat pyproject.toml constraints.txt deploy/build-constraints.txt deploy/setup.sh medpipe/review/viewer_package.py
    pwd; } | sha256sum | cut -d' ' -f1
}

# Programs by the Debian package that brings them.
programs=(
  "orthanc:Orthanc" "dcmtk:storescu" "openssl:openssl" "dicom3tools:dciodvfy" "g++:g++" "make:make" "util-linux:setpriv"
  "chromium:chromium" "docker-compose:docker-compose" "systemd:systemd-analyze"
)
has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

missing_packages() {
  local entry
  for entry in "${programs[@]}"; do
    has "${entry#*:}" || echo "${entry%%:*}"
  done
  [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || echo orthanc-dicomweb
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || has initdb || echo postgresql
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && [ -x .venv/bin/medpipe ] \
  && [ -z "$(missing_packages)" ]; then
  exit 0
fi

# A Python that fits, with its headers (pydensecrf2 is compiled) and venv module.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null 2>&1 && "$candidate" - <<'END' >/dev/null 2>&1
import sys
sys.exit(not (3, 11) <= sys.version_info < (3, 13))
END
    then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}
python_lacks() { # what of venv and headers is missing for $1
  "$1" -c 'import venv, ensurepip' >/dev/null 2>&1 || echo "venv"
  "$1" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").is_file())' >/dev/null 2>&1 || echo "dev"
}

wanted=($(missing_packages))
python=$(find_python) || { wanted+=(python3 python3-venv python3-dev); python=""; }
if [ -n "$python" ]; then
  for part in $(python_lacks "$python"); do
    case "$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')" in
      /usr/bin/*) wanted+=("$(basename "$(readlink -f "$python")")-$part") ;;
      *) die "$python has no ${part/dev/header files (Python.h)}: install a complete Python 3.11 or 3.12, or set PYTHON" ;;
    esac
  done
fi

if [ "${#wanted[@]}" -gt 0 ]; then
  install="apt-get install --no-install-recommends ${wanted[*]}"
  if ! command -v apt-get >/dev/null 2>&1; then
    die "missing (as Debian calls them): ${wanted[*]}. Install these with your system's own means, then run this again."
  elif [ -n "${MEDPIPE_NO_APT:-}" ] || [ "$(id -u)" -ne 0 ]; then
    die "system packages are missing. Run as root, then run this again: $install"
  fi
  say "installing system packages: ${wanted[*]}"
  # Orthanc and PostgreSQL are run by ourselves, on ports of our own: the packages' services need not start.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive $install --yes; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get failed (whole log: $log)"
  fi
  rm -f "$log"
  if [ -d /run/systemd/system ]; then
    for service in orthanc postgresql; do
      if [[ " ${wanted[*]} " == *" $service "* ]]; then
        systemctl disable --quiet "$service" || true
        say "the system service $service is installed but disabled"
      fi
    done
  fi
  [ -n "$python" ] || python=$(find_python) || die "no Python 3.11 or 3.12 found"
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c '' 2>/dev/null; then
  say "making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
rm -f "$stamp"

pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet --quiet)
say "installing pip itself"
"${pip[@]}" install --constraint constraints.txt pip
say "installing medpipe and what it needs (2 to 5 minutes; pydensecrf2 is compiled)"
"${pip[@]}" install --constraint constraints.txt --build-constraint deploy/build-constraints.txt \
  --editable . --group test --group check
.venv/bin/python -m pip --disable-pip-version-check check --quiet >&2 || die "the installed packages contradict each other"

say "installing the viewer (50 MB, where it is not there yet)"
if ! .venv/bin/python deploy/fetch_viewer.py; then
  [ "${CI:-}" != true ] || die "the viewer could not be fetched"
  say "going on without the viewer: no pictures in the browser; the next set-up tries again"
  exit 0
fi

fingerprint >"$stamp"
say "done: .venv/bin/medpipe"
