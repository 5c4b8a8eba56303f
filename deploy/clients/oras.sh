oras repo tags mirror.example/library/alpine
oras manifest fetch --descriptor mirror.example/library/alpine:latest
oras copy mirror.example/library/alpine:latest --to-oci-layout alpine:latest
