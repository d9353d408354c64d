#!/usr/bin/env bash
# Builds the images for real, runs them, calls them from outside, stops them: without Docker.
#
#     sudo deploy/image/check.sh            # Debian 12 or newer; some minutes, 6 GB of disk
#
# The first is BentoML's own, made by `bentoml containerize`; the second is the one of the Space.
# Both but for two things: their packages are those for a CPU, and their base is made here with
# debootstrap, so that no registry of images is needed. The Space's takes no weights along, since
# there may be no hub to fetch them from, nor compiled Python, which takes long and changes nothing.
# VENV names the virtual environment with BentoML in it.
# It works on a copy of the tree, so that whatever else runs there is left alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

BENTOML=$(realpath "${VENV:-.venv}")/bin/bentoml
PORT=${PORT:-3210}
NAME=magenta-bento-check
BASE=docker.io/library/python:3.11-slim-bookworm # as service.py names it
SPACE_BASE=docker.io/library/$(sed -n 's/^FROM //p' deploy/spaces/Dockerfile)
SPACE_PORT=$(sed -n 's/^app_port: //p' deploy/spaces/README.md)
CERTIFICATES=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
# In a container or a small virtual machine there is neither overlayfs nor a user namespace.
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot

work=$(mktemp -d)
export BENTOML_HOME=$work/bentoml
export TMPDIR=$work/tmp
mkdir -p "$BENTOML_HOME" "$TMPDIR"
storage=(--root "$work/storage" --runroot "$work/run")
buildah() { command buildah "${storage[@]}" "$@"; }
finish() {
    [[ -z ${server:-} ]] || kill -KILL "$server" 2>/dev/null || true
    buildah rm --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
say() { printf '\n== %s\n' "$*"; }

missing=()
for program in buildah debootstrap curl; do
    type -P "$program" >/dev/null || missing+=("$program")
done
if ((${#missing[@]})); then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir "$work/tree"
git ls-files -z | xargs --null cp --parents --target-directory "$work/tree"
cd "$work/tree"

say "a base image from Debian's packages"
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
    bookworm "$work/debian" >"$work/debootstrap.log"
rm -rf "$work"/debian/usr/lib/python3*/EXTERNALLY-MANAGED "$work"/debian/var/cache/apt/archives/*.deb
ln -s python3 "$work/debian/usr/bin/python"
cp "$CERTIFICATES" "$work/debian/etc/ssl/certs/ca-certificates.crt"
base=$(buildah from scratch)
buildah add --quiet "$base" "$work/debian" / >/dev/null
buildah config --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt --env UV_NATIVE_TLS=1 "$base"
buildah commit --quiet --rm "$base" "$BASE" >/dev/null
buildah tag "$BASE" "$SPACE_BASE"
rm -rf "$work/debian"

say "bentoml build, with the packages for a CPU"
sed --in-place "s#requirements-cuda.txt#requirements.txt#" bentofile.yaml
"$BENTOML" build --version check --output tag

say "bentoml containerize"
# BentoML calls `buildah` by its name, without our storage.
mkdir "$work/bin"
printf '#!/bin/sh\nexec %s %s "$@"\n' "$(type -P buildah)" "${storage[*]}" >"$work/bin/buildah"
chmod +x "$work/bin/buildah"
began=$SECONDS
PATH="$work/bin:$PATH" "$BENTOML" containerize magenta-bento:check --backend buildah \
    --opt network=host --opt pull-never --opt layers --image-tag "$NAME" >"$work/containerize.log" 2>&1 ||
    { tail -40 "$work/containerize.log"; exit 1; }
echo "took $((SECONDS - began)) s"

say "its layers"
buildah push --quiet "$NAME" "oci:$work/oci:latest"
python3 deploy/image/layers.py "$work/oci"

# serves PORT USER COMMAND…: runs a container's command until it is healthy; sets server, worker.
serves() {
    local port=$1 user=$2
    shift 2
    "$@" >"$work/server.log" 2>&1 &
    server=$!
    for _ in $(seq 600); do
        curl --silent --fail "localhost:$port/health" >/dev/null && break
        kill -0 "$server" || { cat "$work/server.log"; exit 1; }
        sleep 1
    done
    curl --silent --fail-with-body "localhost:$port/health"
    echo
    worker=$(pgrep --uid "$user" --full _bentoml_impl.worker) # no such process, no success
    echo "user $user runs the worker, process $worker"
}

# plays PORT FORMAT: two seconds of music, looked at from outside.
plays() {
    curl --silent --fail-with-body "localhost:$1/generate/text" \
        --form prompt="disco funk" --form duration=2 --form format="$2" --output "$work/music.$2"
    "$(dirname "$BENTOML")/python" -c "
import sys, soundfile
samples, rate = soundfile.read(sys.argv[1])
print(sys.argv[1].rpartition('.')[2], rate, samples.shape, f'peak {abs(samples).max():.2f}')
assert rate == 48_000 and samples.shape[1] == 2 and abs(samples).max() > 0.01
assert abs(len(samples) / rate - 2) < 0.1
" "$work/music.$2"
}

# Whoever stops a container sends SIGTERM to its first process: the supervisor.
ends() {
    local status
    kill -TERM "$(ps -o ppid= -p "$worker" | tr -d ' ')"
    wait "$server" && status=0 || status=$?
    server=
    echo "SIGTERM ends it: exit code $status"
    ((status == 0))
}

say "it serves, as its own user"
container=$(buildah from --pull-never "$NAME")
serves "$PORT" 1034 buildah run --network host "$container" -- \
    sh -c "exec \$BENTO_PATH/env/docker/entrypoint.sh serve --port $PORT"
for format in wav mp3 ogg; do plays "$PORT" $format; done
# An upload goes through ffmpeg, which is a package of Python's here.
"$(dirname "$BENTOML")/python" -c "
import sys, imageio_ffmpeg, subprocess
subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-i', sys.argv[1], sys.argv[2]], check=True)
" "$work/music.wav" "$work/music.m4a"
curl --silent --fail-with-body "localhost:$PORT/generate/audio" \
    --form "audio_file=@$work/music.m4a" --form duration=1 --output "$work/again.mp3"
echo "an M4A was taken as a prompt: $(stat --format %s "$work/again.mp3") bytes of MP3"
ends
buildah rm "$container" >/dev/null
buildah rmi --force "$NAME" >/dev/null

say "the Space's image"
space=$work/space
mkdir "$space"
cp requirements.txt "$space/requirements-cuda.txt"
sed '/models download/d' deploy/spaces/Dockerfile >"$space/Dockerfile"
"$(dirname "$BENTOML")/python" -m pip wheel . --quiet --disable-pip-version-check \
    --no-deps --no-build-isolation --wheel-dir "$space"
began=$SECONDS
buildah build --quiet --network host --pull-never --layers=false \
    --build-arg MODEL=demo --env PIP_NO_COMPILE=1 --tag "$NAME-space" "$space" >"$work/space.log" 2>&1 ||
    { tail -40 "$work/space.log"; exit 1; }
echo "took $((SECONDS - began)) s"
container=$(buildah from --pull-never "$NAME-space")
serves "$SPACE_PORT" 1000 buildah run --network host "$container" -- \
    sh -c "exec $(sed -n 's/^CMD //p' deploy/spaces/Dockerfile | tr -d '[],"')"
plays "$SPACE_PORT" mp3
ends
