#!/bin/sh
# The secrets of deploy/compose.yaml: a folder that only you can enter, with a random password for each server in it.
# What is there stays. The files themselves are readable, because the containers' users are others than you.
#
#   deploy/secrets.sh
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
for name in database orthanc; do
  [ -s "secrets/$name" ] && continue
  head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' >"secrets/.$name"
  chmod 0444 "secrets/.$name"
  mv "secrets/.$name" "secrets/$name"
  echo "made: deploy/secrets/$name"
done
