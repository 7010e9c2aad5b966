#!/usr/bin/env bash
# Installs the tools that the build and the local stack need, on Debian and Ubuntu as root or with sudo. Elsewhere it
# prints which are missing. It changes nothing if all are installed.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }

# Debian's package would start its own server on port 5432. Only `triggers up` and the tests start servers.
no_main_cluster() {
  local conf=/etc/postgresql-common/createcluster.conf
  if [ ! -e "$conf" ]; then
    $sudo mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | $sudo tee "$conf" >/dev/null
  fi
}

java_major() { java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1; }
has_postgres() { command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; }
has_openssl() { pkg-config --exists openssl 2>/dev/null || [ -e /usr/include/openssl/ssl.h ]; }
# `python3 -m venv` needs a part that Debian packs separately.
has_venv() { command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null; }
has_recent_java() { command -v java >/dev/null && [ "$(java_major)" -ge 17 ] 2>/dev/null; }

missing=() packages=()
need() { missing+=("$1"); packages+=("$2"); }
command -v cc >/dev/null || need 'a C compiler (cc)' gcc
command -v c++ >/dev/null || need 'a C++ compiler (c++)' g++
command -v make >/dev/null || need 'make' make
command -v pkg-config >/dev/null || need 'pkg-config' pkg-config
# The Kafka client uses the system's OpenSSL: it takes minutes to build, and the system keeps it up to date.
has_openssl || need 'the headers of OpenSSL (libssl)' libssl-dev
command -v curl >/dev/null || need 'curl' curl
command -v jq >/dev/null || need 'jq, which the shell lines of README.md use' jq
has_venv || need 'Python 3 with venv, which checks the Python client' python3-venv
command -v valgrind >/dev/null || need 'valgrind, which counts instructions' valgrind
command -v setpriv >/dev/null || need 'setpriv' util-linux
if ! has_recent_java; then
  java=default-jre-headless
  if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then java=openjdk-17-jre-headless; fi
  need 'Java 17 or newer (java)' "$java"
fi
command -v mvn >/dev/null || need 'Maven (mvn)' maven
has_postgres || need 'a PostgreSQL server (postgres, initdb)' postgresql

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -eq 0 ]; then sudo=
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo=sudo
  elif command -v sudo >/dev/null && [ -t 0 ]; then sudo=sudo
  else sudo=none; fi
  if ! command -v apt-get >/dev/null || [ "$sudo" = none ]; then
    say 'Missing on this machine:'
    for i in "${!missing[@]}"; do say "  - ${missing[$i]} (Debian package: ${packages[$i]})"; done
    say 'Install these and run the command again.'
    exit 1
  fi
  say "Installing: ${packages[*]}"
  no_main_cluster
  export DEBIAN_FRONTEND=noninteractive
  $sudo apt-get update -q >&2
  $sudo apt-get install -q -y --no-install-recommends "${packages[@]}" >&2
fi

if ! command -v cargo >/dev/null; then
  if [ -x "$HOME/.cargo/bin/cargo" ]; then
    say "Rust is installed but not on PATH: run '. \$HOME/.cargo/env' and try again."
    exit 1
  fi
  say 'Installing Rust with rustup (the version is pinned in rust-toolchain.toml).'
  # A folder that nobody else can write: the script is run.
  rustup=$(mktemp -d)
  trap 'rm -rf "$rustup"' EXIT
  if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs -o "$rustup/init.sh"; then
    say 'Missing on this machine: Rust (cargo). Install it from https://rustup.rs and run the command again.'
    exit 1
  fi
  sh "$rustup/init.sh" -y --profile minimal --default-toolchain none >&2
  say "Run '. \$HOME/.cargo/env' in this shell to have cargo on PATH."
fi
