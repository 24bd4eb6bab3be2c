#!/bin/sh
# Network settings of a node that do not survive its restart.
#   network apply   apply them (at every boot before containerd, and when they change)
#   network check   exit with 0 if all of them are in force
# Reads the lines of /etc/devenv/network.d/*.conf:
#   address A | family ipv4|ipv6 | nameserver A | sysctl NAME VALUE | route ipv4|ipv6 DESTINATION GATEWAY
# and loads the nftables files /etc/devenv/network.d/*.nft, each of one table "inet devenv_<file's stem>".
# Also updates /etc/hosts in pods on the host network.
set -eu

settings=/etc/devenv/network.d
resolver=/run/devenv/resolv.conf
protocol=177 # marks the routes of this script, so that obsolete ones can be identified

lines() { cat "$settings"/*.conf | sed -n "s/^$1 //p"; }
has_family() { lines family | grep -qx "$1"; }
flag() { [ "$1" = ipv6 ] && echo -6 || echo -4; }
sysctl_file() { echo "/proc/sys/$(echo "$1" | tr . /)"; }
routes_desired() { lines "route $1" | sort; }
routes_present() { ip "$(flag "$1")" route show proto $protocol | awk '$2 == "via" {print $1, $3}' | sort; }

# Resolvers for CoreDNS: those of the node that pods can reach (not loopback, and only families of the node), without search domains.
# Without any, the node's own address, which refuses at once; an unreachable resolver costs seconds.
resolv_conf() {
  given=$(lines nameserver)
  for server in ${given:-$(awk '$1 == "nameserver" {print $2}' /etc/resolv.conf)}; do
    case $server in
      0.* | 127.* | ::1 | :: | ::ffff:127.* | fe80:*) ;;
      *:*) ! has_family ipv6 || echo "nameserver $server" ;;
      *) ! has_family ipv4 || echo "nameserver $server" ;;
    esac
  done | head -n 3 | grep . || lines address | sed -n 's/^/nameserver /; 1p'
}

wait_for_addresses() {
  for address in $(lines address); do
    tries=0
    until ip -oneline address show | grep -qF " $address/"; do
      tries=$((tries + 1))
      [ $tries -lt 300 ] || { echo "the node has not got its address $address" >&2; exit 1; }
      sleep 0.2
    done
  done
}

# A gateway is reachable once the node has its address and, with router advertisements, its subnet.
set_route() {
  tries=0
  until ip "$1" route replace "$2" via "$3" proto $protocol 2> /dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 150 ] || exec ip "$1" route replace "$2" via "$3" proto $protocol
    sleep 0.2
  done
}

# kubelet copies /etc/hosts into a pod on the host network only once: kube-proxy would forever use the old address of the control
# plane.
hosts_of_pod() { echo '# Kubernetes-managed hosts file (host network).'; cat /etc/hosts; }
pods_with_other_hosts() {
  grep -lsx '# Kubernetes-managed hosts file (host network).' /var/lib/kubelet/pods/*/etc-hosts | while read -r file; do
    grep -q '^# Entries added by HostAliases' "$file" || hosts_of_pod | cmp -s - "$file" || echo "$file"
  done
}

# nft prints rules in another form than it reads them, so its output after loading a file is the reference.
nft_rules() { nft --stateless list table inet "devenv_$(basename "$1" .nft)"; }
nft_loaded() { echo "${resolver%/*}/$(basename "$1").loaded"; }
nft_tables() { nft list tables inet | awk '$3 ~ /^devenv_/ {print $3}'; }

apply() {
  lines sysctl | while read -r name value; do echo "$value" > "$(sysctl_file "$name")"; done
  mount --make-rshared /
  wait_for_addresses
  for family in $(lines family); do
    routes_desired "$family" | while read -r destination gateway; do
      set_route "$(flag "$family")" "$destination" "$gateway"
    done
    desired=$(routes_desired "$family")
    routes_present "$family" | while read -r destination gateway; do
      echo "$desired" | grep -qxF "$destination $gateway" ||
        ip "$(flag "$family")" route delete "$destination" via "$gateway" proto $protocol
    done
  done
  mkdir -p "${resolver%/*}"
  for file in "$settings"/*.nft; do
    [ ! -e "$file" ] || { nft --file "$file"; nft_rules "$file" > "$(nft_loaded "$file")"; }
  done
  for table in $(nft_tables); do [ -e "$settings/${table#devenv_}.nft" ] || nft delete table inet "$table"; done
  pods_with_other_hosts | while read -r file; do hosts_of_pod > "$file"; done
  resolv_conf > "$resolver.new"
  mv "$resolver.new" "$resolver"
}

check() {
  lines sysctl | while read -r name value; do [ "$(tr '\t' ' ' < "$(sysctl_file "$name")")" = "$value" ] || exit 1; done
  findmnt --noheadings --output PROPAGATION / | grep -q shared
  for family in $(lines family); do [ "$(routes_desired "$family")" = "$(routes_present "$family")" ] || exit 1; done
  for file in "$settings"/*.nft; do
    [ ! -e "$file" ] || nft_rules "$file" 2> /dev/null | cmp -s - "$(nft_loaded "$file")"
  done
  [ -z "$(pods_with_other_hosts)" ]
  [ "$(resolv_conf)" = "$(cat "$resolver")" ]
}

case ${1:-} in
  apply) apply ;;
  check) check ;;
  *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;;
esac
