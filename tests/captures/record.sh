#!/usr/bin/env bash
# Records the captures in this folder from real programs: curl, dig, openssl, nginx and dnsmasq in two network
# namespaces joined by a virtual cable. Nothing leaves the machine.
#
# Debian packages: curl bind9-dnsutils dnsmasq-base nginx-light openssl tcpdump wireshark-common iproute2
# iputils-ping netcat-openbsd. Run as root. Key material is thrown away; the captures hold none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
client=ptc-$$ server=pts-$$
cleanup() {
  ip netns pids "$server" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns pids "$client" 2>/dev/null | xargs -r kill 2>/dev/null || true
  ip netns del "$client" 2>/dev/null || true
  ip netns del "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

ip netns add "$client"
ip netns add "$server"
ip link add eth0 netns "$client" type veth peer name eth0 netns "$server"
for side in "$client 10" "$server 80"; do
  set -- $side
  ip -n "$1" link set lo up
  ip -n "$1" addr add "192.0.2.$2/24" dev eth0
  ip -n "$1" addr add "2001:db8::$2/64" dev eth0 nodad
  ip -n "$1" link set eth0 up
  ip netns exec "$1" sysctl -q net.ipv6.conf.eth0.router_solicitations=0
done
in_client() { ip netns exec "$client" "$@"; }
in_server() { ip netns exec "$server" "$@"; }

names=(www.example.com ads.example.net intranet.example.org)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=${names[0]}" \
  -addext "subjectAltName=$(printf 'DNS:%s,' "${names[@]}" | sed 's/,$//')" \
  -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
mkdir -p "$work/www"
head -c 40000 /dev/zero | tr '\0' 'x' >"$work/www/big.txt"
echo hello >"$work/www/index.html"
cat >"$work/nginx.conf" <<CONF
daemon off; error_log $work/error.log; pid $work/nginx.pid; worker_processes 1; user root;
events { worker_connections 64; }
http {
  access_log off; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f;
  uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  server {
    listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
    ssl_certificate $work/cert.pem; ssl_certificate_key $work/key.pem; ssl_protocols TLSv1.2 TLSv1.3;
    root $work/www;
  }
}
CONF
in_server nginx -c "$work/nginx.conf" -p "$work" &
in_server dnsmasq --no-daemon --no-resolv --no-hosts --user=root --bind-interfaces --listen-address=192.0.2.80 \
  --listen-address=2001:db8::80 $(printf -- '--address=/%s/192.0.2.80 --address=/%s/2001:db8::80 ' \
  "${names[0]}" "${names[0]}" "${names[1]}" "${names[1]}" "${names[2]}" "${names[2]}") >/dev/null 2>&1 &
for _ in $(seq 100); do
  in_client nc -z 192.0.2.80 443 && in_client nc -z 192.0.2.80 80 && break
  sleep 0.1
done

record() { # FILE-NAME COMMAND…: records what COMMAND, run in the client, sends and receives
  local file=$1; shift
  ip netns exec "$client" tcpdump -q -U --immediate-mode -i eth0 -s 0 -w "$work/$file" 'ip or ip6' 2>"$work/tcpdump.log" &
  local dump=$!
  until grep -q 'listening on' "$work/tcpdump.log" 2>/dev/null; do sleep 0.05; done
  "$@"
  sleep 0.6
  kill -TERM "$dump"; wait "$dump" || true
  : >"$work/tcpdump.log"
}
fetch() { in_client curl -s -o /dev/null --cacert "$work/cert.pem" --max-time 10 "$@"; }
resolve() { # NAME FAMILY-FLAG: makes curl use our server for NAME
  local address=192.0.2.80; [ "$2" = -6 ] && address='[2001:db8::80]'
  printf -- '--resolve %s:443:%s --resolve %s:80:%s %s' "$1" "$address" "$1" "$address" "$2"
}

dns() {
  in_client dig +tries=1 @192.0.2.80 www.example.com A >/dev/null
  in_client dig +tries=1 @192.0.2.80 ads.example.net A >/dev/null
  in_client dig +tries=1 @2001:db8::80 intranet.example.org AAAA >/dev/null
  in_client dig +tries=1 +tcp @192.0.2.80 www.example.com AAAA >/dev/null
}
web() {
  dns
  fetch $(resolve www.example.com -4) --tlsv1.3 https://www.example.com/
  fetch $(resolve www.example.com -6) --tlsv1.2 --tls-max 1.2 https://www.example.com/big.txt
  fetch $(resolve ads.example.net -4) --tlsv1.2 --tls-max 1.2 https://ads.example.net/
  fetch $(resolve ads.example.net -6) http://ads.example.net/
  fetch $(resolve intranet.example.org -4) http://intranet.example.org/big.txt
  in_client ping -q -c 2 192.0.2.80 >/dev/null
  in_client ping -q -c 2 2001:db8::80 >/dev/null
}
session() {
  echo Q | in_client openssl s_client -connect 192.0.2.80:443 -servername www.example.com -tls1_3 >/dev/null 2>&1
  echo Q | in_client openssl s_client -connect '[2001:db8::80]:443' -noservername -tls1_2 >/dev/null 2>&1
  in_client nc -z 192.0.2.80 81 || true
}
fragments() {
  in_client ping -q -c 1 -s 4000 192.0.2.80 >/dev/null
  in_client ping -q -c 1 -s 4000 2001:db8::80 >/dev/null
}

record web.pcap web
record openssl.pcap session
record fragments.pcap fragments
# A server that announces a tiny segment size has the ClientHello split over many segments.
ip -n "$server" route replace 192.0.2.0/24 dev eth0 advmss 88
ip -n "$client" link set eth0 gso_max_segs 1
split() { fetch $(resolve www.example.com -4) --tlsv1.3 https://www.example.com/; }
record split-hello.pcap split

cp "$work/web.pcap" "$here/web.pcap"
editcap -F pcapng "$work/openssl.pcap" "$here/openssl.pcapng"
gzip -9 -n -c "$work/fragments.pcap" >"$here/fragments.pcap.gz"
cp "$work/split-hello.pcap" "$here/split-hello.pcap"

# Loopback, in Linux's cooked format: one host is both ends.
ip netns exec "$server" tcpdump -q -U --immediate-mode -i any -y LINUX_SLL2 -s 0 -w "$work/loopback.pcap" 'host 127.0.0.1 or host ::1' 2>"$work/tcpdump.log" &
dump=$!
until grep -q 'listening on' "$work/tcpdump.log"; do sleep 0.05; done
in_server curl -s -o /dev/null --max-time 10 http://127.0.0.1/
in_server curl -s -o /dev/null --max-time 10 'http://[::1]/'
sleep 0.6
kill -TERM "$dump"; wait "$dump" || true
cp "$work/loopback.pcap" "$here/loopback.pcap"
ls -l "$here"
