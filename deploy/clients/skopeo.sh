skopeo list-tags docker://mirror.example/library/alpine
skopeo inspect --raw docker://mirror.example/library/alpine:latest
skopeo copy --all docker://mirror.example/library/alpine:latest dir:alpine
