#!/bin/sh
# Runs in every probe pod. Serves its own name, and tries in parallel what the controller requests in its environment, each
# repeatedly until it works or the time is over:
#   PROBE_LIMIT      seconds to keep trying
#   PROBE_NAMESPACE  namespace of the probe pods
#   PROBE_API        host names and addresses of the API, separated by spaces
#   PROBE_NAMES      type/name/address words: the required answers of DNS queries
#   PROBE_PEERS      names of the pods to reach
#   PROBE_SERVICES   addresses of the Service in front of all probe pods
# Each result is one line with tabs: probe, ok or no, check, target, output. The last line is: probe, end.
set -u

account=/var/run/secrets/kubernetes.io/serviceaccount
port=8080
patience=1
self=$(hostname)
end=$(($(date +%s) + PROBE_LIMIT))

report() {
  printf 'probe\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(printf '%s' "$4" | tr '\t\r\n' '   ')"
}

# attempt CHECK TARGET COMMAND...: a failure is reported if it differs from the previous one. COMMAND waits $patience
# seconds for DNS: at first briefly, since the server may have gone; later longer, since the machine may be slow.
attempt() {
  check=$1 target=$2 last='' tries=0
  shift 2
  while :; do
    tries=$((tries + 1)) patience=$((tries > 5 ? 5 : 1))
    if seen=$("$@" 2>&1); then
      report ok "$check" "$target" "$seen"
      return 0
    fi
    if [ "$seen" != "$last" ]; then
      report no "$check" "$target" "$seen"
      last=$seen
    fi
    [ "$(date +%s)" -lt "$end" ] || return 1
    sleep 0.2
  done
}

bracketed() {
  case $1 in *:*) printf '[%s]' "$1" ;; *) printf '%s' "$1" ;; esac
}

family() {
  case $1 in *:*) echo ipv6 ;; *) echo ipv4 ;; esac
}

# Print the pod $2 from the API at $1. The token goes through a pipe, since other users can read arguments of a process.
pod() {
  printf 'Authorization: Bearer %s\n' "$(cat "$account/token")" |
    RES_OPTIONS="timeout:$patience" curl -sS -f --noproxy '*' --max-time $((2 + patience)) \
      --cacert "$account/ca.crt" -H @- \
      "https://$(bracketed "$1")/api/v1/namespaces/$PROBE_NAMESPACE/pods/$2"
}

api() {
  pod "$1" "$self" | grep -q '"serviceAccountName": "default"' && echo "answers, token accepted"
}

addresses() {
  object=$(pod "${PROBE_API##* }" "$1" 2>&1) || { echo "$object"; return 1; }
  printf '%s' "$object" | tr -d ' \n' | grep -o '"podIPs":\[[^]]*\]' | grep -o '"ip":"[^"]*"' | cut -d '"' -f 4
}

name_of() {
  curl -sS -f --noproxy '*' --max-time 2 "http://$(bracketed "$1"):$port/cgi-bin/hostname"
}

reach_pod() {
  seen_name=$(name_of "$2" 2>&1) || { echo "$2: $seen_name"; return 1; }
  echo "$2 answers as $seen_name"
  [ "$seen_name" = "$1" ]
}

# With peers, an answer from this pod itself proves nothing about other nodes.
reach_service() {
  seen_name=$(name_of "$1" 2>&1) || { echo "$1: $seen_name"; return 1; }
  echo "$1 answers as $seen_name"
  [ -z "$PROBE_PEERS" ] || [ "$seen_name" != "$self" ]
}

resolve() {
  answer=$(nslookup -type="$1" -timeout="$patience" -retry=1 "$2" 2>&1)
  records=$(printf '%s\n' "$answer" | awk '/^Name:/ { named = 1 } named && /^Address/ { print $NF }')
  echo "${records:-$answer}"
  printf '%s\n' "$records" | grep -q -x -F "$3"
}

reach_peer() {
  list=''
  until list=$(addresses "$1") && [ -n "$list" ]; do
    [ "$(date +%s)" -lt "$end" ] || { report no pod "$1" "its addresses are not known: $list"; return 1; }
    sleep 0.2
  done
  for address in $list; do
    attempt pod "$1 $(family "$address")" reach_pod "$1" "$address" &
  done
  wait
}

httpd -f -p "$port" -h /www &
jobs=''
for host in $PROBE_API; do
  attempt api "$host" api "$host" &
  jobs="$jobs $!"
done
for word in $PROBE_NAMES; do
  type=${word%%/*} rest=${word#*/}
  attempt dns "$type ${rest%%/*}" resolve "$type" "${rest%%/*}" "${rest#*/}" &
  jobs="$jobs $!"
done
for address in $PROBE_SERVICES; do
  attempt service "$(family "$address")" reach_service "$address" &
  jobs="$jobs $!"
done
for peer in $PROBE_PEERS; do
  reach_peer "$peer" &
  jobs="$jobs $!"
done
# shellcheck disable=SC2086 # process ids, as words
wait $jobs
printf 'probe\tend\n'
wait
