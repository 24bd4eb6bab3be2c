#!/bin/sh
# The bare commands that make a cluster, as short as they can be: what `devenv up` is measured against.
# Takes what is cached for it (node image, image store) and the files of prepared nodes; checks, keeps and reports nothing.
#   bare.sh up NAME FOLDER      FOLDER holds settings (shell variables), nodes (lines "node address"), and of each node
#                               NODE.tar with its files and NODE.yml with kubeadm's configuration; the first one is made by init
#   bare.sh down NAME FOLDER
set -eu
action=$1 name=$2 folder=$3
# image, store, prefix, gateway, server, kubectl
. "$folder/settings"
nodes=$(cut -d' ' -f1 "$folder/nodes")
first=$(echo "$nodes" | head -n 1)
on() { node=$1 && shift && podman exec --interactive "$name-$node" "$@"; }

make_node() {
    node=$1 address=$2 data=$folder/data/$1
    mkdir -p "$data/kubelet" "$data/etcd"
    cp -al "$store" "$data/containerd"
    for file in io.containerd.metadata.v1.bolt/meta.db io.containerd.snapshotter.v1.overlayfs/metadata.db; do
        cp --remove-destination "$store/$file" "$data/containerd/$file"
    done
    podman run --detach --name "$name-$node" --hostname "$node" --runtime runc --privileged --cgroupns private \
        --pids-limit -1 --ulimit nofile=20000:20000 --ulimit nproc=30000:30000 --systemd always \
        --stop-signal SIGRTMIN+3 --tmpfs /run:rw,mode=755 --tmpfs /tmp:rw,mode=1777 --no-hosts --log-driver none \
        --network "$name" --env DEVENV_ADDRESSES="$address/$prefix" --env DEVENV_GATEWAYS="$gateway" \
        --volume "$data/containerd:/var/lib/containerd" --volume "$data/kubelet:/var/lib/kubelet" \
        --volume "$data/etcd:/var/lib/etcd" "$image" /usr/local/sbin/node-init >/dev/null
}

prepare() {
    # The first tries come before systemd has its bus.
    for _ in $(seq 100); do
        ! on "$1" systemctl is-system-running --wait </dev/null >/dev/null 2>&1 || break
        sleep 0.1
    done
    on "$1" tar --extract --directory / <"$folder/$1.tar"
    on "$1" sh -c 'systemctl daemon-reload && systemctl enable --quiet kubelet &&
        systemctl enable --quiet --now devenv-network containerd $(cd /etc/systemd/system && ls devenv-*.service)' </dev/null
}

kubeadm() {
    on "$2" kubeadm "$1" --config /dev/stdin --ignore-preflight-errors SystemVerification,Swap <"$folder/$2.yml" >"$folder/$2.log" 2>&1
}

up() {
    podman network create --ipam-driver none "$name" >/dev/null
    while read -r node address; do make_node "$node" "$address" </dev/null & done <"$folder/nodes"
    wait
    ip address add "$gateway/$prefix" dev "$(podman network inspect "$name" | sed -n 's/.*"network_interface": "\(.*\)".*/\1/p')"
    for node in $nodes; do prepare "$node" & done
    wait
    upload=
    [ "$(echo "$nodes" | grep -c '^master')" -eq 1 ] || upload=--upload-certs
    on "$first" kubeadm init --config /dev/stdin $upload --ignore-preflight-errors SystemVerification,Swap \
        <"$folder/$first.yml" >"$folder/$first.log" 2>&1
    on "$first" cat /etc/kubernetes/admin.conf </dev/null | sed "s#server: .*#server: $server#" >"$folder/kubeconfig"
    for node in $(echo "$nodes" | grep '^master' | tail -n +2); do kubeadm join "$node"; done
    for node in $(echo "$nodes" | grep -v '^master'); do kubeadm join "$node" & done
    wait
    "$kubectl" --kubeconfig "$folder/kubeconfig" wait --for=condition=Ready node --all --timeout=180s >/dev/null
    "$kubectl" --kubeconfig "$folder/kubeconfig" --namespace kube-system wait --for=condition=Available deployment/coredns \
        --timeout=180s >/dev/null
}

down() {
    for node in $nodes; do
        podman rm --force --volumes --time 0 "$name-$node" >/dev/null 2>&1 || echo "no container $name-$node" >&2
    done
    podman network rm --force "$name" >/dev/null 2>&1 || echo "no network $name" >&2
}

"$action"
