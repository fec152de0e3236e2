# syntax=docker/dockerfile:1
# livekit-spool, as a user without rights: docker build -t livekit-spool .
ARG RUST_IMAGE=rust:1-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
# The caches keep what was downloaded and compiled from one build to the next.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo fetch --locked && cargo build --locked --profile dist --bin livekit-spool \
    && install -D target/dist/livekit-spool /out/livekit-spool

FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 65532 livekit-spool \
    && useradd --system --uid 65532 --gid 65532 --home-dir /var/lib/livekit-spool --shell /usr/sbin/nologin livekit-spool \
    # A volume that is mounted here begins with this owner and these rights.
    && install -d -m 0700 -o livekit-spool -g livekit-spool /var/lib/livekit-spool
COPY --from=build /out/livekit-spool /usr/local/bin/livekit-spool
USER 65532:65532
WORKDIR /var/lib/livekit-spool
VOLUME /var/lib/livekit-spool
EXPOSE 7890 7891 7892
# The command line asks the process over the socket in its data directory, with the config that LIVEKIT_SPOOL_CONFIG names.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["livekit-spool", "ready"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["livekit-spool"]
CMD ["run"]
