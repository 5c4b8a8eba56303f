crane ls mirror.example/library/alpine
crane digest mirror.example/library/alpine:latest
crane pull --format=oci mirror.example/library/alpine:latest alpine
