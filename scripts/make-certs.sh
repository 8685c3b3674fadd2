#!/bin/sh
# Makes certs/: a certificate authority (ca.pem, ca.key) and a certificate for the servers, signed by it (server.pem,
# server.key), valid for `rabbitmq`, `redis`, `localhost` and the names given as arguments. Keeps an existing authority,
# and makes a new server certificate at every call.
set -eu
command -v openssl >/dev/null || { echo "make-certs.sh: openssl is not installed: install it" >&2; exit 1; }
cd "$(dirname "$0")/.."
mkdir -p certs
chmod 700 certs
cd certs
names="DNS:rabbitmq,DNS:rabbitmq2,DNS:rabbitmq3,DNS:redis,DNS:localhost,IP:127.0.0.1"
for name; do names="$names,DNS:$name"; done

if [ ! -e ca.key ]; then
    (umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key 2>/dev/null)
    openssl req -x509 -new -key ca.key -sha256 -days 3650 -out ca.pem -subj "/CN=SMS simulator authority" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
fi
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server.key 2>/dev/null
openssl req -new -key server.key -subj "/CN=SMS simulator servers" -out server.csr
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n' \
    "$names" >server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 825 -sha256 -extfile server.ext \
    -out server.pem 2>/dev/null
rm -f server.csr server.ext
# The servers run as their own users inside the containers, so everyone may read the key. Only the owner may read the folder.
chmod 644 ca.pem server.pem server.key
echo "certs/ is ready: server.pem is valid for $names" >&2
