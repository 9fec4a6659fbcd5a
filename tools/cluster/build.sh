#!/usr/bin/env bash
# Builds a Kubernetes control plane from Debian's sources, and fetches Prometheus, for make cluster-sim:
#
#     tools/cluster/build.sh [FOLDER]        default .cache/cluster; prints the folder of the binaries
#
# kube-apiserver, kube-controller-manager and kube-scheduler 1.20.2 are the newest that any registry here has as source
# with its servers: Debian bookworm's. Go 1.19 and etcd are bookworm's packages, unpacked and not installed, so nothing on
# the machine changes and no rights are needed. Every download is compared with its SHA-256. What is there is kept: the
# folder's name holds the versions and the digest of this script.
set -euo pipefail

mirror=${CLUSTER_DEBIAN_MIRROR:-http://deb.debian.org}
keyring=${CLUSTER_DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
folder=$(mkdir -p "${1:-.cache/cluster}" && cd "${1:-.cache/cluster}" && pwd)
version=v1.20.2
made=$folder/$version-$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-12)
work=$made.work

if [ -x "$made/kube-scheduler" ]; then
    echo "$made"
    exit 0
fi
say() { printf 'control plane: %s\n' "$*" >&2; }
for tool in apt-get dpkg-deb sha256sum tar; do
    command -v "$tool" >/dev/null || { say "$tool is missing: this builds on Debian and what is made of it"; exit 1; }
done

# An apt of its own: the machine's lists, caches and sources stay as they are.
apt() {
    apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@" >&2
}

fetch() {
    mkdir -p "$work"/{lists,cache/archives}/partial "$work/downloads"
    local signed="[signed-by=$keyring]"
    printf '%s\n' "deb $signed $mirror/debian bookworm main" "deb-src $signed $mirror/debian bookworm main" >"$work/sources.list"
    say "fetch Debian's sources of Kubernetes, and Go 1.19, etcd and Prometheus"
    apt update
    (
        cd "$work/downloads"
        apt source --download-only kubernetes=1.20.5+really1.20.2-1.1+deb12u1
        apt download golang-1.19-go=1.19.8-2 golang-1.19-src=1.19.8-2 etcd-server=3.4.23-4+b4 \
            golang-github-modern-go-reflect2-dev=1.0.2-2 prometheus=2.42.0+ds-5+deb12u1
        sha256sum --check --quiet <<'SUMS'
b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc  kubernetes_1.20.5+really1.20.2.orig.tar.gz
545123039b6c79e75cf2d86528781a825424cf33ce9d3f4513d772d7144cd531  golang-1.19-go_1.19.8-2_amd64.deb
2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a  golang-1.19-src_1.19.8-2_all.deb
3a9445d4560ad6de1c375756b2a17d97713df44cbd20a658c871fe108af7ef5d  etcd-server_3.4.23-4+b4_amd64.deb
af150a5172cf4c19bb321a53e67103e7fb18d07c1baa1e816a235155265d3948  golang-github-modern-go-reflect2-dev_1.0.2-2_all.deb
81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55  prometheus_2.42.0+ds-5+deb12u1_amd64.deb
SUMS
    )
}

unpack() {
    say unpack
    mkdir -p "$work/debian" "$work/go/src/k8s.io/kubernetes" "$made"
    for package in "$work"/downloads/*.deb; do dpkg-deb -x "$package" "$work/debian"; done
    # Debian's patches concern kubectl alone, which is not built.
    tar xzf "$work"/downloads/kubernetes_*.orig.tar.gz -C "$work/go/src/k8s.io/kubernetes" --strip-components=1
    cp "$work"/debian/usr/bin/{etcd,prometheus,promtool} "$made"
    # The vendored reflect2 1.0.1 crashes servers that Go 1.18 or newer has built.
    local vendored=$work/go/src/k8s.io/kubernetes/vendor/github.com/modern-go/reflect2
    rm "$vendored"/*.{go,s}
    cp "$work"/debian/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$vendored"
}

# The one generated file that the sources leave out: what server-side apply knows of types.
generate_openapi() {
    say "generate the OpenAPI definitions"
    local root=k8s.io/kubernetes packages
    go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    packages=$(grep --include='*.go' -rl '+k8s:openapi-gen=' pkg cmd plugin staging/src/k8s.io \
        | grep -v -e '_test\.go$' -e code-generator -e sample- -e zz_generated \
        | xargs -n1 dirname | sed -e 's#^staging/src/#vendor/#' -e "s#^#$root/#" | sort -u | paste -sd,)
    "$work/openapi-gen" --go-header-file hack/boilerplate/boilerplate.generatego.txt --input-dirs "$packages" \
        --output-package $root/pkg/generated/openapi --output-file-base zz_generated.openapi \
        --report-filename "$work/violations" --output-base "$work/go/src"
}

build() {
    export PATH=$work/debian/usr/lib/go-1.19/bin:$PATH GOROOT=$work/debian/usr/lib/go-1.19 GOPATH=$work/go
    export GO111MODULE=off CGO_ENABLED=0 GOCACHE=$work/gocache GOPROXY=off
    cd "$work/go/src/k8s.io/kubernetes"
    generate_openapi
    local flags="-s -w" at server
    for at in k8s.io/kubernetes/vendor/k8s.io/component-base/version k8s.io/component-base/version; do
        flags+=" -X $at.gitVersion=$version -X $at.gitMajor=1 -X $at.gitMinor=20 -X $at.gitTreeState=archive"
    done
    for server in kube-apiserver kube-controller-manager kube-scheduler; do
        say "build $server"
        go build -ldflags "$flags" -o "$made/$server.new" "./cmd/$server"
        mv "$made/$server.new" "$made/$server"
    done
}

rm -rf "$work" "$made"
(
    fetch
    unpack
    build
)
chmod -R u+w "$work"
rm -rf "$work"
echo "$made"
