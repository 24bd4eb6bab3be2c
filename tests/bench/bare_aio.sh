#!/bin/sh
# The bare commands that make a cluster of one node, as short as they can be: what `devenv up --profile aio` is measured against.
# Takes what is cached for it (node image, image store) and the files of a prepared node; checks, keeps and reports nothing.
#   bare_aio.sh up NAME FOLDER      FOLDER holds settings (shell variables), files.tar and kubeadm.yml
#   bare_aio.sh down NAME FOLDER
set -eu
action=$1 name=$2 folder=$3
# image, store, address, prefix, gateway, kubectl
. "$folder/settings"

up() {
    cp -al "$store" "$folder/containerd"
    for file in io.containerd.metadata.v1.bolt/meta.db io.containerd.snapshotter.v1.overlayfs/metadata.db; do
        cp --remove-destination "$store/$file" "$folder/containerd/$file"
    done
    mkdir "$folder/kubelet" "$folder/etcd"
    podman network create --ipam-driver none "$name" >/dev/null
    podman run --detach --name "$name" --hostname master-0 --runtime runc --privileged --cgroupns private \
        --pids-limit -1 --ulimit nofile=20000:20000 --ulimit nproc=30000:30000 --systemd always \
        --stop-signal SIGRTMIN+3 --tmpfs /run:rw,mode=755 --tmpfs /tmp:rw,mode=1777 --no-hosts --log-driver none \
        --network "$name" --env DEVENV_ADDRESSES="$address/$prefix" --env DEVENV_GATEWAYS="$gateway" \
        --volume "$folder/containerd:/var/lib/containerd" --volume "$folder/kubelet:/var/lib/kubelet" \
        --volume "$folder/etcd:/var/lib/etcd" "$image" /usr/local/sbin/node-init >/dev/null
    ip address add "$gateway/$prefix" dev "$(podman network inspect "$name" | sed -n 's/.*"network_interface": "\(.*\)".*/\1/p')"
    # The first tries come before systemd has its bus.
    for _ in $(seq 100); do
        ! podman exec "$name" systemctl is-system-running --wait >/dev/null 2>&1 || break
        sleep 0.1
    done
    podman exec --interactive "$name" tar --extract --directory / <"$folder/files.tar"
    podman exec "$name" sh -c 'systemctl daemon-reload && systemctl enable --quiet --now devenv-network containerd && systemctl enable --quiet kubelet'
    podman exec --interactive "$name" kubeadm init --config /dev/stdin --ignore-preflight-errors SystemVerification,Swap \
        <"$folder/kubeadm.yml" >"$folder/kubeadm.log" 2>&1
    podman exec "$name" cat /etc/kubernetes/admin.conf | sed "s#server: .*#server: https://$address:6443#" >"$folder/kubeconfig"
    "$kubectl" --kubeconfig "$folder/kubeconfig" wait --for=condition=Ready node/master-0 --timeout=120s >/dev/null
    "$kubectl" --kubeconfig "$folder/kubeconfig" --namespace kube-system wait --for=condition=Available deployment/coredns \
        --timeout=120s >/dev/null
}

down() {
    podman rm --force --volumes --time 0 "$name" >/dev/null 2>&1 || echo "no container $name" >&2
    podman network rm --force "$name" >/dev/null 2>&1 || echo "no network $name" >&2
}

"$action"
