# The broker alone, as one static program, with the authorities that it trusts by default: no shell, no package manager, no
# client-side code in the image.
#
#   docker build -t veilmq --build-arg VEILMQ_REVISION="$(git rev-parse --short=12 HEAD)" .
#   docker run --read-only -p 1883:1883 -p 127.0.0.1:9464:9464 -v veilmq-data:/var/lib/veilmq veilmq

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# What `veilmq_build_info` says; the repository itself is not part of the context.
ARG VEILMQ_REVISION=unknown
# glibc is linked in, which needs the target to be named: build scripts and macros stay dynamic then.
RUN set -eu; \
    target="$(rustc -vV | sed -n 's/^host: //p')"; \
    RUSTFLAGS='-C target-feature=+crt-static --cfg poly1305_backend="soft"' cargo build --release --locked --package veilmq --target "$target"; \
    install -D -m 0755 "target/$target/release/veilmq" /image/usr/bin/veilmq; \
    install -D -m 0644 config/container.toml /image/etc/veilmq/veilmq.toml; \
    install -D -m 0644 config/mosquitto-no-auth.conf /image/mosquitto-no-auth.conf; \
    install -D -m 0644 -t /image/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt; \
    install -D -m 0644 -t /image/usr/share/doc/veilmq LICENSE-APACHE LICENSE-MIT; \
    install -d -m 0750 -o 1883 -g 1883 /image/var/lib/veilmq; \
    install -d -m 0755 -o 1883 -g 1883 /image/mosquitto/config /image/mosquitto/data /image/mosquitto/log

FROM scratch
COPY --from=build /image /
# The user and group that Mosquitto's image uses, and its folders: a new volume takes the owner of the folder it is mounted on.
USER 1883:1883
# Without `-c` the first of these files is used: that of Mosquitto's image where a volume brings one, otherwise our own.
ENV PATH=/usr/bin \
    VEILMQ_CONFIG=/mosquitto/config/mosquitto.conf:/etc/veilmq/veilmq.toml
VOLUME /var/lib/veilmq
EXPOSE 1883 8883 9001 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["veilmq", "health"]
ENTRYPOINT ["veilmq"]
