# Builds Freehold, then ships the one binary and PostgreSQL's client programs, for a user without rights.

FROM rust:1-slim-bookworm AS build
WORKDIR /build
# The memory allocator is built from its C sources.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
# Dependencies first: they change seldom, so their layer is kept. The benchmarks that Cargo.toml names must be files.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/proxies && touch benches/parts.rs benches/proxies/main.rs \
    && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --release --locked && rm -r src
COPY src ./src
# The placeholders were newer than the sources may be.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked --bin freehold

FROM debian:bookworm-slim
# pg_dump of the newest major reads every older one; PostgreSQL's own package archive has it.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && apt-get install -y --no-install-recommends postgresql-client-18 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/freehold --shell /usr/sbin/nologin freehold \
    && install -d -o freehold -g freehold -m 0700 /var/lib/freehold \
    && install -d -m 0755 /etc/freehold
COPY --from=build /build/target/release/freehold /usr/local/bin/freehold
USER freehold
WORKDIR /var/lib/freehold
VOLUME /var/lib/freehold
EXPOSE 6432 6433
# Docker's SIGTERM drains: running transactions may end.
ENTRYPOINT ["/usr/local/bin/freehold"]
CMD ["serve", "--config", "/etc/freehold/freehold.toml"]
