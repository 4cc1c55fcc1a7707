# One image for both daemons and the CLI; compose.yaml says which of them a container runs.
FROM debian:12-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY proto proto
COPY core core
COPY client client
COPY manager manager
COPY worker worker
COPY cli cli
RUN UV_PROJECT_ENVIRONMENT=/opt/swarmnet /opt/uv/bin/uv sync --frozen --no-dev --no-editable --compile-bytecode

FROM debian:12-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 iproute2 nftables iptables iputils-ping kmod \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/swarmnet /opt/swarmnet
ENV PATH=/opt/swarmnet/bin:$PATH
VOLUME /var/lib/swarmnet
STOPSIGNAL SIGTERM
CMD ["swarmnet", "--help"]
