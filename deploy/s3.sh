#!/bin/sh
# SeaweedFS as one process: the S3 gateway listens to the network, everything behind it only to this container, because
# master, volume and filer require no password. The one identity that may use S3 is written from the environment.
set -eu
umask 077

data=${S3_DATA:-/data}
identities=${S3_IDENTITIES:-/run/s3/identities.json}
bucket=${S3_BUCKET:?S3_BUCKET: name the bucket}
key=${AWS_ACCESS_KEY_ID:?AWS_ACCESS_KEY_ID: choose a name, for example car}
secret=${AWS_SECRET_ACCESS_KEY:?AWS_SECRET_ACCESS_KEY: make one with openssl rand -hex 32}

case "$key$secret$bucket" in
    *[!A-Za-z0-9_./+=-]*)
        echo "S3_BUCKET, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: use letters, digits and _./+=- only" >&2
        exit 2
        ;;
esac

sed -e "s|@KEY@|$key|" -e "s|@SECRET@|$secret|" "${S3_TEMPLATE:-/etc/car/s3-identities.json}" >"$identities"

# The gateway takes an identity of its own from these, one that may do everything; ours stands in the file.
unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY

exec weed server -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -volume.max=0 -master.volumeSizeLimitMB=1024 \
    -master.telemetry=false -filer -s3 -s3.ip.bind="${S3_BIND:-0.0.0.0}" -s3.port="${S3_PORT:-8333}" \
    -s3.config="$identities" -s3.port.iceberg=0 -s3.port.lance=0 -s3.autoCreateBucket=false "$@"
