# pgvigil beside PostgreSQL: see docs/sidecar.md. Two stages: the second holds the program, the client
# programs of PostgreSQL, and tini, which collects what a killed pg_dump leaves behind.
#
#   docker build -t pgvigil .
#   docker build -t pgvigil --build-arg PG_MAJORS="16 17" --build-arg UID=1000 --build-arg GID=1000 .

FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN cargo build --release --locked --bin pgvigil

FROM debian:bookworm-slim
# Debian has 15 only; the others come from PostgreSQL's own archive. They are for servers that are
# reached over the network: with exec the programs of the server's own container run.
ARG PG_MAJORS="14 15 16 17 18"
ARG UID=10001
ARG GID=10001
RUN set -eu; \
    apt-get update; \
    apt-get install -y --no-install-recommends ca-certificates curl tini; \
    install -d /usr/share/postgresql-common/pgdg; \
    curl -fsSo /usr/share/postgresql-common/pgdg/apt.postgresql.org.asc https://www.postgresql.org/media/keys/ACCC4CF8.asc; \
    echo "deb [signed-by=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc] https://apt.postgresql.org/pub/repos/apt bookworm-pgdg main" >/etc/apt/sources.list.d/pgdg.list; \
    apt-get update; \
    for major in $PG_MAJORS; do apt-get install -y --no-install-recommends "postgresql-client-$major"; done; \
    apt-get purge -y --auto-remove curl; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid "$GID" pgvigil; \
    useradd --uid "$UID" --gid "$GID" --home-dir /var/lib/pgvigil --no-create-home --shell /usr/sbin/nologin pgvigil; \
    install -d -m 0700 -o "$UID" -g "$GID" /var/lib/pgvigil /backups
COPY --from=build /src/target/release/pgvigil /usr/local/bin/pgvigil
ENV LANG=C.UTF-8
USER $UID:$GID
WORKDIR /var/lib/pgvigil
VOLUME /var/lib/pgvigil
VOLUME /backups
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["pgvigil", "status", "--alive"]
ENTRYPOINT ["tini", "--", "pgvigil"]
CMD ["daemon"]
